"""Files of tensors: the bytes of safetensors' own writer, on the disk, and their digest."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from zofo.models import tensors as module
from zofo.models.tensors import PIECE, load_tensors, save_tensors

WIDE = (torch.uint64, torch.int64, torch.float64, torch.complex64, torch.float32, torch.uint32, torch.int32)
NARROW = (torch.bfloat16, torch.float16, torch.uint16, torch.int16, torch.float8_e4m3fn, torch.float8_e5m2)
DTYPES = (*WIDE, *NARROW, torch.int8, torch.uint8, torch.bool)
NAMES = ('q"\\', "é\n\t\x01\x1f\x7f", "\U0001f600", "a/b", "")
SHAPES = ((), (0,), (3,), (2, 0, 5), (5, 7), (PIECE - 3,), (2, PIECE))


def drawn(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randint(0, 2, shape, generator=generator).to(dtype)


def worlds() -> dict[str, dict[str, torch.Tensor]]:
    values = torch.randn(700, 900, generator=torch.Generator().manual_seed(0))
    return {
        "none": {},
        **{f"{dtype}"[6:]: {f"{shape}": drawn(dtype, shape) for shape in SHAPES} for dtype in DTYPES},
        "all in one": {f"{i % 3}.{dtype}": drawn(dtype, (i + 1,)) for i, dtype in enumerate(DTYPES)},
        "names": {
            name: values[:2] + i for i, name in enumerate(['q"\\', "é\n\t\x01\x1f\x7f", "\U0001f600", "a/b", ""])
        },
        "many": {f"layer.{i}": values[i] for i in range(700)},
        "turned, a part, a parameter": {"a": values.t(), "b": values[:, 3], "c": torch.nn.Parameter(values[2:4])},
    }


@pytest.mark.parametrize("world", worlds())
def test_as_the_library_writes(world: str, tmp_path: Path) -> None:
    tensors = worlds()[world]
    plain = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    save_file(plain, tmp_path / "theirs", {"format": "pt"})
    digest = save_tensors(tensors, tmp_path / "ours")
    written = (tmp_path / "ours").read_bytes()
    assert written == (tmp_path / "theirs").read_bytes()
    assert digest == hashlib.sha256(written).hexdigest()
    loaded = load_tensors(tmp_path / "ours")
    assert {name: (t.dtype, t.shape) for name, t in loaded.items()} == {n: (t.dtype, t.shape) for n, t in plain.items()}


def test_on_the_disk_when_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest trusts it: the tree's writer does not sync these files again."""
    synced: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append((os.fstat(handle).st_ino, os.fstat(handle).st_size)))
    save_tensors({"a": torch.zeros(PIECE), "b": torch.zeros(3)}, path := tmp_path / "file")
    assert synced == [(path.stat().st_ino, path.stat().st_size)]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("size", [3, PIECE])
def test_a_full_disk_names_the_file(size: int, tmp_path: Path) -> None:
    """The old file stays, and no draft does."""
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / ".file.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / 'file'}'"):
        save_tensors({"a": torch.zeros(size)}, tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_over_the_file_that_they_are_of(tmp_path: Path) -> None:
    """Loaded tensors are parts of a mapped file, whose bytes must stay while they are written."""
    values = torch.randn(2, PIECE, generator=torch.Generator().manual_seed(0))
    save_tensors({"a": values, "b": values[0, :9]}, path := tmp_path / "file")
    loaded = load_tensors(path)
    save_tensors({"c": loaded["a"][1], "b": loaded["b"]}, path)
    again = load_tensors(path)
    assert torch.equal(again["c"], values[1])
    assert torch.equal(again["b"], values[0, :9])


def test_what_is_no_file_of_tensors(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xff" * 20)
    with pytest.raises(ValueError, match="file: "):
        load_tensors(tmp_path / "file")


def test_a_dtype_that_is_not_known_here_is_the_librarys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"a": torch.arange(5, dtype=torch.bfloat16), "b": torch.ones(2, 3)}
    expected = save_tensors(tensors, tmp_path / "ours")
    monkeypatch.delitem(module._DTYPES, torch.bfloat16)
    assert save_tensors(tensors, tmp_path / "theirs") == expected
    assert (tmp_path / "theirs").read_bytes() == (tmp_path / "ours").read_bytes()
