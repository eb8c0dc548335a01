"""How a run ended, as its files keep it: read back as it was written, and refused where no zofo wrote it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import sentiment_rows, write_rows
from tests.small_runs import SMALL
from zofo import InputError, evaluate, finetune
from zofo.train.ending import KINDS, STORED, Ending, well_formed


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path, module_rows: Path) -> Path:
    out = tmp_path_factory.mktemp("run")
    return finetune(str(tiny_model_dir), str(module_rows), "zero-shot", output_dir=out, **SMALL).path


@pytest.fixture(scope="module")
def module_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", sentiment_rows(40))


@pytest.mark.parametrize(
    "stored",
    [3, [], {}, {"kind": "fine"}, {"kind": "failed", "reason": 3}, {"kind": "going"}, {"kind": "failed", "step": True}],
)
@pytest.mark.parametrize("name", ["run.json", "manifest.json"])
def test_an_outcome_that_no_zofo_wrote(stored: Any, name: str, run: Path) -> None:
    raw = (run / name).read_bytes()
    (run / name).write_text(json.dumps({**json.loads(raw), "outcome": stored}))
    with pytest.raises(InputError, match=rf"{name}: damaged"):
        evaluate(run)
    (run / name).write_bytes(raw)
    assert not well_formed(stored)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stored_is_read_back(kind: str) -> None:
    ending = Ending(kind, "a", "b", "c", 3, 4)
    stored = json.loads(json.dumps(ending.to_dict()))
    assert Ending.read(stored) == (ending if kind != "going" else Ending(kind, "", "b", "c", 3, 4)), "who is private"
    assert well_formed(stored) == (kind in STORED)
    assert well_formed(stored, KINDS)
    assert well_formed(None)
    assert Ending.read(None).kind == "unknown"
    assert Ending.read({**stored, "of a later version": 1}).kind == kind


@pytest.mark.parametrize("kind", KINDS)
def test_words_go_on_from_the_run(kind: str) -> None:
    words = Ending(kind, "a reason", step=3, of=4).words()
    starts = {"failed": "failed at step 3 of 4: a reason", "interrupted": "was interrupted at step 3 of 4, a reason"}
    starts |= {"going": "is still going (a reason)", "cut": "is not finished"}
    assert words == starts.get(kind, "")
    assert "a reason" not in Ending(kind, "a reason").words(private=False) or kind in ("failed", "interrupted")
