r"""Metrics of generated text: by hand from the papers' definitions, their properties, and on the shared data sets."""

from __future__ import annotations

import itertools
import time
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT, read_rows
from zofo.data.metrics import drop, math_answers
from zofo.data.metrics.text import (
    TEXT_METRICS,
    drop_exact_match,
    drop_f1,
    exact_match,
    final_number,
    last_number,
    math_equal,
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
# text of the signs that the metrics look at, so that hypothesis meets their corners
MATHS = [
    "\\frac",
    "\\boxed",
    "\\boxed{",
    "\\text{",
    "\\sqrt",
    "\\left",
    "\\{",
    "\\}",
    "\\\\",
    "\\begin{pmatrix}",
    "\\!",
]
PIECES = [*MATHS, *"{}()[],.$%^_-+/&=\\ 0129ax", "####", "the", "−", "°", "\n", "\\end{pmatrix}", "\\cup", " 1/2"]
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=25).map("".join))


def test_names() -> None:
    assert list(TEXT_METRICS) == list(REFERENCES)


@pytest.mark.parametrize("name", REFERENCES)
@settings(deadline=None)
@given(TEXTS)
def test_any_text_has_a_score(name: str, text: str) -> None:
    assert 0.0 <= TEXT_METRICS[name](text, REFERENCES[name]) <= 1.0


@pytest.mark.parametrize("text", ["{" * 10**6, "\\boxed{" * 10**5, "\\boxed{" + "(" * 9000 + ")" * 900 + "}"])
@pytest.mark.parametrize("name", REFERENCES)
def test_hostile_texts_are_quick(name: str, text: str) -> None:
    quick(name, text)


HOSTILE = {
    "digits": "9" * 10**6,
    "boxed digits": "\\boxed{" + "9" * 10**6 + "}",
    "many boxed digits": "\\boxed{" + "9" * 9000 + "}",
    "tower": "\\boxed{9^{9^{9^{9}}}}",
    "exponent": "\\boxed{1e999999999} #### 1e999999999",
    "hashes": "#" * 10**6,
    "hashes and blanks": "#### " * 10**5 + " " * 10**6,
    "commas": "#### " + "1," * 10**5,
    "groups": "111," * 10**5 + "1111",
    "blanks": "\\boxed" + " " * 10**6,
    "texts": "\\boxed{1" + "\\text{ " * 1200 + "}" * 1201,
    "fractions": "\\boxed{" + "\\frac" * 1900 + "}",
    "lists": "\\boxed{" + "((1,2)," * 1000 + "1" + ")" * 1000 + "}",
    "hyphens": "-" * 10**6,
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


# -------------------------------------------------------------------------------------------------------------- DROP


@pytest.mark.parametrize(
    ("text", "reference", "em", "f1"),
    [
        ("5.0", [["5"]], 1, 1),
        ("$5", [["5.00"]], 1, 1),
        ("1,000", [["1000"]], 1, 1),
        ("the Tom-Brady", [["tom brady"]], 1, 1),  # hyphens cut, articles go
        ("5 yards", [["5"]], 0, 0.67),  # precision 1/2, recall 1: 2/3, to two digits
        ("6 yards", [["5 yards"]], 0, 0),  # the right number is missing
        ("5 yards", [["yards"]], 0, 0.67),  # a number too many is only a word too many
        ("Brady", [["Tom Brady", "Moss"]], 0, 0.33),  # (2/3 + 0) / 2
        ("Brady", [["Moss"], ["Brady"]], 1, 1),  # the better annotator
        ("Brady Brady", [["Brady"]], 0, 1),  # sets of words; the exact match is of the whole span
        ("5.5,", [["55"]], 1, 1),  # not a number until its punctuation is gone, as published
        ("Brady", "brady", 1, 1),
        ("Brady", [], 0, 0),
        ("", [[""]], 0, 0),  # blank answers do not count
    ],
)
def test_drop_by_hand(text: str, reference: Any, em: float, f1: float) -> None:
    assert drop_exact_match(text, reference) == em
    assert drop_f1(text, reference) == f1


def test_drop_from_the_hub() -> None:
    """The hub pools a validation row's annotators: numbers and dates are answers, the spans are one, each once."""
    assert drop_f1("3", {"spans": ["3", "4", "3"], "types": ["number"] * 3}) == 1
    assert drop_f1("4", {"spans": ["3", "4"], "types": ["number", "span"]}) == 1
    assert drop_f1("Brady", {"spans": ["Brady", "Brady"], "types": ["span"] * 2}) == 1
    assert drop_f1("Brady", {"spans": ["Brady", "Moss"], "types": ["span"] * 2}) == 0.5
    assert drop_f1("3", {"spans": ["3", "4"]}) == 0.5  # without types one answer


def test_drop_aligns_spans_for_the_best_total() -> None:
    # x y z may take x y (4/5), which leaves y - x y z w (2/5); better is x y z - x y z w (6/7) with y - x y (2/3)
    words = ["x y z", "y"], ["x y", "x y z w"]
    assert drop.compare(*words) == (0.0, round(float((Fraction(6, 7) + Fraction(2, 3)) / 2), 2))
    assert drop.compare(["x", "y x"], ["x y", "x"]) == (0.0, 1.0)  # sets of words are equal, the spans are not
    assert drop.compare(["x", "y"], ["y", "x"]) == (1.0, 1.0)
    assert drop.compare(["x", "x"], ["x"]) == (0.0, 0.5)


@settings(deadline=None)
@given(
    st.integers(1, 5).flatmap(
        lambda n: st.lists(st.lists(st.integers(0, 6), min_size=n, max_size=n), min_size=1, max_size=5)
    )
)
def test_best_total_is_that_of_all_assignments(scores: list[list[int]]) -> None:
    rows = [[Fraction(x, 7) for x in row] for row in scores]
    wide = rows if len(rows) <= len(rows[0]) else list(zip(*rows))
    ways = itertools.permutations(range(len(wide[0])), len(wide))
    assert drop.best_total(rows) == max(sum(row[c] for row, c in zip(wide, way)) for way in ways)


def test_many_spans_are_aligned_quickly() -> None:
    start = time.process_time()
    spans = [f"w{i} w{i + 1} w{i * i}" for i in range(60)]
    assert drop.compare(spans, spans[::-1]) == (1.0, 1.0)
    assert time.process_time() - start < 10


# ------------------------------------------------------------------------------------------------------------- GSM8K


@pytest.mark.parametrize(
    ("text", "reference", "final", "last"),
    [
        ("It is 42.\n#### 42", "... #### 42", 1, 1),
        ("#### 42.0", 42, 1, 1),
        ("#### $1,000.", "1000", 1, 1),
        ("#### -$5", "-5", 1, 1),
        ("#### −5", "-5", 1, 1),
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


# -------------------------------------------------------------------------------------------------------------- MATH


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so $\boxed{5}$.", "5"),
        (r"\boxed{4}, no, \fbox{5}", "5"),
        (r"\boxed 5", "5"),
        (r"is $\boxed 12$ as said", "12"),
        (r"\boxed{\frac{1}{2}} and", r"\frac{1}{2}"),
        (r"\boxed{\left\{ 1 \right.}", r"\left\{ 1 \right."),  # an escaped brace closes nothing
        (r"\boxed{5} and \boxed{6", None),  # the last one is cut off
        (r"\boxedness{5}", None),
        ("5", None),
    ],
)
def test_boxed(text: str, answer: str | None) -> None:
    assert math_answers.boxed(text) == answer


SAME = [
    # the normalisation of the paper's evaluation
    [
        r"\frac12",
        r"\frac{1}{2}",
        r"\dfrac{1}{2}",
        r"\tfrac 12",
        "1/2",
        r"\frac1{2}",
        "0.5",
        ".5",
        "0.50",
        r"\frac{2}{4}",
        "x = .5",
    ],
    [r"\sqrt3", r"\sqrt{3}", r"\sqrt 3", r"k=\sqrt{3}"],
    [r"\left( 1, 2 \right)", "(1,2)", r"\bigl(1, 2\bigr)", r"\left(1,\!2\right)", "(1.0, 4/2)"],
    [
        r"50\%",
        "50",
        "50%",
        r"50^\circ",
        r"50^{\circ}",
        r"50\text{ cm}^2",
        r"50 \mbox{ inches}^{2}",
        "50°",
        r"\$50",
        "$50$",
        "50.",
    ],
    [r"\frac{270}7\text{ degrees}", r"\frac{270}{7}"],
    ["y = -2x", "-2x", "- 2x"],
    # numbers
    ["-1/2", r"-\frac{1}{2}", r"\frac{-1}{2}", r"\frac{1}{-2}", "-0.5", r"(-\frac12)", "{-.5}", r"− \frac 1 2"],
    ["1,000", "1000", r"1{,}000", r"1,\! 000", r"1\,000", "1000.00", r"\$1,000.00", "+1000"],
    [r"1\frac{4}{5}", "1.8", "1 4/5", r"\frac95", r"1 \frac 45"],
    # structure
    ["[0, 1)", r"\left[0, \frac{2}{2}\right)", r"x \in [0,1)"],
    [r"\{1, 2\}", r"\left\{ 2, 1 \right\}", r"\{2, 1.0, 1\}", r"\lbrace 1, 2\rbrace"],
    ["3, 5, 7", "7,5,3", r"5, \frac{6}{2}, 7"],
    [r"(-\infty, 2]", r"(- \infty,2.0]"],
    [r"(2, +\infty)", r"(2,\infty)"],
    [r"\begin{pmatrix} 1/2 \\ -3 \end{pmatrix}", r"\begin{bmatrix}\frac{1}{2}\\-3\\\end{bmatrix}"],
    # strings
    [r"\text{(E)}", "(E)", "E", r"\textbf{E}", r"\text{E.}"],
    [r"\text{even}", "even"],
    ["x^2+1", "x^{2} + 1", r"x ^2\,+\,1"],
    ["204_5", "204_{5}"],
    [r"3 \pm 2\sqrt2", r"3\pm 2 \sqrt{2}"],
    [r"\sqrt[3]{2}", r"\sqrt[3]2"],
    [r"3:00 \text{ p.m.}", r"3:00\text{ p.m.}"],
    ["9^{9^{9}}", "9^{9^9}"],
]


@pytest.mark.parametrize("answers", SAME, ids=lambda a: a[0])
def test_answers_that_are_equal(answers: list[str]) -> None:
    for a, b in itertools.product(answers, repeat=2):
        assert math_equal(rf"so $\boxed{{{a}}}$.", b) == 1, (a, b)
        assert math_equal(rf"so $\boxed{{{a}}}$.", rf"as \boxed{{{b}}}") == 1, (a, b)


def test_answers_of_different_groups_differ() -> None:
    for group, other in itertools.permutations(SAME, 2):
        for a, b in itertools.product(group, other):
            assert not math_equal(rf"\boxed{{{a}}}", b), (a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("(1,2)", "(2,1)"),  # order in a point
        ("(3,100)", "3100"),
        ("(0,1)", "[0,1)"),
        (r"\{1,2\}", "(1,2)"),
        ("1, 2", "1, 2, 2"),
        ("1, 234", "1234"),  # a list, not a number
        ("1/0", "0"),
        (r"\frac{1}{0}", r"\frac{2}{0}"),
        ("204_5", "204"),
        (r"3:00 \text{ p.m.}", r"3:00 \text{ a.m.}"),
        ("x^2", "x2"),
        ("12", "1,2"),
        ("f", "F"),  # capitals tell variables apart
        (r"\begin{vmatrix} 1 \end{vmatrix}", r"\begin{pmatrix} 1 \end{pmatrix}"),
        ("", r"\text{ }"),
        (r"\%", r"\$"),  # nothing is left of either
        ("0.333", r"\frac13"),  # exact
        ("9^{9^{9}}", "9^{9^{8}}"),
    ],
)
def test_answers_that_differ(a: str, b: str) -> None:
    assert not math_answers.equal(a, b)
    assert not math_answers.equal(b, a)


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_math_equality_is_reflexive_and_symmetric(a: str, b: str) -> None:
    assert math_answers.equal(a, a)
    assert math_answers.equal(a, b) == math_answers.equal(b, a)
    assert math_answers.equal(a, f"  {a} ")


@given(st.fractions(max_denominator=10**6))
def test_fractions_are_equal_however_written(value: Fraction) -> None:
    a, b = value.numerator, value.denominator
    for shown in (rf"\frac{{{a}}}{{{b}}}", f"{a}/{b}", rf"\dfrac{{{2 * a}}}{{{2 * b}}}", f"({a}/{b})", f"{a:,}/{b:,}"):
        assert math_answers.equal(shown, rf"\frac{{{-a}}}{{{-b}}}")
        assert not math_answers.equal(shown, rf"\frac{{{a + 1}}}{{{b}}}")


def test_very_long_answers_equal_themselves() -> None:
    long = "9" * 20_000
    assert math_equal(rf"\boxed{{{long}}}", long) == 1
    assert math_equal(rf"\boxed{{{long}}}", long + ".0") == 0


# -------------------------------------------------------------------------------------------------------- shared data


def rows(task: str) -> list[dict[str, Any]]:
    root = ROOT
    for folder in (root / "shared", root.parent / "shared"):
        path = folder / "data" / task / "test.jsonl"
        if path.exists():
            return read_rows(path)
    pytest.skip(f"needs the shared data set {task}, which is not here")


def test_gsm8k_answers_score_one() -> None:
    data = rows("gsm8k")
    assert len(data) == 1319
    for row in data:
        answer, number = row["answer"], row["answer"].rsplit("#### ")[-1]
        assert final_number(answer, answer) == last_number(answer, number) == final_number(answer, number) == 1


def test_squad_answers_score_one() -> None:
    data = rows("squad")
    assert len(data) == 1500
    for row in data:
        answers = row["answers"]["text"]
        assert exact_match(answers[0], answers) == token_f1(answers[0], answers) == 1
        assert drop_f1(answers[0], [[a] for a in answers]) == 1


def test_math500_solutions_match_their_answers() -> None:
    data = rows("math500")
    assert len(data) == 500
    for row in data:
        assert math_equal(row["solution"], row["answer"]) == 1
        assert math_equal(rf"\boxed{{{row['answer']}}}", row["solution"]) == 1
