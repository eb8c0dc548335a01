"""train.eval_candidates: where method.deploy fixes what is deployed, dev measures that alone; all else is as it was."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from tests.conftest import read_rows
from tests.small_runs import SMALL
from tests.traces import traces
from zofo import finetune
from zofo.api.finetune import train
from zofo.config.resolve import load
from zofo.train.selection import Selection

METHOD = {"name": "bilevel-zofo", "inner_steps": 1, "lr_theta": 1e-3, "lr_s": 1e-2}


class Losses(TrainerCallback):
    """What callbacks, such as early stopping, go by."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        self.seen.append(metrics)


@pytest.mark.parametrize("deploy", ["p", "s"])
def test_only_what_decides_is_measured(deploy: str, tiny_model_dir, sentiment_file, tmp_path) -> None:
    held, callbacks = {}, {}
    for name, chosen in (("deciding", {}), ("all", {"eval_candidates": "all"})):
        out, callbacks[name] = tmp_path / name, Losses()
        finetune(
            str(tiny_model_dir),
            str(sentiment_file),
            {**METHOD, "deploy": deploy},
            output_dir=out,
            callbacks=[callbacks[name]],
            **chosen,
            **SMALL,
        )
        held[name] = traces(out)
    few, every = held["deciding"], held["all"]
    lines: dict[str, Any] = {name: each.pop("metrics") for name, each in held.items()}
    infos: dict[str, Any] = {name: each.pop("run") for name, each in held.items()}
    assert few == every  # journal, snapshots, adapters, optimizers, predictions of both candidates
    assert lines["deciding"] == [line for line in lines["all"] if line.get("candidate", deploy) == deploy]
    assert len([line for line in lines["all"] if line["event"] == "dev"]) == 4
    assert len([line for line in lines["deciding"] if line["event"] == "dev"]) == 2
    assert set(infos["deciding"]["dev"]) == {deploy}
    assert set(infos["all"]["dev"]) == set(infos["deciding"]["test"]) == {"s", "p"}
    assert infos["deciding"]["dev"][deploy] == infos["all"]["dev"][deploy]
    for name in ("test", "best_step", "deployed", "forwards", "steps"):
        assert infos["deciding"][name] == infos["all"][name]
    for ours, theirs in zip(callbacks["deciding"].seen, callbacks["all"].seen):
        assert ours["eval_loss"] == theirs["eval_loss"] == theirs[f"eval_{deploy}_loss"]
        assert set(theirs) - set(ours) == {name for name in theirs if f"_{'s' if deploy == 'p' else 'p'}_" in name}


def test_where_dev_chooses_all_are_measured(tiny_model_dir, sentiment_file, tmp_path) -> None:
    finetune(str(tiny_model_dir), str(sentiment_file), METHOD, output_dir=tmp_path / "out", **SMALL)
    dev = [line["candidate"] for line in read_rows(tmp_path / "out" / "metrics.jsonl") if line["event"] == "dev"]
    assert dev == ["s", "p"] * 2


def test_a_run_goes_on_with_more_or_fewer(tiny_model_dir, sentiment_file, tmp_path) -> None:
    out: Path = tmp_path / "out"
    finetune(
        str(tiny_model_dir),
        str(sentiment_file),
        {**METHOD, "deploy": "s"},
        output_dir=out,
        **{**SMALL, "max_steps": 4},
    )
    config = load(out / "config.yaml")
    further = dataclasses.replace(config.train, resume="latest", max_steps=8, eval_candidates="all")
    train(dataclasses.replace(config, train=further))
    dev = [line["candidate"] for line in read_rows(out / "metrics.jsonl") if line["event"] == "dev"]
    assert dev == ["s", "s", "p"]


def test_eval_loss_is_of_what_may_be_chosen() -> None:
    """A better loss of a candidate that nobody will deploy kept early stopping waiting."""
    measured = {"s": {"loss": 0.2, "n": 4}, "p": {"loss": 0.5, "n": 4}}
    logs = Selection("loss", "accuracy", ("p",)).logs(measured)
    assert logs == {"eval_s_loss": 0.2, "eval_s_n": 4, "eval_p_loss": 0.5, "eval_p_n": 4, "eval_loss": 0.5}
    assert Selection("loss", "accuracy", ("s", "p")).logs(measured)["eval_loss"] == 0.2
    nan = {"s": {"loss": float("nan")}, "p": {"loss": 0.5}}
    assert Selection("loss", "accuracy", ("s", "p")).logs(nan)["eval_loss"] == 0.5
