"""What the pages say in passing: commands within sentences, verbs, settings, extras; and which blocks are not run."""

from __future__ import annotations

import dataclasses
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
import typer.main

from tests.conftest import ROOT
from tests.pages import PAGES, blocks, commands, name_of
from zofo.cli.main import app
from zofo.config import registry
from zofo.config.sections import ModelConfig, TaskConfig, TrainConfig

SECTIONS = {"model": ModelConfig, "task": TaskConfig, "train": TrainConfig}
HISTORY = ("docs/log.md",)  # tells what was, not what is
NOT_RUN = {  # how many blocks of a page are marked so, with their reason
    "README.md": 2,
    "docs/add_an_estimator.md": 2,
    "docs/add_an_objective.md": 1,
    "docs/federated.md": 5,
    "docs/journal.md": 2,
    "docs/leaderboard.md": 2,
    "docs/lm_eval.md": 3,
    "docs/quantization.md": 1,
    "docs/scale.md": 4,
    "docs/serving.md": 5,
    "docs/sweep.md": 1,
    "docs/watching.md": 1,
}
NOW = [page for page in PAGES if name_of(page) not in HISTORY]
PARTS = ("estimators", "masks", "rules", "adapters", "methods")


def test_the_blocks_that_are_not_run_are_counted() -> None:
    marked = {name_of(page): [b for b in blocks(page) if b.note == "not run"] for page in PAGES}
    for number in (block for of_page in marked.values() for block in of_page):
        print(f"{number.place}: {number.said}")
        assert number.said, number.place
    assert {page: len(of_page) for page, of_page in marked.items() if of_page} == NOT_RUN


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_comment_of_a_page_stands_before_a_block_or_is_known(page: Path) -> None:
    """A mark that is misspelt, or parted from its block, would let the block go unnoticed."""
    attached = {f"<!-- {b.note}{': ' * bool(b.said)}{b.said} -->" for b in blocks(page) if b.note}
    for comment in re.findall(r"^ *<!-- .*? -->$", page.read_text("utf-8"), re.M):
        assert comment in attached or not re.match(r" *<!-- *(not|saved|print)", comment, re.I), comment
    assert {b.note for b in blocks(page)} <= {"", "not run", "saved as", "printed"}


@cache
def root() -> click.Group:
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group) or hasattr(group, "commands")
    return group  # pyright: ignore[reportReturnType]


def verbs() -> set[str]:
    top = dict(root().commands)
    nested = {f"{name} {inner}" for name, verb in top.items() for inner in getattr(verb, "commands", {})}
    return {name for name, verb in top.items() if not hasattr(verb, "commands")} | nested


def test_the_readme_lists_the_verbs() -> None:
    listing = next(b.text for b in blocks(ROOT / "README.md") if b.said.startswith("the verbs"))
    listed = [re.match(r"zofo ((?:data|federated|bench) \S+|\S+)", line)[1] for line in listing.splitlines()]  # pyright: ignore
    groups = [line.rpartition(" ") for line in listed]
    assert {f"{group}{gap}{verb}" for group, gap, several in groups for verb in several.split("|")} == verbs()


def unfenced(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.S | re.M)


def spoken(page: Path) -> Iterator[str]:
    """Commands that begin with `zofo `, in sentences and in blocks."""
    for span in re.findall(r"`(zofo [^`]+)`", unfenced(page)):
        yield " ".join(span.split())
    for block in blocks(page):
        if block.language in ("sh", "bash"):
            yield from (line for line in commands(block.text) if line.startswith("zofo "))


@pytest.mark.parametrize("page", NOW, ids=name_of)
def test_verbs_options_and_settings_of_commands_exist(page: Path) -> None:
    for line in spoken(page):
        words = shlex.split(line.replace("...", ""), comments=True)[1:]
        if not words or not words[0][0].isalpha():
            continue
        verb = root().commands.get(words[0])
        assert verb is not None, line
        if hasattr(verb, "commands") and len(words) > 1:
            verb = verb.commands[words[1]]  # pyright: ignore[reportAttributeAccessIssue]
        options = {name for option in verb.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
        for word in words[1:]:
            if word.startswith("--"):
                assert word.partition("=")[0] in options, f"{line}: {word}"


@pytest.mark.parametrize("page", NOW, ids=name_of)
def test_no_command_hides_in_an_indented_block(page: Path) -> None:
    """Only fenced blocks are run."""
    assert not re.findall(r"^ {4,}(?:zofo|python|pip|make|lm-eval) .*$", unfenced(page), re.M)


@pytest.mark.parametrize("page", NOW, ids=name_of)
def test_scripts_that_a_page_names_exist(page: Path) -> None:
    """`python -m benchmarks.gpu ...` and `python docs/figures/house.py`, in sentences too."""
    for module in re.findall(r"python -m ((?:experiments|benchmarks|reliability|tests)\.\w+)", page.read_text("utf-8")):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    for script in re.findall(r"python ([\w/]+\.py)", page.read_text("utf-8")):
        assert (ROOT / script).is_file(), script


def settings() -> dict[str, set[str]]:
    """{section: names of its fields}, of entries those of all of them."""
    made = {name: {field.name for field in dataclasses.fields(kind)} for name, kind in SECTIONS.items()}
    for folder in PARTS:
        entries = (registry.load(folder, name) for name in registry.names(folder))
        fields = {field.name for entry in entries for field in dataclasses.fields(entry.Config)}
        made[folder.removesuffix("s")] = fields | {"name"}
    return made


@pytest.mark.parametrize("page", NOW, ids=name_of)
def test_settings_that_a_page_names_exist(page: Path) -> None:
    known = settings()
    pattern = rf"(?<![\w./\"])({'|'.join(known)})\.([a-z_]\w*)(?![\w.(/])"
    for code in re.findall(r"`([^`\n]+)`", page.read_text("utf-8")):
        for section, key in re.findall(pattern, code):
            if key not in ("py", "md", "yaml", "jsonl", "json", "csv"):
                assert key in known[section], f"{section}.{key}"


def test_make_targets_and_extras_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.M))
    targets.update(*(names.split() for names in re.findall(r"^([\w -]+): \w+-%:", makefile, re.M)))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for page in NOW:
        text = page.read_text("utf-8")
        assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets, page
        assert set(re.findall(r"(?:zofo|\.)\[([a-z-]+)\]\"", text)) <= set(extras), page


def test_the_code_beside_algorithm_2_is_the_methods() -> None:
    """The lines of docs/algorithms.md that show code show bilevel_zofo.py's, `...` standing for arguments."""
    page = (ROOT / "docs" / "algorithms.md").read_text("utf-8")
    table = page.partition("| line | paper | code |")[2].partition("\n\n")[0]
    code = (ROOT / "src/zofo/methods/bilevel_zofo.py").read_text("utf-8")
    shown = [span for row in table.splitlines() for span in re.findall(r"`([^`]+)`", row.rpartition(" | ")[2])]
    shown = [span for span in shown if "(" in span and not span.startswith("Method")]
    assert len(shown) >= 9
    for span in shown:
        parts = [part.rstrip(")") for part in re.split(r"\.\.\.|: ", re.sub(r"^(\w+)\((.*?)\)$", r"\1(", span))]
        assert all(part in code for part in parts), span
