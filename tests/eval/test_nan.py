"""Scores that are NaN: no prediction, named and counted as wrong; a model of NaN has no result."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from tests.conftest import read_rows
from tests.family_runs import load_family
from tests.option_rows import with_options
from tests.tiny_models import cpu_loss
from zofo import RunError, evaluate
from zofo.api.predictions import write_files
from zofo.data import Decoding, TaskData
from zofo.data.batch import collate
from zofo.data.example import TASK_MEAN, objective_of
from zofo.data.metrics import NONE, accuracy, macro_f1, report
from zofo.eval.evaluator import Evaluator
from zofo.eval.likelihood import as_rows, likeliest, null_key
from zofo.eval.likelihood import evaluate as score

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("scores", "option"),
    [
        ([-1.0, -0.5], 1),
        ([-0.5, -0.5], 0),
        ([-INF, -9.0], 1),
        ([NAN, -0.5], NONE),
        ([-0.5, NAN], NONE),
        ([NAN, NAN], NONE),
        ([-INF, -INF], NONE),
    ],
)
def test_the_likeliest_option(scores: list[float], option: int) -> None:
    assert likeliest(torch.tensor(scores)) == option


def test_metrics_of_examples_without_a_prediction_by_hand() -> None:
    gold, predicted = [(0,), (0,), (1,), (1,)], [0, NONE, 1, NONE]
    assert accuracy(gold, predicted) == 0.5
    assert macro_f1(gold, predicted) == pytest.approx(2 / 3)  # of each class one hit and one miss: 2 / (2 + 1)
    assert macro_f1(gold, [NONE] * 4) == accuracy(gold, [NONE] * 4) == 0
    told = report(gold, predicted, ("no", "yes"))
    assert told["confusion"] == [[1, 0], [0, 1]]
    assert told["unpredicted"] == [1, 1]
    assert [told["classes"][name]["support"] for name in ("no", "yes")] == [2, 2]
    assert [told["classes"][name]["recall"] for name in ("no", "yes")] == [0.5, 0.5]
    assert [told["classes"][name]["precision"] for name in ("no", "yes")] == [1.0, 1.0]
    assert "unpredicted" not in report(gold, [0, 0, 1, 1], ("no", "yes"))


class Spoilt:
    """A scorer that says NaN for the labels of some examples."""

    def __init__(self, scorer: Any, ids: set[str]) -> None:
        self.scorer, self.ids = scorer, ids

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scorer, name)

    def logprobs(self, batch: Any, **kwargs: Any) -> torch.Tensor:
        logp = self.scorer.logprobs(batch, **kwargs)
        bad = torch.tensor([e.example.id in self.ids for e in batch.source])
        return logp.masked_fill(bad[batch.option_example[batch.option]], NAN)


def spoilt(model: Any, objective: str, ids: set[str]) -> Any:
    loss = cpu_loss(model, objective)
    loss.scorer = Spoilt(loss.scorer, ids)  # pyright: ignore[reportAttributeAccessIssue]
    return loss


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> Any:
    return load_family(tiny_model_dir)


@pytest.mark.parametrize("size", [1, 2, 9])
@pytest.mark.parametrize("objective", ["options", "lm"])
@pytest.mark.parametrize("scoring", ["mean", "sum", "characters"])
def test_some_examples(scoring: Any, objective: str, size: int, model: Any, tiny_tokenizer: Any) -> None:
    """The others keep their numbers; the mean of the losses is NaN, which says so itself."""
    encoded = with_options(tiny_tokenizer)
    whole = score(cpu_loss(model, objective), encoded, "accuracy", size, scoring=scoring)
    part = score(spoilt(model, objective, {"b", "e"}), encoded, "accuracy", size, scoring=scoring)
    assert [p.predicted for p in part.predictions if p.id in ("b", "e")] == [NONE, NONE]
    for one, other in zip(whole.predictions, part.predictions):
        if one.id not in ("b", "e"):
            assert other == one
    right = sum(p.predicted in p.gold for p in whole.predictions if p.id not in ("b", "e"))
    assert part.values["accuracy"] == right / len(encoded)
    assert part.values["unpredicted"] == 2
    assert part.unpredicted == ["b", "e"]
    assert math.isnan(part.loss)
    assert not part.void
    assert part.checked("here") is part
    row = as_rows(part, encoded)[1]
    assert (row["predicted"], row["correct"]) == (None, False)
    assert "unpredicted" not in whole.values


def test_all_examples(model: Any, tiny_tokenizer: Any) -> None:
    encoded = with_options(tiny_tokenizer)
    nothing = score(spoilt(model, "options", {e.example.id for e in encoded}), encoded, "accuracy", 2)
    assert nothing.void
    assert nothing.values["accuracy"] == 0
    with pytest.raises(RunError, match=r"^task x, test: the scores of all 5 examples are NaN, so there is no result"):
        nothing.checked("task x, test")


@pytest.mark.parametrize("scoring", ["calibrated", "pmi"])
def test_scores_without_an_input_that_are_nan(scoring: Any, model: Any, tiny_tokenizer: Any) -> None:
    """What is taken off is NaN, for the options of one prompt alone: its examples have no prediction."""
    encoded = with_options(tiny_tokenizer)
    null = {null_key(e.example): [NAN if e.example.id == "c" else -1.0] * e.n_options for e in encoded}
    found = score(cpu_loss(model, "options"), encoded, "accuracy", 2, scoring=scoring, null=null)
    assert found.unpredicted == ["c"]
    assert math.isfinite(found.loss)


def data(kind: Any = "options", groups: Any = None, metrics: tuple[str, ...] = ("accuracy",)) -> TaskData:
    return TaskData("film", 1, "options", metrics, [], [], [], (), kind=kind, groups=groups or {})


def test_an_evaluator_names_the_first(model: Any, tiny_tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    evaluator = Evaluator(spoilt(model, "options", {"b", "e"}), data(), tiny_tokenizer, None, 2, 0)
    with caplog.at_level(logging.WARNING, "zofo"):
        evaluator(with_options(tiny_tokenizer))
    assert [r.getMessage() for r in caplog.records] == [
        "film: 2 of 5 examples have scores that are NaN (b is the first): no prediction, counted as wrong"
    ]
    caplog.clear()
    Evaluator(cpu_loss(model, "options"), data(), tiny_tokenizer, None, 2, 0)(with_options(tiny_tokenizer))
    assert not caplog.records


def test_the_mean_over_tasks(model: Any, tiny_tokenizer: Any) -> None:
    """A task whose examples are all NaN counts as 0, under both metrics, and the others as before."""
    encoded = [
        replace(e, example=replace(e.example, group="odd" if e.example.id in "ac" else "even"))
        for e in with_options(tiny_tokenizer)
    ]
    groups = {"odd": "macro_f1", "even": "accuracy"}
    values = []
    for ids in (set(), {"a", "c"}):
        evaluator = Evaluator(spoilt(model, "options", ids), data(groups=groups), tiny_tokenizer, None, 2, 0)
        values.append(evaluator(encoded))
    whole, part = values
    assert part.report["tasks"]["odd"]["macro_f1"] == 0
    assert part.report["tasks"]["even"] == whole.report["tasks"]["even"]
    assert part.values[TASK_MEAN] == part.report["tasks"]["even"]["accuracy"] / 2


def test_texts_of_a_model_of_nan_are_wrong_though_they_match(model: Any, tiny_tokenizer: Any) -> None:
    encoded = [replace(e, example=replace(e.example, reference="good")) for e in with_options(tiny_tokenizer)]
    task = TaskData(
        "film", 1, "lm", ("exact_match",), [], [], [], (), kind="generation", decoding=Decoding(max_new_tokens=2)
    )
    evaluator = Evaluator(spoilt(model, "lm", {"b"}), task, tiny_tokenizer, None, 2, 0)
    evaluator.decode = lambda examples, progress=None: [["good"] for _ in examples]  # pyright: ignore
    found = evaluator(encoded)
    assert found.values["exact_match"] == 0.8
    assert found.predictions[1].measures == {"exact_match": 0.0}


def test_the_metric_as_objective_is_nan(model: Any, tiny_tokenizer: Any) -> None:
    """A zeroth-order update on it is refused, instead of learning that a broken model is only wrong."""
    batch = collate(with_options(tiny_tokenizer), 0)
    for ids, bad in ((set(), False), ({"b"}, True)):
        loss = spoilt(model, "options", ids).of(objective_of("metric")())
        assert math.isnan(loss(batch)) == bad
    sums, _ = objective_of("metric")()(torch.full((batch.labels.numel(),), -INF), batch)
    assert sums.tolist() == [0.0] * 5  # nothing is likelier than the rest: no option is the right one


def test_zofo_eval_of_a_model_of_nan_has_no_result(tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path) -> None:
    broken = load_family(tiny_model_dir)
    with torch.no_grad():
        broken.model.norm.weight *= 3e38  # each weight is a number, and their products are none
    broken.save_pretrained(tmp_path / "broken")
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(tmp_path / "broken")
    with pytest.raises(RunError, match=r"test: the scores of all \d+ examples are NaN"):
        evaluate(tmp_path / "broken", task=str(sentiment_file), output=tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_files_of_an_evaluation_hold_no_bare_nan(tmp_path: Path, model: Any, tiny_tokenizer: Any) -> None:
    encoded = with_options(tiny_tokenizer)
    part = score(spoilt(model, "options", {"b"}), encoded, "accuracy", 2)
    write_files(tmp_path, part, encoded, {"model": "m"})
    rows = read_rows(tmp_path / "predictions.jsonl")
    assert rows[1]["scores"] == [None] * 4
    assert rows[1]["loss"] is rows[1]["predicted"] is None
    assert json.loads((tmp_path / "results.json").read_text())["loss"] is None
    assert "NaN" not in (tmp_path / "predictions.jsonl").read_text() + (tmp_path / "results.json").read_text()
