"""train.on_nonfinite=halve and skips by level, through whole runs: files, words, resume, replay."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import read_rows
from tests.small_runs import METHODS, SMALL
from tests.traces import traces
from zofo import RunError, finetune
from zofo.api.restore import restore
from zofo.errors import NonFiniteError
from zofo.methods import bilevel_zofo
from zofo.methods._nonfinite import HALVINGS
from zofo.models.tensors import load_tensors
from zofo.objectives._loss import Loss
from zofo.train.callbacks import HISTORY, Callbacks
from zofo.zo.journal import Outcome, read_header, read_records
from zofo.zo.journalled import Journalled


def refusing(monkeypatch: pytest.MonkeyPatch, level: str, bad: Callable[[int], bool]) -> None:
    """The estimate of iteration k ("upper"), or s's loss in it ("lower"), is NaN where `bad(k)`."""
    if level == "upper":
        real = Journalled.update_

        def update_(self: Any, theta: Any, g: Any, lr: float, step: int, *more: Any) -> Any:
            if bad(step):
                (_, z), *rest = g.terms
                g = type(g)(((float("nan"), z), *rest), g.value, g.forwards)
            return real(self, theta, g, lr, step, *more)

        monkeypatch.setattr(Journalled, "update_", update_)
        return
    step, backward, at = bilevel_zofo.Method.step, Loss.backward, [0]

    def counted(self: Any, k: int) -> Any:
        at[0] = k
        return step(self, k)

    def spoilt(self: Any, batch: Any, scale: float = 1.0) -> float:
        if bad(at[0]) and self.adapters.current == "s":
            raise NonFiniteError("the loss is nan")
        return backward(self, batch, scale)

    monkeypatch.setattr(bilevel_zofo.Method, "step", counted)
    monkeypatch.setattr(Loss, "backward", spoilt)


BILEVEL = {**METHODS["bilevel-zofo"], "lr_theta": 1e-3, "lr_p": 1e-3, "lr_s": 2e-3}


def run(model: Path, rows: Path, out: Path, policy: str, method: Any = BILEVEL, **more: Any) -> Any:
    options = {**SMALL, "max_steps": 16, "logging_steps": 1, "on_nonfinite": policy, **more}
    return finetune(str(model), str(rows), method, output_dir=out, **options)


def test_the_rates_of_the_level_are_halved_and_said(
    tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Upper updates 2 and 3 are refused: from then on lr_theta and lr_p are a quarter, lr_s is what it was."""
    refusing(monkeypatch, "upper", lambda k: k in (2, 3))
    out = tmp_path / "out"
    info = run(tiny_model_dir, sentiment_file, out, "halve").info
    rows = [row for row in read_rows(out / "metrics.jsonl") if row["event"] == "train"]
    assert [row["lr_theta"] for row in rows] == [1e-3] * 3 + [5e-4] + [2.5e-4] * 4  # the one that was used
    assert [row["lr_p"] for row in rows] == [row["lr_theta"] for row in rows]
    assert {row["lr_s"] for row in rows} == {2e-3}
    assert info["halvings"] == {"upper": 2}
    assert info["skipped_by_level"] == {"upper": 2}
    said = capsys.readouterr().err
    assert "2 of 8 upper updates skipped, the upper rates now 0.25 of what they were: their loss or grad" in said
    _, start = read_header(out / "journal.bin")
    records = list(read_records(out / "journal.bin", start))
    assert [record.rate for record in records] == [row["lr_theta"] for row in rows]
    assert [record.step for record in records if record.outcome is Outcome.SKIPPED] == [2, 3]


@pytest.mark.parametrize("level", ["upper", "lower"])
def test_a_resume_goes_on_bit_for_bit(
    level: str, tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before and after the checkpoint; and what the journal gives is what a snapshot of theta has."""
    refusing(monkeypatch, level, lambda k: k in (1, 5))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(tiny_model_dir, sentiment_file, whole, "halve")
    run(tiny_model_dir, sentiment_file, cut, "halve", max_steps=8)
    run(tiny_model_dir, sentiment_file, cut, "halve", resume="latest")
    ours, theirs = traces(cut), traces(whole)
    assert ours.keys() == theirs.keys()
    assert [key for key in theirs if ours[key] != theirs[key]] == []
    info = json.loads((cut / "run.json").read_text())
    assert info["halvings"] == {level: 2}
    if level == "upper":
        kept = tmp_path / "kept"
        best = run(tiny_model_dir, sentiment_file, kept, "halve", max_replay_seconds=0).info["best_step"]
        theta = load_tensors(kept / f"best-{best}" / "backbone" / "theta.safetensors")
        replayed = dict(restore(whole, "theta").loaded.model.named_parameters())
        assert best > 4
        assert all(torch.equal(replayed[name], value) for name, value in theta.items())


@pytest.mark.parametrize("policy", ["skip", "halve"])
@pytest.mark.parametrize("level", ["upper", "lower"])
def test_a_level_that_was_mostly_skipped_fails_the_run(
    level: str, policy: str, tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path, monkeypatch: Any
) -> None:
    """5 of 8 updates of one level are 5 of 16 of all, which ended well before levels were counted."""
    refusing(monkeypatch, level, lambda k: k >= 3)
    with pytest.raises(RunError, match=rf"^5 of 8 {level} updates skipped.*hardly trained"):
        run(tiny_model_dir, sentiment_file, tmp_path / "out", policy)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["skipped_by_level"] == {level: 5}


def test_halvings_without_end_stop(
    tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(monkeypatch, "upper", lambda k: k >= 1)
    words = rf"^step {HALVINGS}: upper update: .* is nan, and so were the {HALVINGS - 1} before it, .*start again with"
    with pytest.raises(RunError, match=words):
        run(tiny_model_dir, sentiment_file, tmp_path / "out", "halve", METHODS["mezo"], max_steps=30)


def test_broken_weights_end_a_run_that_skips(
    tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp16, a rate that overflows at step 5: the next update is refused and no later one could be made. The last
    finite checkpoint stays, though the limit is 1 and a later one was saved."""
    real = Journalled.update_

    def update_(self: Any, theta: Any, g: Any, lr: float, step: int, *more: Any) -> Any:
        return real(self, theta, g, 1e6 if step == 5 else lr, step, *more)

    monkeypatch.setattr(Journalled, "update_", update_)
    out = tmp_path / "out"
    with pytest.raises(RunError, match=r"^step 6: upper update: .*: an update before.*--resume \S+checkpoint-5 --max"):
        run(
            *(tiny_model_dir, sentiment_file, out, "skip", {"name": "mezo", "lr": 1e-3}),
            overrides=["model.dtype=float16"],
            save_steps=1,
            save_total_limit=1,
            eval_steps=16,
        )
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-5", "checkpoint-6"]


def test_the_history_of_a_checkpoint_is_bounded(tmp_path: Path, tiny_tokenizer: Any) -> None:
    """Each checkpoint writes all of it: without a bound a long run's files would grow with its square."""
    from zofo.config.sections import TrainConfig

    config = TrainConfig(output_dir=str(tmp_path))
    callbacks = Callbacks(config, tmp_path, (), torch.nn.Linear(1, 1), tiny_tokenizer, torch.device("cpu"))
    for step in range(HISTORY + 50):
        callbacks.state.global_step = step
        callbacks.log({"loss": 1.0})
    assert [entry["step"] for entry in callbacks.state.log_history] == list(range(50, HISTORY + 50))
