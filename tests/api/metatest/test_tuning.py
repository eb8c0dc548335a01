"""What a tuning of the meta-test sees, and that it is AdamW on the mean over answer tokens, by hand."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import zofo
from tests.metatest_output import parts_in, predictions
from tests.metatest_protocol import ALL_TUNED, SubjectCalls, firsts_of_each_class, protocol_on, start_of
from tests.scores_by_hand import answer_tokens, chosen
from tests.setting_files import read_rows
from tests.small_setting import best_s
from zofo.api.metatest.plan import SEEDS, Plan
from zofo.errors import ZofoError


def test_tuned_on_four_rows_of_each_class_of_the_seeds_file(
    run_of: Any, small_setting: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """film: 2 classes; kind: 3, of which `sport` has 3 rows, which is said; quiz: no classes, 4 in all."""
    calls = SubjectCalls(monkeypatch)
    protocol = protocol_on(run_of("shared"), small_setting, Plan(("tuned",), rates=(1e-3,)))
    with caplog.at_level(logging.WARNING, "zofo"):
        parts = protocol.run()
    assert [t["seed"] for t in calls.tunings] == [*SEEDS] * 3
    data = small_setting.parent / "data"
    for tuning in calls.tunings:
        assert (tuning["steps"], tuning["batch"], tuning["rate"]) == (10, 4, 1e-3)
        if tuning["task"] == "quiz":
            assert len(set(tuning["texts"])) == 4
            assert set(tuning["texts"]) <= {
                (r["input"], "\n" + r["output"]) for r in read_rows(data / "quiz" / "train.jsonl")
            }
            continue
        rows = read_rows(data / tuning["task"] / f"{tuning['task']}_16_{tuning['seed']}_train.jsonl")
        assert sorted(tuning["texts"]) == sorted(firsts_of_each_class(rows, 4))
    assert {(p["task"], p["tuned_on"]) for p in parts} == {("film", 8), ("kind", 11), ("quiz", 4)}
    quizzes = [frozenset(t["texts"]) for t in calls.tunings if t["task"] == "quiz"]
    assert len(set(quizzes)) == 5, "another draw for each seed"
    assert '"sport" has 3' in caplog.text


def test_no_warning_of_rows_to_tune_on_where_nothing_is_tuned(
    run_of: Any, small_setting: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "zofo"):
        protocol_on(run_of("shared"), small_setting, Plan(("zero-shot",))).run()
    assert "rows to tune on" not in caplog.text


@pytest.mark.parametrize("way", ["tuned", "tuned-fresh"])
def test_tuning_is_adamw_on_the_mean_over_answer_tokens(
    way: str, run_of: Any, small_setting: Path, tmp_path: Path
) -> None:
    """By hand with plain transformers and PEFT; one batch of all rows, so that their order does not matter."""
    from peft import LoraConfig, PeftModel, get_peft_model

    run, task, seed, rate = run_of("shared"), "film", 13, 1e-2
    out = tmp_path / "out"
    zofo.meta_test(run, ways=[way], seeds=(seed,), rates=(rate,), steps=3, batch_size=99, output=out)
    model, tokenizer = zofo.load(run, adapter="theta")
    protocol = protocol_on(run, small_setting, ALL_TUNED)
    start = start_of(protocol, way)
    if way == "tuned":
        model = PeftModel.from_pretrained(model, best_s(run), is_trainable=True)
    else:
        kind = LoraConfig.from_pretrained(str(best_s(run)))
        kind.inference_mode = False
        model = get_peft_model(model, kind)
        names = dict(model.named_parameters())
        for key, value in start.items():
            names[key.replace(".weight", ".default.weight")].data.copy_(value)
    model.eval()
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    data = small_setting.parent / "data" / task
    rows = firsts_of_each_class(read_rows(data / f"film_16_{seed}_train.jsonl"), 4)
    assert len(rows) == 8
    for _ in range(3):
        optimizer.zero_grad()
        value = -torch.cat([answer_tokens(model, tokenizer, *row) for row in rows]).mean()
        value.backward()
        optimizer.step()
    part = parts_in(out)[f"{way}/film-13.json"]
    assert part["tuning_loss"] == pytest.approx(float(value.detach()), rel=1e-4)
    by_id = {row["id"]: row for row in predictions(out, way, task, seed)}
    tests = read_rows(data / "film_16_100_test.jsonl")
    assert len(by_id) == len(tests) == part["n"]
    for number, row in enumerate(tests):
        _, expected = chosen(model, tokenizer, row)
        assert by_id[f"film/test/{number}"]["scores"] == pytest.approx(expected, abs=2e-3)


def test_a_tuning_that_diverges_says_which(run_of: Any) -> None:
    with pytest.raises(ZofoError, match="film") as error:
        zofo.meta_test(run_of("shared"), ways=["tuned"], seeds=(100,), rates=(1e30,), test_examples=4)
    assert "1e+30" in str(error.value)
