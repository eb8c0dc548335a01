"""JSON is written in one place, which knows what to do with a NaN."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.conftest import ROOT

# What is no file of results: text that is hashed, or checked and dropped, a pipe to a child of ours or to another rank,
# where a NaN stays one, and a journal's header and supports, in which no NaN can be.
ALLOWED = {
    "src/zofo/config/json_text.py",
    "src/zofo/config/resolve.py",
    "src/zofo/config/typed.py",
    "src/zofo/data/metrics/math_verified.py",
    "src/zofo/eval/sandbox/__init__.py",
    "src/zofo/train/inputs.py",
    "src/zofo/zo/journal.py",
    "src/zofo/zo/ranks.py",
    "src/zofo/zo/roll_call.py",
    "src/zofo/zo/support.py",
}


def writers(path: Path) -> list[int]:
    """The lines that call json.dump or json.dumps, or import them from json."""
    lines = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in ("dump", "dumps"):
            lines += [node.lineno] if isinstance(node.value, ast.Name) and node.value.id == "json" else []
        if isinstance(node, ast.ImportFrom) and node.module == "json":
            lines += [node.lineno for name in node.names if name.name in ("dump", "dumps")]
    return lines


def test_json_is_written_by_json_text_alone() -> None:
    files = [
        path for folder in ("src", "experiments", "benchmarks", "reliability") for path in (ROOT / folder).rglob("*.py")
    ]
    assert len(files) > 100
    found = {str(path.relative_to(ROOT)) for path in files if writers(path)}
    assert found <= ALLOWED, f"write it with zofo.config.json_text.dumps: {sorted(found - ALLOWED)}"
