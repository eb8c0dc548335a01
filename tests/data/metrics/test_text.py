"""Metrics of generated text: any text has a score, soon; SQuAD's and GSM8K's by hand, and on the shared data sets."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import read_rows
from tests.corner_texts import TEXTS
from zofo.data.metrics.text import (
    TEXT_METRICS,
    drop_f1,
    exact_match,
    final_number,
    last_number,
    squad_tokens,
    token_f1,
)

REFERENCES: dict[str, Any] = {
    "exact_match": ["the Eiffel Tower"],
    "token_f1": ["the Eiffel Tower"],
    "drop_exact_match": [["3", "Tom Brady"]],
    "drop_f1": [["3", "Tom Brady"]],
    "final_number": "so 16\n#### 16",
    "last_number": "so 16\n#### 16",
    "math_equal": r"so $\boxed{\frac{1}{2}}$",
}


def test_names() -> None:
    assert list(TEXT_METRICS) == [*REFERENCES, "math_verify"]  # its library's limits are test_math_verified's


@pytest.mark.parametrize("name", REFERENCES)
@settings(deadline=None)
@given(TEXTS)
def test_any_text_has_a_score(name: str, text: str) -> None:
    assert 0.0 <= TEXT_METRICS[name](text, REFERENCES[name]) <= 1.0


@pytest.mark.parametrize("text", ["{" * 2 * 10**5, "\\boxed{" * 10**5, "\\boxed{" + "(" * 9000 + ")" * 900 + "}"])
@pytest.mark.parametrize("name", REFERENCES)
def test_hostile_texts_are_quick(name: str, text: str) -> None:
    quick(name, text)


HOSTILE = {
    "digits": "9" * 2 * 10**5,
    "boxed digits": "\\boxed{" + "9" * 2 * 10**5 + "}",
    "many boxed digits": "\\boxed{" + "9" * 9000 + "}",
    "tower": "\\boxed{9^{9^{9^{9}}}}",
    "exponent": "\\boxed{1e999999999} #### 1e999999999",
    "hashes": "#" * 2 * 10**5,
    "hashes and blanks": "#### " * 10**5 + " " * 2 * 10**5,
    "commas": "#### " + "1," * 10**5,
    "groups": "111," * 10**5 + "1111",
    "blanks": "\\boxed" + " " * 2 * 10**5,
    "texts": "\\boxed{1" + "\\text{ " * 1200 + "}" * 1201,
    "fractions": "\\boxed{" + "\\frac" * 1900 + "}",
    "units": "\\boxed{5" + "\\,\\text{cm}" * 800 + "x}",
    "units and powers": "\\boxed{5" + "\\text{cm}^2\\cdot" * 500 + "}",
    "spaces": "\\boxed{5" + "\\," * 4000 + "}",
    "thousands": "\\boxed{1" + " 000" * 2000 + "x}",
    "backslashes": "\\boxed{" + "\\\\" * 4000 + "}",
    "lists": "\\boxed{" + "((1,2)," * 1000 + "1" + ")" * 1000 + "}",
    "hyphens": "-" * 2 * 10**5,
    "articles": "a the an " * 10**5,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("name", REFERENCES)
def test_more_hostile_texts_are_quick(name: str, text: str) -> None:
    quick(name, text)


def quick(name: str, text: str) -> None:
    start = time.process_time()
    assert TEXT_METRICS[name](text, REFERENCES[name]) == 0.0
    assert time.process_time() - start < 5  # a second or so for a megabyte; what is not linear takes hours


# ------------------------------------------------------------------------------------------------------------- SQuAD


@pytest.mark.parametrize(
    ("text", "reference", "em", "f1"),
    [
        ("The Eiffel Tower!", ["eiffel  tower"], 1, 1),
        ("Eiffel", ["the Eiffel Tower"], 0, 2 / 3),  # precision 1, recall 1/2
        ("in Paris", ["Rome", "Paris"], 0, 2 / 3),  # the better answer counts
        ("a cat a cat", "cat", 0, 2 / 3),  # bags: one of two words is shared; precision 1/2, recall 1
        ("co-op", ["coop"], 1, 1),  # punctuation leaves no gap
        ("", [""], 1, 1),
        ("the", [], 1, 1),  # an article is no word; no answers: the right one is none
        ("something", [], 0, 0),
        ("", ["something"], 0, 0),
    ],
)
def test_squad_by_hand(text: str, reference: Any, em: float, f1: float) -> None:
    assert exact_match(text, reference) == em
    assert token_f1(text, reference) == pytest.approx(f1)


@given(TEXTS, TEXTS)
def test_squad_is_symmetric_and_one_for_itself(a: str, b: str) -> None:
    assert exact_match(a, a) == token_f1(a, [b, a]) == 1
    assert token_f1(a, b) == token_f1(b, a)
    assert exact_match(a, b) == (squad_tokens(a) == squad_tokens(b)) <= token_f1(a, b)


@pytest.mark.parametrize("name", ["exact_match", "token_f1", "drop_f1"])
@pytest.mark.parametrize("reference", [None, 3, [3], {"text": ["x"]}, [[3]]])
def test_references_of_another_shape_are_refused(name: str, reference: Any) -> None:
    with pytest.raises(TypeError, match="must be a"):
        TEXT_METRICS[name]("x", reference)


# ------------------------------------------------------------------------------------------------------------- GSM8K


@pytest.mark.parametrize(
    ("text", "reference", "final", "last"),
    [
        ("It is 42.\n#### 42", "... #### 42", 1, 1),
        ("#### 42.0", 42, 1, 1),
        ("#### $1,000.", "1000", 1, 1),
        ("#### -$5", "-5", 1, 1),
        ("#### −5", "-5", 1, 1),
        ("#### +$5", "5", 1, 1),
        ("#### $-5$", "-5", 1, 1),
        ("#### --5", "-5", 0, 1),  # two signs are none: no number behind "####"; in prose the second one counts
        ("#### --5", "5", 0, 0),
        ("#### -−5", "5", 0, 0),
        ("#### ++5", "5", 0, 1),
        ("#### +-5", "-5", 0, 1),
        ("#### -$-5", "5", 0, 0),
        ("#### $$$5", "5", 0, 1),
        ("####.50", "0.5", 1, 1),
        ("#### 42,0", "42", 0, 0),  # commas are thousands separators
        ("#### 42,0", "420", 1, 0),  # "####" takes commas as they come, prose does not: 42 and 0
        ("It is 42.", "42", 0, 1),
        ("#### 16\nQuestion: 7 apples ... #### 7", "#### 16", 1, 0),  # the first "####" counts
        ("#### \n#### 7", "7", 1, 1),
        ("I say 3-5", "5", 0, 1),  # no sign
        ("I say 1,2,3", "3", 0, 1),
        ("12,345.60 in all", "12345.6", 0, 1),
        ("no number", "5", 0, 0),
        ("#### 16 and 4", "16", 1, 0),
    ],
)
def test_numbers_by_hand(text: str, reference: Any, final: float, last: float) -> None:
    assert final_number(text, reference) == final
    assert last_number(text, reference) == last


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9))
def test_a_number_is_equal_to_itself_however_written(value: Any) -> None:
    for shown in (f"{value}", f"{value:,}", f"{value}00", f"${value}"):
        assert final_number(f"so\n#### {shown}.", str(value)) == last_number(f"so {shown}.", f"#### {value}") == 1


def test_a_reference_without_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a number"):
        final_number("#### 1", "no number")


# -------------------------------------------------------------------------------------------------------- shared data


def test_gsm8k_answers_score_one(shared_data: Path) -> None:
    data = read_rows(shared_data / "gsm8k" / "test.jsonl")
    assert len(data) == 1319
    for row in data:
        answer, number = row["answer"], row["answer"].rsplit("#### ")[-1]
        assert final_number(answer, answer) == last_number(answer, number) == final_number(answer, number) == 1


def test_squad_answers_score_one(shared_data: Path) -> None:
    data = read_rows(shared_data / "squad" / "test.jsonl")
    assert len(data) == 1500
    for row in data:
        answers = row["answers"]["text"]
        assert exact_match(answers[0], answers) == token_f1(answers[0], answers) == 1
        assert drop_f1(answers[0], [[a] for a in answers]) == 1
