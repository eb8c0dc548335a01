"""docs/coming_from.md: every command of its tables runs or is validated, and its words are those that zofo answers."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
from docs.generate import words

from tests.conftest import ROOT
from tests.page_world import load_dataset, make_model, make_world
from tests.pages import SHELL, blocks, commands
from zofo.cli import main as cli
from zofo.config.known_words import NAMES, VALUES, WORDS
from zofo.config.places import every_place

PAGE = ROOT / "docs" / "coming_from.md"


def rows(head: str) -> list[list[str]]:
    """The cells of every row of the tables whose head begins so."""
    found = []
    for table in re.findall(rf"^\| {head}.*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE.read_text("utf-8"), re.M):
        found += [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()]
    return found


SPOKEN = [span for row in rows("there") for span in re.findall(r"`(zofo \w[^`]*)`", row[1]) if "..." not in span]
TRAINED = [line for line in SPOKEN if line.startswith("zofo train ")]
SCORED = [line for line in SPOKEN if line.startswith("zofo eval MODEL ")]
RUN = [" ".join(line.split()) for b in blocks(PAGE) if b.language in SHELL for line in commands(b.text)]  # by its page


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coming")
    return make_world(root / "world", make_model(root / "model"))


def ended(words: list[str]) -> tuple[int, str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        return cli.run(words), out.getvalue()


def test_the_tables_are_read() -> None:
    assert len(TRAINED) >= 15
    assert len(SCORED) == 2
    assert len(rows("flag")) >= 35
    assert len(rows("word")) >= 15


@pytest.mark.parametrize("line", TRAINED)
def test_a_training_is_valid(line: str, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    code, said = ended(["validate", *shlex.split(line)[2:]])
    assert code == 0, said
    for setting in re.findall(r" (\w+)\.(\w+)=(\S+)", line):  # the value of the command is the configuration's
        assert re.search(rf"^{setting[0]}:\n(?:  .*\n)*?  {setting[1]}: .*# command line", said, re.M), setting


@pytest.mark.parametrize("line", SCORED)
def test_a_score_is_measured(line: str, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.chdir(world)
    code, said = ended([*shlex.split(line)[1:], "--limit", "2"])
    assert code == 0, said
    assert "accuracy" in said


def test_every_other_command_is_run_with_its_page() -> None:
    """tests/docs/test_pages_run.py runs the fenced blocks; of a table's commands the rest must be among them."""
    rest = [line for line in SPOKEN if line not in (*TRAINED, *SCORED) and len(line.split()) > 2 and " " in line]
    assert len(rest) >= 4
    for line in rest:
        assert line in RUN, line


FIELDS = {place.path: place.name for place in every_place()}


def answered(word: str) -> set[str] | None:
    """The settings that zofo answers with; None for a word that is not in its table."""
    found = WORDS.get(word) or WORDS.get(word.lower())
    return None if found is None else {field.partition("=")[0] for field in found.fields}


@pytest.mark.parametrize("row", rows("word"), ids=lambda row: row[0])
def test_a_word_is_answered_as_the_page_says(row: list[str]) -> None:
    """The settings of the row are those that zofo names to who types the word, or fields that are called the same."""
    for word in re.findall(r"`(\w+)`", row[0]):
        settings = set(re.findall(r"`(\w+\.\w+)`", row[1]))
        of_same_name = {path for path, name in FIELDS.items() if name == word}
        known = answered(word)
        assert known is not None or of_same_name, f"{word}: not a word that zofo knows"
        assert settings <= (known or set()) | of_same_name, f"{word}: {settings}, zofo says {known}"
        assert bool(settings) == bool((known or set()) | of_same_name), word


@pytest.mark.parametrize("row", rows("flag"), ids=lambda row: row[0])
def test_a_flag_is_answered_with_a_setting_of_its_row(row: list[str]) -> None:
    """Where zofo knows the flag as a word, its answer and the page's have a setting in common, or both have none."""
    settings = set(re.findall(r"`(\w+\.\w+)`", row[1]))
    options = {"--model": "model.name", "--task": "task.name", "--max-steps": "train.max_steps", "--adapter": "adapter"}
    options |= {"--method": "method.name"}
    shown = settings | {options[option] for option in re.findall(r"`(--[\w-]+)", row[1]) if option in options}
    for setting in settings:
        assert setting in FIELDS or setting.endswith(".name"), setting
    for flag in re.findall(r"`--(\w+)", row[0]):
        known = {field for field in answered(flag) or () if "." in field}  # not of a word for a whole section
        if known:
            sections = {field.partition(".")[0] for field in known}
            assert known & shown or sections & shown, f"--{flag}: the page has {shown}, zofo says {known}"


def test_the_page_of_words_is_the_table() -> None:
    page = words.page()
    for word in (*WORDS, *(name for names in NAMES.values() for name in names), *VALUES):
        assert f"`{word}`" in page, word
    row = next(line for line in page.splitlines() if "`per_device_train_batch_size`" in line)
    assert row.endswith("| `train.batch_size`, `--batch-size` | all of an update |")
