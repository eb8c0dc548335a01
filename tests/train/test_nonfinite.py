"""Losses that are not finite, rates far too high, shifts without effect: what stops a run, and with which words."""

from __future__ import annotations

import pytest
import torch

from tests.small_runs import METHODS, SMALL
from zofo import RunError, finetune


@pytest.mark.parametrize("method", ["mezo", "fo-peft", "bilevel-zofo"])
def test_a_loss_that_is_nan_stops_with_theta_intact(method, tmp_path, tiny_model_dir, sentiment_file, monkeypatch):
    """One weight of the head's norm becomes NaN after the model is loaded: every loss is NaN from the first step."""
    from zofo.train import setup

    real = setup.load_model

    def broken(config):
        loaded = real(config)
        with torch.no_grad():
            loaded.model.model.norm.weight[0] = float("nan")
        return loaded

    monkeypatch.setattr(setup, "load_model", broken)
    with pytest.raises(RunError, match=r"step 0: .*nan.*theta is intact"):
        finetune(str(tiny_model_dir), str(sentiment_file), METHODS[method], output_dir=tmp_path / "out", **SMALL)


def test_a_rate_far_too_high_ends_in_a_clear_error(tmp_path, tiny_model_dir, sentiment_file):
    with pytest.raises(RunError, match=r"train\.on_nonfinite=skip"):
        finetune(
            str(tiny_model_dir), str(sentiment_file), {"name": "mezo", "lr": 1e41}, output_dir=tmp_path / "out", **SMALL
        )


def test_nonfinite_updates_are_skipped_where_asked(tmp_path, tiny_model_dir, sentiment_file, monkeypatch):
    from zofo.objectives import _loss

    real, calls = _loss.Loss.backward, []

    def sometimes(self, batch, scale=1.0):
        calls.append(1)
        if len(calls) == 3:
            raise _loss.NonFiniteError("the loss is nan")
        return real(self, batch, scale)

    monkeypatch.setattr(_loss.Loss, "backward", sometimes)
    run = finetune(
        str(tiny_model_dir),
        str(sentiment_file),
        METHODS["fo-peft"],
        output_dir=tmp_path / "out",
        on_nonfinite="skip",
        **SMALL,
    )
    assert run.info["skipped"] == 1
    assert len(calls) == 8


def test_a_shift_without_effect_is_reported(tmp_path, tiny_model_dir, sentiment_file, capsys):
    method = {"name": "mezo", "lr": 1e30}  # saturates every norm: the loss is finite and constant from then on
    finetune(str(tiny_model_dir), str(sentiment_file), method, output_dir=tmp_path / "out", **SMALL)
    assert "c was exactly 0 three times" in capsys.readouterr().err
