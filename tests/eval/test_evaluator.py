"""What an evaluation makes of several texts of one example."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest

from zofo.data import Example, TaskData
from zofo.data.example import Decoding
from zofo.eval.evaluator import Evaluator


def test_a_metric_of_texts_is_the_mean_over_an_examples_samples(tiny_tokenizer: Any) -> None:
    """Not the best of them: half of one example's texts are right, none of the other's."""
    examples = [
        Example(f"e{i}", "a question", ("",), (0,), reference=[answer]) for i, answer in enumerate(("ten", "two"))
    ]
    data = TaskData("texts", 1, "lm", ("exact_match",), [], [], examples, (), "generation", Decoding(samples=4))
    nothing_runs: Any = None
    evaluator = Evaluator(nothing_runs, data, tiny_tokenizer, None, 2, 0)
    texts = [["ten", "ten", "six", ""], ["six"] * 4]
    assert evaluator.measure(texts, examples) == [{"exact_match": 0.5}, {"exact_match": 0.0}]
    both = replace(evaluator, data=replace(data, metrics=("exact_match", "token_f1")))
    assert both.measure([["ten cats"] * 4], examples[:1]) == [{"exact_match": 0.0, "token_f1": pytest.approx(2 / 3)}]


@pytest.mark.skipif(find_spec("math_verify") is None, reason="needs the extra zofo[math]")
def test_both_measures_of_mathematics_beside_each_other(tiny_tokenizer: Any) -> None:
    example = Example("e", "a question", ("",), (0,), reference=r"2\sqrt{3}")
    data = TaskData(
        "t", 1, "lm", ("math_equal", "math_verify"), [], [], [example], (), "generation", Decoding(samples=3)
    )
    nothing_runs: Any = None
    evaluator = Evaluator(nothing_runs, data, tiny_tokenizer, None, 2, 0)
    texts = [[r"so \boxed{2\sqrt3}", r"so \boxed{\sqrt{12}}", r"so \boxed{3}"]]
    assert evaluator.measure(texts, [example]) == [
        {"math_equal": pytest.approx(1 / 3), "math_verify": pytest.approx(2 / 3)}
    ]
