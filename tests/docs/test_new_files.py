"""The pages on new files, done as their reader does: in a copy of the repository, and as a package of one's own.

The listings' numbers are checked by tests/zo/estimators/test_add_an_estimator_page.py and its sibling for objectives.
"""

from __future__ import annotations

import ast
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, write_rows
from tests.page_world import make_model, sst2
from tests.pages import SHELL, Block, blocks, commands

PAGES = {"docs/add_an_estimator.md": "four-point", "docs/add_an_objective.md": "margin"}
SHORTER = [
    ("--task sst2", "--task sst2 --data data/sst2"),
    ("train.max_steps=20", "train.max_steps=4 train.batch_size=4"),
]
REPLAY = """
import torch
from torch import nn
from zofo import ZerothOrder, replay

torch.manual_seed(0)
model, fresh = nn.Linear(4, 1), nn.Linear(4, 1)
fresh.load_state_dict(model.state_dict())
"""


def shorter(text: str) -> str:
    for old, new in SHORTER:
        text = text.replace(old, new)
    return text


def run(words: list[str], folder: Path, *paths: Path) -> str:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "NO_COLOR": "1"}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def python_of(line: str) -> list[str]:
    words = shlex.split(shorter(line), comments=True)
    return ["-m", *words] if words[0] == "zofo" else words[1:]


def saved(page: str, folder: Path) -> list[Block]:
    files = [block for block in blocks(ROOT / page) if block.note == "saved as"]
    for block in files:
        (folder / block.said).write_text(block.text, "utf-8")
    return files


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the repository, with a model and rows."""
    folder, leave = tmp_path / "zofo", shutil.ignore_patterns("__pycache__", "fixtures")
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=leave)
    shutil.copy(ROOT / "pyproject.toml", folder)
    make_model(folder / "MODEL")
    write_rows(folder / "data" / "sst2" / "train.jsonl", sst2(40))
    write_rows(folder / "data" / "sst2" / "test.jsonl", sst2(12))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_the_page(page: str, copy: Path) -> None:
    files = saved(page, copy)
    lines = [line for block in blocks(ROOT / page) if block.language in SHELL for line in commands(block.text)]
    assert len(lines) >= 4
    said = [run(python_of(line), copy, copy / "src", copy) for line in lines]
    assert PAGES[page] in said[0]
    test = next(block.said for block in files if block.said.startswith("tests/"))
    run(["-m", "pytest", test], copy, copy / "src", copy)


def package(page: str, folder: Path) -> Path:
    """A package with the page's file and the page's entry point, as pip would have installed it."""
    listing = next(block for block in blocks(ROOT / page) if block.said.startswith("src/"))
    toml = next(block for block in blocks(ROOT / page) if block.language == "toml")
    groups = tomllib.loads(toml.text)["project"]["entry-points"]
    (folder / "my_package").mkdir()
    (folder / "my_package" / "__init__.py").touch()
    (folder / "my_package" / Path(listing.said).name).write_text(listing.text, "utf-8")
    info = folder / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    entries = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(entries))
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_a_package_of_ones_own(page: str, tmp_path: Path) -> None:
    folder = package(page, tmp_path)
    name, kind = PAGES[page], "estimators" if "estimator" in page else "objectives"
    assert name in run(["-m", "zofo", "ls", kind], tmp_path, folder, ROOT / "src")
    if kind == "estimators":
        assert "far" in run(["-m", "zofo", "show", name], tmp_path, folder, ROOT / "src")
        snippet = next(block.text for block in blocks(ROOT / page) if "some steps" in block.text)
        assert "...  # some steps" in snippet
        steps = "[opt.step(lambda: model.weight.pow(2).sum() + model.bias.sum()) for _ in range(3)]"
        script = REPLAY + snippet.replace("...  # some steps", steps) + "assert opt.steps == 3\n"
        run(["-c", script], tmp_path, folder, ROOT / "src")


def arguments(function: ast.FunctionDef) -> list[str]:
    return [argument.arg for argument in function.args.args]


def test_the_outline_of_an_estimator_is_the_class() -> None:
    """Every name that the page's outline has, with its arguments, in the file that it names."""
    page = next(b.text for b in blocks(ROOT / "docs/add_an_estimator.md") if b.said.startswith("an outline"))
    code = (ROOT / page.partition("# ")[2].partition("\n")[0]).read_text("utf-8")

    def methods(text: str) -> dict[str, Any]:
        made = next(n for n in ast.parse(text).body if isinstance(n, ast.ClassDef) and n.name == "Base")
        return {node.name: arguments(node) for node in made.body if isinstance(node, ast.FunctionDef)}

    shown, there = methods(page), methods(code)
    assert shown.items() <= there.items()
    assert len(shown) >= 9
