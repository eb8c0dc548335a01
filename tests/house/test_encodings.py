"""No file and no process is read in the encoding of whatever locale there is; nothing hangs on the order of a set."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCES = sorted((ROOT / "src").rglob("*.py"))
KERNEL = ("/proc/", "/sys/")  # numbers and ASCII


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            yield node, function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def names(call: ast.Call) -> set[str]:
    return {word.arg or "**" for word in call.keywords}


def mode(call: ast.Call, place: int) -> str:
    """Of an open; "" where it is none of text."""
    given = [word.value for word in call.keywords if word.arg == "mode"] + call.args[place : place + 1]
    return str(given[0].value) if given and isinstance(given[0], ast.Constant) else "r"


def without_encoding(source: str) -> Iterator[int]:
    for call, name in calls(ast.parse(source)):
        given = names(call) & {"encoding", "**"}
        if any(text in ast.unparse(call) for text in KERNEL):
            continue
        owner = ast.unparse(call.func).rpartition(".")[0]
        opens = name == "fdopen" or (name == "open" and owner not in OTHER_OPENS)
        place = 0 if owner and name == "open" else 1
        if (
            (name == "read_text" and not given and not call.args)
            or (name == "write_text" and not given and len(call.args) < 2 and isinstance(call.func, ast.Attribute))
            or (opens and not given and "b" not in mode(call, place) and len(call.args) <= place + 2)
            or (name in ("run", "Popen", "check_output") and "text" in names(call) and not given)
        ):
            yield call.lineno


def over_sets(source: str) -> Iterator[int]:
    """Loops over what is written as a set, or as a difference of keys."""
    for node in ast.walk(ast.parse(source)):
        over = node.iter if isinstance(node, ast.For | ast.comprehension) else None
        built = isinstance(over, ast.Set | ast.SetComp) or (
            isinstance(over, ast.BinOp)
            and isinstance(over.op, ast.Sub | ast.BitAnd | ast.BitXor | ast.BitOr)
            and ("keys()" in ast.unparse(over) or "set(" in ast.unparse(over))
        )
        if over is not None and (built or (isinstance(over, ast.Call) and ast.unparse(over.func) in SETS)):
            yield over.lineno


SETS = ("set", "frozenset")
OTHER_OPENS = (
    "Journal",
    "cls",
    "gzip",
    "lzma",
    "os",
    "self",
    "self._records",
    "self.session.records",
    "tarfile",
)  # of bytes, or of no file


@pytest.mark.parametrize("check", [without_encoding, over_sets])
def test_of_every_source(check: Callable[[str], Iterator[int]]) -> None:
    places = [f"{path.relative_to(ROOT)}:{line}" for path in SOURCES for line in check(path.read_text("utf-8"))]
    allowed = ORDER_IS_NOTHING if check is over_sets else ()
    assert [place for place in places if place.partition(":")[0] not in allowed] == []


# Loops in which the order is nothing: what is removed, synced, sorted afterwards, or a mapping
ORDER_IS_NOTHING = (
    "src/zofo/api/metatest/store.py",
    "src/zofo/eval/decoding.py",
    "src/zofo/train/trees.py",
    "src/zofo/models/adapters/_peft.py",
)


def test_it_would_be_noticed(tmp_path: Path) -> None:
    wrong = "p.read_text()\np.write_text(x)\nopen(p)\np.open('w')\nsubprocess.run(a, text=True)\n"
    assert list(without_encoding(wrong)) == [1, 2, 3, 4, 5]
    right = "p.read_text('utf-8')\np.write_text(x, 'utf-8')\nopen(p, 'rb')\np.open('w', encoding='utf-8')\n"
    right += "open('/proc/x')\n"
    assert list(without_encoding(right)) == []
    assert sorted(over_sets("for a in {1, 2}: pass\n[a for a in b.keys() - c]\nfor a in set(b): pass\n")) == [1, 2, 3]
    assert list(over_sets("for a in sorted({1, 2}): pass\n")) == []
