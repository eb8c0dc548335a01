"""Results: means over tasks, spread over seeds and the worst seed, from the predictions alone."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

import zofo
from tests.metatest_output import parts_in, predictions, results_in
from tests.setting_files import JsonRow, as_task, write_rows
from tests.small_setting import make_setting, quiz
from zofo.api.metatest.plan import SEEDS
from zofo.api.metatest.results import summary


def test_macro_f1_accuracy_mean_sd_and_worst_by_hand(small_setting: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    """From the predictions alone, with scikit-learn and statistics."""
    from sklearn.metrics import accuracy_score, f1_score

    out = tmp_path / "out"
    results = zofo.meta_test(
        tiny_model_dir, **as_task(small_setting), ways=["zero-shot", "in-context"], k=2, output=out
    )
    assert results_in(out) == json.loads(json.dumps(results))
    score: dict[tuple[str, int], float] = {}
    for task in ("film", "kind", "quiz"):
        for seed in SEEDS:
            rows = predictions(out, "in-context", task, seed)
            gold, predicted = [row["gold"][0] for row in rows], [row["predicted"] for row in rows]
            assert all(
                row["predicted"] == max(range(len(row["scores"])), key=row["scores"].__getitem__) for row in rows
            )
            exact = accuracy_score(gold, predicted) if task == "quiz" else f1_score(gold, predicted, average="macro")
            score[task, seed] = float(exact)
            part = parts_in(out)[f"in-context/{task}-{seed}.json"]
            assert part["value"] == pytest.approx(exact, abs=1e-12)
            assert part["metric"] == ("accuracy" if task == "quiz" else "macro_f1")
            assert (part["way"], part["task"], part["seed"], part["n"]) == ("in-context", task, seed, 12)
    in_context = results["ways"]["in-context"]
    for tasks, block in ((("film", "kind", "quiz"), in_context["all"]), (("quiz",), in_context["unseen_domain"])):
        means = {str(seed): statistics.fmean(score[task, seed] for task in tasks) for seed in SEEDS}
        assert block["seeds"] == pytest.approx(means)
        assert block["mean"] == pytest.approx(statistics.fmean(means.values()))
        assert block["sd"] == pytest.approx(statistics.stdev(means.values()))
        assert block["worst"] == pytest.approx(min(means.values()))
    assert in_context["all"]["sd"] > 0
    for task in ("film", "kind", "quiz"):
        of_task = in_context["tasks"][task]
        assert of_task["mean"] == pytest.approx(statistics.fmean(score[task, seed] for seed in SEEDS))
        assert of_task["worst"] == pytest.approx(min(score[task, seed] for seed in SEEDS))
    assert results["ways"]["zero-shot"]["all"]["sd"] is None
    assert results["ways"]["zero-shot"]["all"]["seeds"].keys() == {"100"}
    assert len(list((out / "parts" / "zero-shot").iterdir())) == 3


def test_summary_of_told_parts() -> None:
    def part(task: str, seed: int, value: float, metric: str = "accuracy") -> JsonRow:
        return {"way": "tuned", "task": task, "seed": seed, "value": value, "metric": metric, "n": 10, "seconds": 2.0}

    parts = [
        part("a", 1, 0.2),
        part("b", 1, 0.6),
        part("a", 2, 0.4),
        part("b", 2, 0.8),
        part("a", 3, 0.9),
        part("b", 3, 0.1),
    ]
    tuned = summary(parts, unseen=["b"])["tuned"]
    assert tuned["all"]["seeds"] == pytest.approx({"1": 0.4, "2": 0.6, "3": 0.5})
    assert tuned["all"]["mean"] == pytest.approx(0.5)
    assert tuned["all"]["sd"] == pytest.approx(0.1)
    assert tuned["all"]["worst"] == pytest.approx(0.4)
    assert tuned["unseen_domain"]["mean"] == pytest.approx(0.5)
    assert tuned["unseen_domain"]["worst"] == pytest.approx(0.1)
    assert tuned["seconds_per_example"] == pytest.approx(0.2)
    assert summary(parts)["tuned"]["unseen_domain"] is None


def test_unseen_domain_spelled_with_the_other_dash(tmp_path: Path, tiny_model_dir: Path) -> None:
    """- and _ are the same in names."""
    setting = make_setting(tmp_path, target=["film", "my_quiz"], unseen_domain=["my-quiz"])
    folder = setting.parent / "data" / "my-quiz"
    write_rows(folder / "train.jsonl", quiz("my-quiz", 12, 1))
    write_rows(folder / "test.jsonl", quiz("my-quiz", 12, 2))
    result = zofo.meta_test(tiny_model_dir, **as_task(setting), ways=["zero-shot"])
    assert result["ways"]["zero-shot"]["unseen_domain"] is not None
