"""What stands before the first step is read once: rows, tokenizer, and the bytes of the model for digests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.conftest import sentiment_rows, write_rows
from zofo import finetune
from zofo.api.memory import before_run
from zofo.data import formats
from zofo.models import room
from zofo.train.run_dir import RunDir
from zofo.zo import digests
from zofo.zo.journal import read_header


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Calls of what reads, in a run whose memory is not sure until its rows are known."""
    calls, bounds = Counter[str](), iter([before_run.UNKNOWN, 0])

    def counted(where: Any, name: str, kept: Any) -> None:
        def call(*args: Any, **how: Any) -> Any:
            calls[name] += 1
            return kept(*args, **how)

        monkeypatch.setattr(where, name, call)

    counted(digests, "tensor_sha256", digests.tensor_sha256)
    counted(AutoTokenizer, "from_pretrained", AutoTokenizer.from_pretrained)
    counted(formats, "_object", formats._object)
    monkeypatch.setattr(before_run, "_at_most", lambda *_: next(bounds))
    monkeypatch.setattr(before_run, "of", lambda device: room.Room(2**30, 2**40, "of memory"))
    return calls


def test_a_run_reads_everything_once(tiny_model_dir: Path, tmp_path: Path, counts: Counter[str]) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", sentiment_rows(60))
    run = finetune(str(tiny_model_dir), str(rows), "mezo", max_steps=1, batch_size=2, output_dir=tmp_path / "run")
    header = read_header(RunDir(run.path).journal)[0]
    assert counts == {
        "tensor_sha256": len(header["tensors"]),
        "from_pretrained": 1,
        "_object": 2 * 60,  # the head, which says what columns there are, and all of them
    }
