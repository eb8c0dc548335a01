"""A list in a line ends in a number of others only where there are several: one more is named. One helper says it."""

from __future__ import annotations

import logging
import re
from collections import Counter
from pathlib import Path

import pytest

import zofo
from zofo.config.sections import TaskConfig
from zofo.data.asking import LISTED, how_to_ask
from zofo.data.example import Example
from zofo.data.labels import SAID, Seen, say_slips
from zofo.data.preview import shown
from zofo.errors import first_few
from zofo.models.adapters._open import _left_over
from zofo.models.load import _check_complete
from zofo.train.ownership import say_what_stays
from zofo.train.run_dir import RunDir

NAMES = [f"n{i}" for i in range(40)]


@pytest.mark.parametrize("most", [1, 3, 10])
def test_a_list(most: int) -> None:
    for size in (0, 1, most, most + 1):
        assert first_few(NAMES[:size], most) == ", ".join(NAMES[:size])
    assert first_few(NAMES[: most + 2], most) == f"{', '.join(NAMES[:most])} and 2 more"
    assert first_few(NAMES, most, " | ") == f"{' | '.join(NAMES[:most])} and {40 - most} more"


def test_no_line_makes_its_own() -> None:
    root = Path(zofo.__file__ or "").parent
    theirs = [
        f"{path.name}: {line.strip()}"
        for path in sorted(root.rglob("*.py"))
        if path != root / "errors.py"
        for line in path.read_text("utf-8").splitlines()
        if re.search(r"and \{[^}]*\} more\b|\"(, )?\.\.\.\" if len\(", line)
    ]
    assert theirs == []


def words_of(what: str, size: int, folder: Path, caplog: pytest.LogCaptureFixture) -> str:
    """What is said where there are so many."""
    names = sorted(NAMES)[:size]
    if what == "an export's parts":
        return _left_over(names, [])
    if what == "an adapter's tensors":
        return _left_over([], names)
    if what == "a model's weights":
        with pytest.raises(zofo.InputError) as caught:
            _check_complete("m", {"missing_keys": names, "unexpected_keys": []})
        return str(caught.value)
    if what == "answers":
        return list(shown(Example("x", "which", tuple(names), (0,))))[2]
    if what == "options of a README.md":
        return how_to_ask(TaskConfig(name="rows.csv"), "RUN", names, "accuracy")
    if what == "a directory's files":
        for name in names:
            (folder / name).touch()
        say_what_stays(folder, ())
    if what == "a checkpoint's files":
        run = RunDir(folder)
        run.begin({})
        run.write_tree(run.checkpoint(1), lambda directory: None)
        for name in names:
            (run.checkpoint(1) / name).touch()
        run.forget(run.checkpoint(1))
    if what == "tensors without a place":
        _check_complete("m", {"missing_keys": [], "unexpected_keys": [f"{name}.weight" for name in names]})
    if what == "slips of a label":
        slips = [f"wonder{'x' * i}ful" for i in range(1, size + 1)]
        counts = Counter({"wonderful": 400, "bad": 300} | dict.fromkeys(slips, 1))
        say_slips(Seen(counts, dict.fromkeys(counts, "rows.csv:2")), "rows.csv")
    return "\n".join(caplog.messages)


@pytest.mark.parametrize(
    ("what", "most"),
    [
        ("an export's parts", 1),
        ("an adapter's tensors", 1),
        ("a model's weights", 3),
        ("tensors without a place", 3),
        ("answers", 10),
        ("options of a README.md", LISTED),
        ("a directory's files", 3),
        ("a checkpoint's files", 3),
        ("slips of a label", SAID),
    ],
)
def test_every_list(what: str, most: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for size in (most, most + 1, most + 2):
        folder = tmp_path / str(size)
        folder.mkdir()
        caplog.clear()
        said = words_of(what, size, folder, caplog)
        assert ("more" in said.replace("task.train_examples", "")) == (size > most + 1), said
        assert size <= most + 1 or re.search(r"\b2 more\b", said), said
