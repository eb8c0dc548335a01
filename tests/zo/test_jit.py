"""numba's cache on disk may be missing, full, cut or of another making: the kernels compute all the same."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zofo.zo.kernels import jit


def add_one(x: Any) -> Any:
    return x + 1


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("numba.core.config.CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(jit, "_said", [])
    return tmp_path


def files(cache: Path) -> list[Path]:
    return sorted(p for p in cache.rglob("*") if p.suffix in (".nbi", ".nbc"))


def call() -> int:
    return int(jit.njit()(add_one)(np.int64(41)))


def test_it_is_kept_and_read_again(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert call() == 42
    assert len(files(cache)) == 2
    again = jit.njit()(add_one)
    assert again(np.int64(1)) == 2
    assert sum(again.stats.cache_hits.values()) == 1
    assert not caplog.records


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", [b"", b"zeros" * 20, None])
def test_damaged_files_cost_a_compilation(
    suffix: str, damage: bytes | None, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    call()
    (victim,) = (p for p in files(cache) if p.suffix == suffix)
    victim.write_bytes(victim.read_bytes()[:-20] if damage is None else damage)
    with caplog.at_level(logging.WARNING, "zofo"):
        assert call() == 42
        assert call() == 42
    assert len([r for r in caplog.records if "compiled anew" in r.getMessage()]) <= 1, "said once"


def test_a_disk_that_is_full(cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from numba.core import caching

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)
    with caplog.at_level(logging.WARNING, "zofo"):
        assert call() == 42
        assert call() == 42
    (record,) = caplog.records
    assert "No space left on device" in record.getMessage()
    assert "NUMBA_CACHE_DIR" in record.getMessage()
