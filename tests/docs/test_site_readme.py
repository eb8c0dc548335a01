"""What README.md claims can be looked up: names are the registry's, numbers stand where it says, files are there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from docs.figures import terminal
from docs.figures.terminal import COLUMNS, PROMPT, ROWS, SECONDS, Line

from tests.conftest import ROOT
from zofo.config import registry

README = (ROOT / "README.md").read_text("utf-8")
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
NUMBERS += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"]


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 150


def test_the_methods_are_the_registrys() -> None:
    table = README.partition("| method | what moves | how |")[2].partition("\n\n")[0]
    named = [name for row in table.splitlines() for name in re.findall(r"`([\w-]+)`", row.split("|")[1] if row else "")]
    assert sorted(named) == registry.names("methods")


def test_the_parts_of_the_family_are_the_registrys() -> None:
    text = " ".join(README.partition("takes any estimator")[2].partition("docs/zo_family.md")[0].split())
    parts = re.split(r", any mask |and any rule ", text)
    for kind, part in zip(("estimators", "masks", "rules"), parts, strict=True):
        assert sorted(set(re.findall(r"`([\w-]+)`", part))) == registry.names(kind), kind


def test_so_many_tasks() -> None:
    word = re.search(r"^(\w+) tasks are there by name", README, re.M)
    assert word is not None
    assert NUMBERS.index(word[1].lower()) == len(registry.names("tasks"))


def test_the_accuracies_stand_in_the_log() -> None:
    log = (ROOT / "docs" / "log.md").read_text("utf-8")
    before, after, other = re.findall(r"^  (?:before|after).*?(\d\d\.\d) %", README, re.M)
    assert f"{before} -> {after} %" in log
    assert f"{other} %" in (ROOT / "docs" / "quantization.md").read_text("utf-8")


def test_every_file_and_module_that_proves_a_claim_is_there() -> None:
    claims = README.partition("What you can rely on")[2].partition("\n## ")[0]
    assert len(re.findall(r"^- ", claims, re.M)) >= 6
    for claim in re.split(r"^- ", claims, flags=re.M)[1:]:
        assert re.search(r"\]\([\w/.]+\)|`(?:make|python|zofo) ", claim), f"no place to check it: {claim}"
    for target in re.findall(r"\]\(([^)\s:#]+)(?:#[^)]*)?\)", README):
        assert (ROOT / target).exists(), target


def test_pictures_say_what_they_show() -> None:
    pictures = re.findall(r"!\[(.*?)\]\((.*?)\)", README)
    assert pictures
    for said, path in pictures:
        assert len(said) > 40, path
        assert (ROOT / path).is_file()


# ---------------------------------------------------------------------------------------------- the terminal's picture

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_the_picture_is_of_the_commands() -> None:
    svg = terminal.PICTURE.read_text("utf-8")
    shown = texts(svg)
    typed = [line.removeprefix(PROMPT) for line in shown if line.startswith(PROMPT)]
    assert len(typed) == len(terminal.COMMANDS)
    assert all(line.split()[:2] == command.split()[:2] for line, command in zip(typed, terminal.COMMANDS))
    assert len(shown) <= ROWS
    assert max(map(len, shown)) <= COLUMNS
    delays = [float(delay) for delay in re.findall(r"animation-delay:([\d.]+)s", svg)]
    assert delays == sorted(delays)
    assert delays[0] == 0
    assert delays[-1] <= SECONDS
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")


def test_rows_of_the_data_are_left_out() -> None:
    printed = [
        "examples: 3",
        "--- dev/1",
        "a text",
        "    answers: x",
        "--- dev/2",
        "b",
        "dev: 9 examples, tokens 2",
        "end",
    ]
    kept = terminal.without_rows([Line(text, n) for n, text in enumerate(printed)])
    assert [line.text for line in kept] == ["examples: 3", "…", "dev: 9 examples, tokens 2", "end"]
    shown = texts(terminal.PICTURE.read_text("utf-8"))
    assert not [line for line in shown if line.startswith(("--- ", "    answers:"))]


def test_lines_that_do_not_fit_are_seen_to_be_cut() -> None:
    lines = terminal.fitted([Line(f"{n} " + "x" * 200, n) for n in range(100)])
    assert len(lines) == ROWS
    assert [line.text[:3] for line in (lines[0], lines[-1])] == ["0 x", "99 "]
    assert sum(line.text == "…" for line in lines) == 1
    assert all(len(line.text) <= COLUMNS for line in lines)
    assert terminal.fitted([Line("a", 0), Line(" ", 1)]) == [Line("a", 0)]


def test_what_a_command_prints_is_drawn_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "say.py").write_text("print('<b> & \"q\"', '  two')\n")
    lines = terminal.record(["say"], tmp_path)
    assert [line.text for line in lines] == ["$ say", "<b> & \"q\"   two"]  # fmt: skip
    assert lines[0].seconds <= lines[1].seconds
    assert texts(terminal.draw(lines)) == [line.text for line in lines]
    (tmp_path / "fail.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(subprocess.CalledProcessError):
        terminal.record(["fail"], tmp_path, sys.executable)
