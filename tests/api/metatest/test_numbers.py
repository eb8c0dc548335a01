"""The numbers of a meta-test by hand: scores of every way to write, as the run and `zofo eval` have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import zofo
from tests.metatest_output import parts_in, predictions
from tests.metatest_protocol import QUICK
from tests.scores_by_hand import answer_tokens, chosen
from tests.setting_files import as_task, read_rows
from tests.small_setting import KINDS, run_info


@pytest.mark.parametrize("k", [0, 2])
def test_pmi_by_hand(k: int, small_setting: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    """Mean token log-probability minus that with the input N/A, in the same context."""
    model, tokenizer = zofo.load(tiny_model_dir)
    data, out, way = small_setting.parent / "data", tmp_path / "out", "in-context" if k else "zero-shot"
    zofo.meta_test(
        tiny_model_dir,
        **as_task(small_setting),
        ways=[way],
        seeds=(13,),
        k=k or 4,
        output=out,
        test_examples=5,
        overrides=["task.scoring=pmi"],
    )
    checked = 0
    for task, file in (("film", "film_16_100_test.jsonl"), ("quiz", "test.jsonl")):
        tests = read_rows(data / task / file)
        for row in predictions(out, way, task, 13):
            context = row["prompt"].rpartition("\n\n\n")[0] + "\n\n\n" if k else ""
            asked = {**tests[int(row["id"].rpartition("/")[2])]}
            asked["options"] = [answer.removeprefix("\n") for answer in row["answers"]]
            predicted, expected = chosen(model, tokenizer, asked, context, null=True)
            assert row["scores"] == pytest.approx(expected, abs=1e-4)
            assert row["predicted"] == predicted
            checked += 1
    assert checked == 10


@pytest.mark.parametrize("k", [0, 2])
@torch.no_grad()
def test_channel_by_hand(k: int, small_setting: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    """Output, newline, input: the option under which the input is likeliest, by the mean over its tokens."""
    model, tokenizer = zofo.load(tiny_model_dir)
    data, out, way = small_setting.parent / "data", tmp_path / "out", "in-context" if k else "zero-shot"
    zofo.meta_test(
        tiny_model_dir,
        **as_task(small_setting),
        ways=[way],
        seeds=(13,),
        k=k or 4,
        output=out,
        test_examples=5,
        overrides=["task.template=channel"],
    )
    tests = read_rows(data / "kind" / "kind_16_100_test.jsonl")
    shown = read_rows(data / "kind" / "kind_16_13_train.jsonl")[:k]
    context = "".join(f"{row['output']}\n{row['input']}\n\n\n" for row in shown)
    for row in predictions(out, way, "kind", 13):
        asked = tests[int(row["id"].rpartition("/")[2])]
        expected = [
            float(answer_tokens(model, tokenizer, context + option, "\n" + asked["input"]).mean()) for option in KINDS
        ]
        assert sorted(row["scores"]) == pytest.approx(sorted(expected), abs=1e-4)
        labels = asked["options"] if not k else list(KINDS)
        assert row["scores"] == pytest.approx(expected, abs=1e-4), labels
        assert row["gold"] == [list(KINDS).index(asked["output"])]


def test_zero_shot_is_what_the_run_says_of_theta_and_of_s(run_of: Any, tmp_path: Path) -> None:
    """The run's own evaluation of its candidates, on as many test rows: by the same seed they are the same."""
    run = run_of("shared")
    info = run_info(run)
    result = zofo.meta_test(run, ways=["zero-shot", "zero-shot-s"], test_examples=6)
    for way, name in (("zero-shot", "theta"), ("zero-shot-s", "s")):
        assert result["ways"][way]["all"]["mean"] == pytest.approx(info["test"][name]["task_mean"], abs=1e-9)


def test_in_context_and_tuned_of_one_run_are_two_measurements(run_of: Any, tmp_path: Path) -> None:
    ways = ["tuned-fresh", "in-context", "zero-shot"]
    result = zofo.meta_test(run_of("metaicl"), ways=ways, output=tmp_path / "out", **QUICK)
    assert (result["k"], list(result["ways"])) == (2, ways)
    losses = [part["loss"] for part in parts_in(tmp_path / "out").values()]
    assert len(set(losses)) == len(losses) == 3 * (2 + 2 + 1)


def test_the_numbers_do_not_hang_on_the_batch_size(run_of: Any, tmp_path: Path) -> None:
    for size in (1, 32):
        zofo.meta_test(run_of("shared"), output=tmp_path / str(size), eval_batch_size=size, **QUICK)
    one, many = (parts_in(tmp_path / str(size)) for size in (1, 32))
    assert one.keys() == many.keys()
    for name, part in one.items():
        assert part["loss"] == pytest.approx(many[name]["loss"], rel=1e-5), name


@pytest.mark.slow
def test_real_tasks_of_class_to_class(stories_dir: Path, shared_data: Path, tmp_path: Path) -> None:
    """A trained tiny model on the shared extracts: coverage, unseen domain, and zero-shot as `zofo eval` has it."""
    task: dict[str, Any] = {"task": "class-to-class", "data": str(shared_data / "meta")}
    plan: dict[str, Any] = {"ways": ["zero-shot", "in-context"], "test_examples": 6, "seeds": (100,)}
    result = zofo.meta_test(stories_dir, **task, **plan, output=tmp_path / "out")
    tasks = list(result["ways"]["zero-shot"]["tasks"])
    assert tasks == ["ag_news", "dbpedia_14", "hate_speech18", "medical_questions_pairs"]
    assert result["ways"]["zero-shot"]["unseen_domain"]["mean"] == pytest.approx(
        result["ways"]["zero-shot"]["tasks"]["medical_questions_pairs"]["mean"]
    )
    assert "4 of 20 target tasks (20 %)" in result["coverage"][0]
    of_eval = zofo.evaluate(stories_dir, **task, overrides=["task.test_examples=6"])
    assert of_eval["task_mean"] == pytest.approx(result["ways"]["zero-shot"]["all"]["mean"], abs=1e-9)
