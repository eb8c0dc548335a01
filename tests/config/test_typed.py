"""The one validator: texts of the command line, dataclasses within dataclasses, items of lists."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from zofo.config.resolve import resolve
from zofo.config.typed import build

BASE: dict[str, Any] = {"model": "tiny", "task": {"name": "sst2"}, "method": "mezo", "train": {"output_dir": "out"}}


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("Rate it, # of 5", "Rate it, # of 5"),
        ("one\n  two\n\nthree", "one\n  two\n\nthree"),
        ("answer: yes", "answer: yes"),
        ("{{ review }}", "{{ review }}"),
        ("[a, b]", "[a, b]"),
        ("0123", "0123"),
        ("1e-3", "1e-3"),
        ("true", "true"),
        ("- a", "- a"),
        ("  blanks ", "  blanks "),
        ("*x &y !z", "*x &y !z"),
        ('"quoted: \\n"', "quoted: \n"),
        ("'null'", "null"),
        ('"a" or "b"', '"a" or "b"'),
        ("null", None),
    ],
)
def test_a_text_of_the_command_line_is_that_text(raw: str, text: str | None) -> None:
    task = resolve(None, ["task.apply_chat_template=true", f"task.system={raw}"], **BASE).task
    assert task.system == text


@pytest.mark.parametrize(
    ("raw", "choices"),
    [("[0, 1]", ["0", "1"]), ("[yes, no]", ["yes", "no"]), ('["a, b", "#c"]', ["a, b", "#c"]), ("null", None)],
)
def test_a_list_of_texts_is_yaml(raw: str, choices: list[str] | None) -> None:
    assert resolve(None, [f"task.choices={raw}"], **BASE).task.choices == choices


@dataclass(frozen=True)
class Inner:
    rate: float = field(metadata={"gt": 0, "le": 1})
    names: tuple[str, ...] = ()

    def problems(self) -> list[str]:
        return ["names: a is taken"] if "a" in self.names else []


@dataclass(frozen=True)
class Outer:
    count: int
    inner: Inner | None = None
    many: dict[str, Inner] = field(default_factory=dict)
    either: list[str] | str = ""


def faults(content: dict[str, Any]) -> list[str]:
    errors: list[str] = []
    assert build("f.yaml: ", Outer, content, errors) is None
    return errors


def test_dataclasses_within_dataclasses_are_built() -> None:
    errors: list[str] = []
    content = {"count": 1, "inner": {"rate": 1}, "many": {"x": {"rate": 0.5, "names": ["b"]}}, "either": ["c"]}
    assert build("", Outer, content, errors) == Outer(1, Inner(1.0), {"x": Inner(0.5, ("b",))}, ["c"])
    assert build("", Outer, {"count": 1, "inner": None}, errors) == Outer(1)
    assert errors == []


def test_all_their_faults_are_said_at_once() -> None:
    content = {
        "cuont": "1",
        "inner": {"rate": 0, "names": ["b", True, 3]},
        "many": {"x": {"rat": 0.5}, "y": 3, "z": {"rate": 1, "names": ["a"]}},
        "either": ["c", 1],
        "more": 1,
    }
    assert faults(content) == [
        'f.yaml: cuont: unknown field; did you mean "count"?',
        "f.yaml: more: unknown field; known: count, inner, many, either",
        'f.yaml: count: expected an integer, got "1"',
        "f.yaml: inner.rate: must be > 0 and <= 1, got 0",
        "f.yaml: inner.names.1: expected a string, got true; quote it",
        "f.yaml: inner.names.2: expected a string, got 3; quote it",
        'f.yaml: many.x.rat: unknown field; did you mean "rate"?',
        "f.yaml: many.y: expected a mapping of fields, got 3",
        "f.yaml: many.z.names: a is taken",
        "f.yaml: either.1: expected a string, got 1; quote it",
    ]


@pytest.mark.parametrize("wrong", [3, "x", ["a"], None])
def test_what_is_no_mapping(wrong: Any) -> None:
    assert faults({"count": 1, "many": wrong})[0].startswith("f.yaml: many: expected a mapping of fields, got ")
