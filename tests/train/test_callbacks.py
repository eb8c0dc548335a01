"""transformers' callbacks see a run, and their early stopping ends it."""

from __future__ import annotations

from pathlib import Path

from transformers import EarlyStoppingCallback, TrainerCallback

from tests.small_runs import METHODS, SMALL
from zofo import finetune


class Spy(TrainerCallback):
    def __init__(self):
        self.events = []

    def on_train_begin(self, args, state, control, model=None, processing_class=None, **kwargs):
        assert model is not None
        assert processing_class is not None
        self.events.append("begin")

    def on_step_end(self, args, state, control, **kwargs):
        self.events.append(state.global_step)

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        self.events.append(("eval", sorted(k for k in metrics if "loss" in k)))

    def on_save(self, args, state, control, **kwargs):
        assert (Path(str(args.output_dir)) / f"checkpoint-{state.global_step}").is_dir()
        self.events.append("save")

    def on_log(self, args, state, control, logs, **kwargs):
        self.events.append(("log", state.global_step))

    def on_train_end(self, args, state, control, **kwargs):
        self.events.append("end")


def test_hf_callbacks_see_the_run(tmp_path, tiny_model_dir, sentiment_file):
    spy = Spy()
    finetune(
        str(tiny_model_dir),
        str(sentiment_file),
        METHODS["bilevel-zofo"],
        output_dir=tmp_path / "out",
        callbacks=[spy],
        **SMALL,
    )
    assert spy.events[0] == "begin"
    assert spy.events[-1] == "end"
    assert [e for e in spy.events if isinstance(e, int)] == [2, 4, 6, 8]
    assert spy.events.count("save") == 2
    assert ("eval", ["eval_loss", "eval_p_loss", "eval_s_loss"]) in spy.events


def test_hf_early_stopping_stops(tmp_path, tiny_model_dir, sentiment_file):
    """With all rates 0 the dev loss never improves: patience 2 ends the run at the third evaluation."""
    run = finetune(
        str(tiny_model_dir),
        str(sentiment_file),
        {"name": "mezo", "lr": 0.0},
        output_dir=tmp_path / "out",
        callbacks=[EarlyStoppingCallback(2)],
        **{**SMALL, "max_steps": 100},
    )
    assert run.info["steps"]["upper"] == 12
