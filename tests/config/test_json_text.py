"""JSON without bare NaN: what is not finite is null, and all else is what the standard library writes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zofo.config.json_text import dumps

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def strict(text: str) -> object:
    """Reads as a parser that follows the standard does: NaN, Infinity and -Infinity are errors."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def without_nonfinite(node: object) -> object:
    if isinstance(node, float) and not math.isfinite(node):
        return None
    if isinstance(node, dict):
        return {key: without_nonfinite(value) for key, value in node.items()}
    return [without_nonfinite(value) for value in node] if isinstance(node, list) else node


@given(VALUES)
def test_any_data_is_read_back_by_a_strict_parser(data: object) -> None:
    assert strict(dumps(data)) == without_nonfinite(data)


@given(VALUES)
def test_finite_data_is_written_as_the_standard_library_writes_it(data: object) -> None:
    plain = without_nonfinite(data)
    assert dumps(plain) == json.dumps(plain)
    assert dumps(plain, 2, sort_keys=True, ensure_ascii=False) == json.dumps(
        plain, indent=2, sort_keys=True, ensure_ascii=False
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_what_is_not_finite_is_null_at_any_depth(value: float) -> None:
    assert dumps({"a": [1.5, (value, {"b": value})]}) == '{"a": [1.5, [null, {"b": null}]]}'
    assert dumps(MappingProxyType({"a": value})) == '{"a": null}'
    assert strict(dumps({value: 1})) == {str(value): 1}


def test_default_is_asked_for_what_json_does_not_know_and_its_answer_is_made_finite_too() -> None:
    assert dumps({"p": Path("a")}, default=str) == '{"p": "a"}'
    assert dumps({"p": Path("a")}, default=lambda _: [math.nan]) == '{"p": [null]}'
    with pytest.raises(TypeError):
        dumps({"p": Path("a")})
