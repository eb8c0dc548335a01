"""The package's plan: what `ls src/zofo` shows, that imports make no circle, how long files and functions are."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "src" / "zofo"
PLAN = {
    "__init__.py",
    "__main__.py",
    "py.typed",
    "errors.py",
    "cli",
    "study",
    "federated",
    "api",
    "train",
    "eval",
    "methods",
    "objectives",
    "models",
    "data",
    "zo",
    "config",
}


def test_the_listing_is_the_plan() -> None:
    listed = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert listed == PLAN


TOP = {
    *(".ci", ".github", ".gitignore", ".pre-commit-config.yaml"),
    *("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "SECURITY.md"),
    *("benchmarks", "constraints", "docs", "examples", "experiments", "pyproject.toml", "reliability", "results"),
    *("src", "tests", "zensical.toml"),
}


def test_nothing_else_is_kept() -> None:
    """What a run of something left in the repository is not committed with the rest."""
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True).stdout.split("\0")
    if not any(listed):
        pytest.skip("no git repository")
    assert {name.split("/")[0] for name in listed if name} == TOP


def circles(imports: dict[str, set[str]]) -> Iterator[set[str]]:
    """Sets of modules each of which reaches all the others."""
    reached: dict[str, set[str]] = {}
    for start in imports:
        seen, waiting = set[str](), [start]
        while waiting:
            for module in imports[waiting.pop()]:
                if module not in seen:
                    seen.add(module)
                    waiting.append(module)
        reached[start] = seen
    for module, seen in reached.items():
        if module in seen:
            yield {module} | {other for other in seen if module in reached[other]}


def test_a_circle_is_found() -> None:
    assert list(circles({"a": {"b"}, "b": {"c"}, "c": {"b"}})) == [{"b", "c"}] * 2


def test_imports_make_no_circle() -> None:
    """Those for types too, and those inside functions."""
    graph = grimp.build_graph("zofo", cache_dir=None)
    assert list(circles({m: graph.find_modules_directly_imported_by(m) for m in graph.modules})) == []


def files(folder: str) -> list[Path]:
    """The Python files of a folder that git knows."""
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", folder], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("needs a checkout")
    return [ROOT / name for name in listed.stdout.split() if name.endswith(".py") and (ROOT / name).is_file()]


LONG_FILES = {"src/zofo/zo/kernels/compiled.py"}  # numba's cache does not notice that another file has changed
LONG_FUNCTION = 60  # lines; about 40 is what a function should have


@pytest.mark.parametrize("folder", ["src", "tests", "experiments", "benchmarks", "reliability"])
def test_files_and_functions_are_short(folder: str) -> None:
    """The limits that CONTRIBUTING states."""
    long = {str(p.relative_to(ROOT)) for p in files(folder) if len(p.read_text("utf-8").splitlines()) > 320}
    assert long <= LONG_FILES
    lengths = [
        (node.end_lineno - node.lineno + 1, f"{path.relative_to(ROOT)}:{node.name}")
        for path in files(folder)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and node.end_lineno
    ]
    assert not [(n, name) for n, name in sorted(lengths) if n > LONG_FUNCTION]
    assert sum(n > 40 for n, _ in lengths) <= 0.02 * len(lengths)


def test_no_test_imports_another_test() -> None:
    """What two of them share has a module with a name of its own."""
    for path in files("tests"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                parts = name.split(".")
                assert not (parts[0] == "tests" and parts[-1].startswith("test_")), f"{path}: {name}"


PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8")):
        if "://" not in link and not link.startswith("mailto:"):
            assert (page.parent / link).exists(), link


NEW = {  # what pages have their readers write
    "zo/estimators/four_point.py",
    "objectives/margin.py",
    "tests/objectives/test_margin.py",
    "tests/zo/estimators/test_four_point.py",
}


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in ("CHANGELOG.md", "log.md")], ids=str)
def test_modules_that_a_page_names_exist(page: Path) -> None:
    """`zo/point.py`, `src/zofo/zo/point.py` and `zofo.zo.point`; of a page that tells of the past nothing is asked."""
    text = page.read_text("utf-8")
    for path in re.findall(r"`(?:src/zofo/)?((?:\w+/)+\w+\.py)`", text):
        assert path in NEW or any((root / path).exists() for root in (ROOT, PACKAGE)), path
    for dotted in re.findall(r"(?<![\w/\"])zofo((?:\.[a-z_]\w*)+)", text):
        parts = dotted[1:].split(".")
        if (PACKAGE / parts[0]).is_dir():
            at = PACKAGE.joinpath(*parts)
            assert at.exists() or at.with_suffix(".py").exists() or at.parent.with_suffix(".py").exists(), dotted


def test_the_picture_of_the_house_is_the_codes() -> None:
    path = ROOT / "docs" / "figures" / "house.py"
    drawn = runpy.run_path(str(path))["draw"]()
    assert path.with_suffix(".svg").read_text("utf-8") == drawn, "python docs/figures/house.py draws it again"
