"""A JSON list, item after item, against the standard library's reader of the whole text."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zofo import InputError
from zofo.data import json_array
from zofo.data.json_array import items

ROWS: list[dict[str, Any]] = [
    {"text": 'a "quote", a \\ and a ]', "label": 1},
    {"x": [1, -2.5e3, {"y": [None, True, {}]}], "é": "\u2028\U0001f600"},
    {},
    {"text": "b" * 90, "n": 12345678901234567890},
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def read(text: str, **settings: Any) -> list[tuple[int, Any, str]]:
    return list(items(io.StringIO(text, newline=""), "rows.json", **settings))


@pytest.fixture(params=[1, 2, 7, 2**16])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(json_array, "CHUNK", request.param)
    return request.param


@pytest.mark.parametrize("indent", [None, 0, 4])
def test_as_the_standard_library_reads_it(chunk: int, indent: int | None) -> None:
    for ascii_only in (True, False):
        text = json.dumps(ROWS, indent=indent, ensure_ascii=ascii_only)
        for around in (text, f" \r\n\t{text}\n \n"):
            assert read(around) == [(i, row, "") for i, row in enumerate(ROWS, 1)]


@settings(max_examples=40)
@given(st.lists(st.dictionaries(st.text(max_size=4), VALUES, max_size=3), max_size=5), st.integers(1, 40))
def test_any_rows_and_any_pieces(rows: list[dict[str, Any]], size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "CHUNK", size)
        assert [row for _, row, _ in read(json.dumps(rows, indent=1))] == rows


@pytest.mark.parametrize(
    "item", ["1", "-0.5e-3", "12345678901234567890", "null", "true", '"a"', "[1]", "NaN", "-Infinity"]
)
def test_what_is_no_object_is_that_item_s_fault_alone(item: str, chunk: int) -> None:
    numbered = read(f'[{{"a": 1}}, {item} ,{item},{{"b": 2}}]')
    assert [row for _, row, _ in numbered] == [{"a": 1}, numbered[1][1], numbered[2][1], {"b": 2}]
    assert all(fault.startswith("expected a JSON object, found a ") for _, _, fault in numbered[1:3])


def test_a_key_that_is_there_twice(chunk: int) -> None:
    (_, _, fault), after = read('[{"a": {"k": 1, "k": [2]}}, {"b": 1}]')
    assert fault == 'bad JSON: the key "k" is given twice; keep one'
    assert after == (2, {"b": 1}, "")


@pytest.mark.parametrize("text", ["", "  \n", "{}", '{"a": 1}', "1", '"a"', "]", "null"])
def test_no_list(text: str, chunk: int) -> None:
    with pytest.raises(InputError, match=r"^rows\.json: expected a list of JSON objects, \[\{\.\.\.\}, \.\.\.\]"):
        read(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"a": 1},]', "item 2: bad JSON: nothing between a comma and the list's end"),
        ('[{"a": 1} {"b": 2}]', "behind item 1: bad JSON: expected a comma or the list's end"),
        ('[{"a": 1}', "behind item 1: bad JSON: the file ends within the list"),
        ('[{"a": 1},', "item 2: bad JSON: the file ends within it"),
        ('[{"a": 1}, {"b": "cd', "item 2: bad JSON: the file ends within it"),
        ('[{"a": 1}, {"b": tr', "item 2: bad JSON: "),
        ('[{"a": 1}, {"b": tru}, {"c": 1}]', "item 2: bad JSON: Expecting value"),
        ('[{"a": 1}, {b: 1}]', "item 2: bad JSON: Expecting property name"),
        ("[,]", "item 1: bad JSON: Expecting value"),
        ('[{"a": 1}]\n[{"b": 2}]', "bad JSON: '[' behind the list's end; a file of JSON lines is named .jsonl"),
        (f'[{{"a": {"9" * 5000}}}]', "item 1: bad JSON: a number of more than 4300 digits; write it as text"),
        (f'[{{"a": {"[" * 5000}', "item 1: bad JSON: nested too deep to be read"),
    ],
)
def test_what_is_wrong_and_where(text: str, words: str, chunk: int) -> None:
    with pytest.raises(InputError) as caught:
        read(text)
    assert str(caught.value).startswith("rows.json: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [1, 5, 2**16])
def test_a_byte_that_is_missing_or_another(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the standard library refuses is refused, and what it takes is the same rows."""
    monkeypatch.setattr(json_array, "CHUNK", size)
    text = json.dumps(ROWS[:2], ensure_ascii=False)
    for at in range(len(text)):
        for damaged in (text[:at], text[:at] + text[at + 1 :], *(text[:at] + c + text[at + 1 :] for c in '",}]x0\x00')):
            try:
                whole = json.loads(damaged)
            except ValueError:
                whole = None
            try:
                rows = read(damaged)
            except InputError:
                rows = None
            assert (rows is None) == (not isinstance(whole, list)), damaged
            if rows is not None and whole is not None:
                assert [row if fault else item for (_, item, fault), row in zip(rows, whole, strict=True)] == whole


class Endless(io.StringIO):
    """A list's start, and then rows for ever; counts what has been asked for."""

    def __init__(self, start: str) -> None:
        super().__init__()
        self.start, self.taken = start, 0

    def read(self, size: int | None = -1, /) -> str:
        assert size is not None
        assert size > 0
        piece = self.start[:size] or '{"a": 1},' * (size // 9 + 1)
        self.start, self.taken = self.start[size:], self.taken + len(piece)
        return piece


@pytest.mark.parametrize("damage", ['{"b": tru},', "{b: 1},", '{"b" 1},', '{"b": 1 "c"},', "x,"])
def test_damage_near_the_start_of_a_long_file_is_found_there(damage: str) -> None:
    """The rest of the file is not read, and is not said to be one long item."""
    file = Endless('[{"a": 1},' + damage)
    with pytest.raises(InputError, match=r"rows\.json: (behind )?item 2: bad JSON: (Expecting|expected)"):
        list(items(file, "rows.json"))
    assert file.taken < 4 * json_array.CHUNK


def test_an_item_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_array, "CHUNK", 100)
    monkeypatch.setattr(json_array, "LONGEST", 1000)
    assert len(read(json.dumps([{"a": "b" * 900}] * 3))) == 3
    with pytest.raises(InputError, match=r"rows.json: an item of more than 1000 characters; write JSON lines instead"):
        read(json.dumps([{"a": "b" * 5000}] * 3))


def test_a_long_item_is_tried_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """As often as its length doubles, so the time is as its length and not as its square."""
    calls = 0
    original = json_array._decoded

    def counted(window: Any) -> tuple[Any, str]:
        nonlocal calls
        calls += 1
        return original(window)

    monkeypatch.setattr(json_array, "_decoded", counted)
    read(json.dumps([{"a": "b" * (64 * json_array.CHUNK)}]))
    assert calls < 12


def test_memory_is_that_of_one_item() -> None:
    class Rows(io.StringIO):
        left = 20_000

        def read(self, size: int | None = -1, /) -> str:
            pieces = max(1, min(self.left, (size or 1) // 110))
            first, self.left = self.left == 20_000, self.left - pieces
            if self.left < 0:
                return ""
            return ("[" if first else "") + ('{"a": "' + "b" * 100 + '"},') * pieces

    def all_of(rows: Iterator[Any]) -> int:
        try:
            return sum(1 for _ in rows)
        except InputError:  # the list has no end
            return 0

    tracemalloc.start()
    all_of(items(Rows(), "rows.json"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * json_array.CHUNK, "of 2.2 MB"


@pytest.mark.parametrize("budget", [1, 10, 11, 25, 60])
def test_a_budget_ends_the_reading_and_not_the_list(budget: int) -> None:
    text = json.dumps([{"a": i} for i in range(5)])
    numbered = read(text, budget=budget)
    if budget >= len(text):
        assert len(numbered) == 5
    else:
        assert numbered[-1] == (0, None, "")
        assert [row for _, row, _ in numbered[:-1]] == [{"a": i} for i in range(len(numbered) - 1)]
