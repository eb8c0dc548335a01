"""What a run was made from and what it meets later: words that say which is which."""

from __future__ import annotations

import re
from typing import Any

import pytest

from zofo import InputError
from zofo.config.resolve import resolve
from zofo.train.inputs import check_inputs, check_tasks

FIX = {"model": "fix", "tokenizer": "fix", "examples": "fix"}


def digests(n: int, sha256: str, split: str = "dev") -> dict[str, Any]:
    return {"examples": {split: {"n": n, "sha256": sha256}}}


@pytest.mark.parametrize("split", ["train", "dev", "test"])
@pytest.mark.parametrize(
    ("before", "here", "counts"),
    [(8, 1, "the run had 8, and here is 1"), (1, 9, "the run had 1, and here are 9"), (8, 8, "as many, 8")],
)
def test_other_examples(split: str, before: int, here: int, counts: str) -> None:
    with pytest.raises(InputError) as caught:
        check_inputs(digests(before, "a", split), digests(here, "b", split), "rows.csv", FIX)
    assert str(caught.value) == f"rows.csv: other {split} examples than the run was made with ({counts}); fix"
    check_inputs(digests(8, "a", split), digests(8, "a", split), "rows.csv", FIX)
    check_inputs({}, digests(8, "a", split), "rows.csv", FIX)


@pytest.mark.parametrize(("what", "word"), [("train", "training"), ("held_out", "held-out")])
def test_other_tasks(what: str, word: str) -> None:
    with pytest.raises(InputError) as caught:
        check_tasks({what: ["a", "b"]}, {what: ["b", "c"]})
    expected = f"cannot resume: task.data holds other {word} tasks than the run was made with; missing: a; new: c"
    assert str(caught.value) == expected


def test_what_takes_the_place_of_a_preset(tmp_path: Any) -> None:
    """A note of validate: what it was, what it is, who says so, and what is left out with it."""
    (tmp_path / "mine.yaml").write_text("method: {name: bilevel-zofo, inner_steps: 3}\nadapter: {name: lora, r: 4}\n")
    more = {"model": "m", "task": "sst2", "train": {"output_dir": "o"}}
    notes = resolve(str(tmp_path / "mine.yaml"), ["method=mezo", "adapter=ia3"], **more).notes
    assert (
        "method: bilevel-zofo is replaced by mezo (command line), and its settings are left out: inner_steps" in notes
    )
    assert "adapter: lora is replaced by ia3 (command line), and its settings are left out: r" in notes
    assert not [note for note in notes if re.search(r"\bnow\b", note)]
