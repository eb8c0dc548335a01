"""MATH's answers: which are boxed, which are equal however they are written, and which are not."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import read_rows
from tests.corner_texts import TEXTS
from zofo.data.metrics import math_answers
from zofo.data.metrics.text import math_equal


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
    [
        "5",
        r"5\,\text{cm}",
        r"5\ \text{cm}",
        r"5~\text{cm}",
        r"5 \text{m/s}",
        r"5\;\mathrm{km/h}",
        r"5\quad\text{m}",
        r"5\,\text{m}/\text{s}^2",
        r"5\,\mathrm{kg}\cdot\mathrm{m}^{-1}",
        r"5\,\text{cm}^{3}.",
        r"5^\circ\,\text{C}",
        r"\\text{ }5\\,\\text{cm}",
    ],
    [r"\frac34\,\text{hours}", r"\\frac{3}{4}", r"\\dfrac34\\ \\text{hours}", "0.75"],
    ["y = -2x", "-2x", "- 2x"],
    # numbers
    ["-1/2", r"-\frac{1}{2}", r"\frac{-1}{2}", r"\frac{1}{-2}", "-0.5", r"(-\frac12)", "{-.5}", r"− \frac 1 2"],
    [
        "1,000",
        "1000",
        "1 000",
        "1~000",
        r"1\ 000",
        r"1\;000.0",
        r"1{,}000",
        r"1,\! 000",
        r"1\,000",
        "1000.00",
        r"\$1,000.00",
        "+1000",
    ],
    [r"1\frac{4}{5}", "1.8", "1 4/5", r"\frac95", r"1 \frac 45"],
    # structure
    ["[0, 1)", r"\left[0, \frac{2}{2}\right)", r"x \in [0,1)"],
    [r"\{1, 2\}", r"\left\{ 2, 1 \right\}", r"\{2, 1.0, 1\}", r"\lbrace 1, 2\rbrace"],
    ["3, 5, 7", "7,5,3", r"5, \frac{6}{2}, 7"],
    [r"(-\infty, 2]", r"(- \infty,2.0]"],
    [r"(2, +\infty)", r"(2,\infty)"],
    [
        r"\begin{pmatrix} 1/2 \\ -3 \end{pmatrix}",
        r"\begin{bmatrix}\frac{1}{2}\\-3\\\end{bmatrix}",
        r"\\begin{pmatrix} \\frac12 \\\\ -3 \\end{pmatrix}",
    ],
    [r"\\{6, 7\\}", r"\{6, 7\}"],
    [r"\frac{10 000}{3}", r"\frac{10000}{3}", r"\frac{10,000}3"],
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
        (r"3\,\mathrm{i}", "3"),  # a constant, no unit
        (r"2\text{x}", "2"),
        (r"5\text{ or }6", "5"),
        ("1 00", "100"),  # no thousands
        ("1 0000", "10000"),
        ("1 234/567", "1234/567"),  # mixed, as 1 1/2 is
        (r"\begin{pmatrix}a\\pi\end{pmatrix}", r"\begin{pmatrix}a\pi\end{pmatrix}"),  # a row's end, and a letter
        (r"3\,\text{p.m.}", "3"),
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


def test_math500_solutions_match_their_answers(shared_data: Path) -> None:
    data = read_rows(shared_data / "math500" / "test.jsonl")
    assert len(data) == 500
    for row in data:
        assert math_equal(row["solution"], row["answer"]) == 1
        assert math_equal(rf"\boxed{{{row['answer']}}}", row["solution"]) == 1
