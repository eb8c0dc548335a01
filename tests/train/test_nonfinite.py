"""Losses that are not finite, rates far too high, shifts without effect: what stops a run, and with which words."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import EarlyStoppingCallback

from tests.conftest import read_rows
from tests.small_runs import METHODS, SMALL
from zofo import RunError, finetune
from zofo.cli.main import run as command_line
from zofo.errors import NonFiniteError
from zofo.methods._nonfinite import Refusals
from zofo.objectives import _loss
from zofo.train import setup
from zofo.train.progress import Skips
from zofo.train.selection import Best, Selection

NAN, INF = float("nan"), float("inf")


def spoil(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], None]) -> None:
    """The model is changed after it is loaded."""
    real = setup.load_model

    def broken(config: Any) -> Any:
        loaded = real(config)
        with torch.no_grad():
            change(loaded.model)
        return loaded

    monkeypatch.setattr(setup, "load_model", broken)


def strict(text: str) -> Any:
    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


# ------------------------------------------------------------------------------------------------ what is said of theta


@pytest.mark.parametrize("method", ["mezo", "fo-peft", "bilevel-zofo"])
def test_a_model_of_nan_is_said_to_be_one(
    method: str, tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One weight of the head's norm is NaN: every loss is from the first step, and theta is not intact."""
    spoil(monkeypatch, lambda model: model.model.norm.weight[0].fill_(NAN))
    words = r"^step 0: .*nan.*; 1 tensor holds NaN or infinite weights \(model.norm.weight\) before any"
    with pytest.raises(RunError, match=words):
        finetune(str(tiny_model_dir), str(sentiment_file), METHODS[method], output_dir=tmp_path / "out", **SMALL)


def test_a_rate_far_too_high_stops_with_weights_that_are_finite(
    tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path
) -> None:
    method = {"name": "mezo", "lr": 1e41}
    words = "stopped before that update; theta and the adapters are finite; start again with lower rates"
    with pytest.raises(RunError, match=re.escape(words)):
        finetune(str(tiny_model_dir), str(sentiment_file), method, output_dir=tmp_path / "out", **SMALL)


def test_theta_that_an_update_broke_is_not_called_intact(
    tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In fp16 a rate of 1e6 leaves inf in every tensor, and the update after that is refused: it comes too late."""
    with pytest.raises(RunError) as caught:
        finetune(
            str(tiny_model_dir),
            str(sentiment_file),
            {"name": "mezo", "lr": 1e6},
            output_dir=tmp_path / "out",
            overrides=["model.dtype=float16"],
            **SMALL,
        )
    assert re.search(r"^step \d: .*; \d+ tensors hold NaN or infinite weights \(model\.embed", str(caught.value))
    assert "an update before this one overflowed" in str(caught.value)
    assert "lower rates or model.dtype=float32" in str(caught.value)
    assert "intact" not in str(caught.value)
    assert "finite checkpoint" not in str(caught.value)  # there is none


@pytest.mark.parametrize("theta", ["backbone", "adapter"])
def test_the_last_finite_checkpoint_is_named_and_ends_the_run(
    theta: str, tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight becomes NaN after step 5: of the checkpoints at 2, 4, 6 that at 4 is named, and the command works."""
    from zofo.methods import mezo

    real = mezo.Method.step

    def step(self: Any, k: int) -> Any:
        values = real(self, k)
        if k == 4:
            next(iter(self.problem.theta.params.values())).data.view(-1)[0] = NAN
        return values

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(mezo.Method, "step", step)
        patch.setattr(_loss.Loss, "each", _unless_nan(_loss.Loss.each))
        with pytest.raises(RunError) as caught:
            finetune(
                str(tiny_model_dir),
                str(sentiment_file),
                {"name": "mezo"},
                {"name": "lora"} if theta == "adapter" else None,
                output_dir=out,
                **{**SMALL, "eval_steps": 8, "save_steps": 2},
            )
    command = re.search(
        rf"end it with what is best on dev until step 4: zofo (train --resume {out}/checkpoint-4 .*)$",
        str(caught.value),
    )
    assert command is not None
    assert command_line(shlex.split(command[1])) == 0
    assert strict((out / "run.json").read_text())["steps"]["upper"] == 4


def _unless_nan(real: Any) -> Any:
    """`Loss.each`, which fails where a later step would have read the NaN: at step 7, after the save at 6."""
    calls: list[int] = []

    def each(self: Any, parts: Any) -> Any:
        calls.append(1)
        if len(calls) > 12:
            raise NonFiniteError("the loss is nan")
        return [0.5 for _ in parts] if len(calls) > 10 else real(self, parts)

    return each


# -------------------------------------------------------------------------------------------------- on_nonfinite: skip


def failing(monkeypatch: pytest.MonkeyPatch, fails: Callable[[int], bool]) -> list[int]:
    """`Loss.backward` raises at the calls (from 1) of which `fails` says so."""
    real, calls = _loss.Loss.backward, []

    def sometimes(self: Any, batch: Any, scale: float = 1.0) -> float:
        calls.append(1)
        if fails(len(calls)):
            raise NonFiniteError("the loss is nan")
        return real(self, batch, scale)

    monkeypatch.setattr(_loss.Loss, "backward", sometimes)
    return calls


def skipping(model: Path, rows: Path, out: Path, **more: Any) -> Any:
    return finetune(str(model), str(rows), METHODS["fo-peft"], output_dir=out, on_nonfinite="skip", **{**SMALL, **more})


def test_nonfinite_updates_are_skipped_where_asked(
    tmp_path: Path,
    tiny_model_dir: Path,
    sentiment_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls = failing(monkeypatch, lambda call: call == 3)
    run = skipping(tiny_model_dir, sentiment_file, tmp_path / "out", logging_steps=2)
    assert run.info["skipped"] == 1
    assert len(calls) == 8
    said = capsys.readouterr().err
    words = "updates skipped: their loss or gradient was not finite"
    shown = [line for line in said.splitlines() if line.startswith("step ") and " dev " not in line]
    assert [" | 1 update skipped | " in line for line in shown] == [False, False, True, True, True]
    assert f"warning: step 3: 1 of 3 {words} (the last: " in said
    assert "; more of them: start again with lower rates" in said
    assert f"warning: 1 of 8 {words} (train.on_nonfinite=skip)" in said


@pytest.mark.parametrize(("skipped", "fails"), [(4, False), (5, True), (8, True)])
def test_more_than_half_skipped_is_a_failed_run_that_is_saved(
    skipped: int,
    fails: bool,
    tmp_path: Path,
    tiny_model_dir: Path,
    sentiment_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failing(monkeypatch, lambda call: call <= skipped)
    out = tmp_path / "out"
    if fails:
        with pytest.raises(RunError, match=rf"^{skipped} of 8 updates skipped: .*start again with lower rates"):
            skipping(tiny_model_dir, sentiment_file, out)
        assert RunError.exit_code == 1
    else:
        skipping(tiny_model_dir, sentiment_file, out)
    assert strict((out / "run.json").read_text())["skipped"] == skipped
    assert (out / "README.md").is_file()


def test_skips_are_counted_over_a_resume(
    tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, lambda call: call > 2)  # 2 of 4, and then 6 of 8
    skipping(tiny_model_dir, sentiment_file, tmp_path / "out", max_steps=4)
    with pytest.raises(RunError, match=r"^6 of 8 updates skipped"):
        skipping(tiny_model_dir, sentiment_file, tmp_path / "out", resume="latest")


def test_skips_are_said_at_the_first_and_as_they_double() -> None:
    refusals = Refusals("skip")
    skips, said = Skips(refusals), []
    for count in range(1, 40):
        refusals.refused("upper", "upper update: the loss is nan")
        if words := skips.check({"lower": 0, "upper": 60}):
            said.append(count)
            assert words.startswith(f"{count} of 60 updates skipped: ")
    assert said == [1, 2, 4, 8, 16, 32]
    refusals.refused("lower", "lower update: the loss is nan")  # counted by itself
    words = skips.check({"lower": 60, "upper": 60}) or ""
    assert words.startswith("1 of 60 lower updates skipped: ")


# --------------------------------------------------------------------------------------------------------- comparisons


def values(loss: float, accuracy: float = 0.5, **more: float) -> dict[str, float]:
    return {"loss": loss, "accuracy": accuracy, "n": 10, **more}


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("by", ["loss", "metric"])
def test_what_is_not_finite_never_wins(by: str, bad: float) -> None:
    """Neither among the candidates, in either order, nor as the first evaluation, nor over a later one."""
    pick = Selection(by, "accuracy", ("s", "p"))
    worst = values(bad, bad)
    for s, p, winner in ((worst, values(2.0), "p"), (values(2.0), worst, "s")):
        best = pick.better({"s": s, "p": p}, None, 1, 1, None)
        assert best is not None
        assert (best.candidate, best.score) == (winner, -0.5 if by == "metric" else 2.0)
        assert pick.better({"s": worst, "p": worst}, best, 2, 2, None) is None
    assert pick.better({"s": worst, "p": worst}, None, 1, 1, None) is None
    of_before = Best(1, 1, "s", NAN, None, {})  # of a checkpoint that an earlier version wrote
    assert pick.better({"s": values(2.0), "p": worst}, of_before, 2, 2, None) is not None


def test_a_metric_of_no_prediction_at_all_does_not_win() -> None:
    pick = Selection("metric", "accuracy", ("s", "p"))
    none = values(NAN, 0.0, unpredicted=10)
    assert pick.better({"s": none, "p": none}, None, 1, 1, None) is None
    some = values(NAN, 0.0, unpredicted=9)  # one example is predicted, and wrong
    best = pick.better({"s": none, "p": some}, None, 1, 1, None)
    assert best is not None
    assert best.candidate == "p"


def nan_in_dev(monkeypatch: pytest.MonkeyPatch, when: Callable[[int, str], bool]) -> None:
    """The dev evaluation number i (from 0) of a candidate is that of a model of NaN where `when` says so."""
    from zofo.train.loop import Loop

    real, seen = Loop.evaluate, []

    def evaluate(self: Any, split: str, adapter: str) -> Any:
        if split == "dev":
            seen.append(adapter)
        if split == "dev" and when(seen.count(adapter) - 1, adapter):
            with torch.no_grad():
                gain = self.session.loaded.model.model.norm.weight
                kept = gain[0].clone()
                gain[0] = NAN
                try:
                    return real(self, split, adapter)
                finally:
                    gain[0] = kept
        return real(self, split, adapter)

    monkeypatch.setattr(Loop, "evaluate", evaluate)


@pytest.mark.parametrize("select_by", ["loss", "metric"])
def test_a_candidate_of_nan_does_not_win_and_the_files_are_json(
    select_by: str, tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """s is NaN in the first evaluation and p in the second; all that a run writes is read by a strict parser."""
    nan_in_dev(monkeypatch, lambda i, name: name == ("s", "p")[i % 2])
    out = tmp_path / "out"
    run = finetune(
        str(tiny_model_dir),
        str(sentiment_file),
        METHODS["bilevel-zofo"],
        output_dir=out,
        callbacks=[EarlyStoppingCallback(5)],
        select_by=select_by,
        **SMALL,
    )
    assert run.dev["loss"] == run.dev["loss"]
    files = [*out.rglob("*.json"), *out.rglob("*.jsonl")]
    assert {"run.json", "metrics.jsonl", "state.json", "trainer_state.json"} <= {path.name for path in files}
    for path in files:
        for text in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            strict(text)
    dev = [line for line in read_rows(out / "metrics.jsonl") if line["event"] == "dev"]
    assert [line["loss"] is None for line in dev] == [True, False, False, True]
    assert dev[0]["unpredicted"] == dev[0]["n"]


def test_an_evaluation_of_nan_alone_fails_the_run(
    tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan_in_dev(monkeypatch, lambda i, name: i == 1)
    with pytest.raises(RunError, match=r"^step 8: the scores of all dev examples are NaN; .*--max-steps 4$"):
        finetune(str(tiny_model_dir), str(sentiment_file), METHODS["mezo"], output_dir=tmp_path / "out", **SMALL)
    assert not (tmp_path / "out" / "run.json").exists()
