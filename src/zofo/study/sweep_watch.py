"""What a sweep sees of a run while it trains: steps and dev losses, as a TrainerCallback; and when it stops one."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from zofo.config.resolve import Config
from zofo.errors import RunError
from zofo.study.sweep_jobs import PRUNED, by_its_metric


class Pruned(RunError):
    """A run was stopped, since the trials before it were better at the same step."""


class Watch(TrainerCallback):
    """step, dev: are told (step, of all) and (the value on dev). trial: optuna's, which says when to stop, or None."""

    def __init__(
        self, config: Config, step: Callable[[int, int], None], dev: Callable[[float], None], trial: Any = None
    ) -> None:
        self._by_metric, self._metric = by_its_metric(config), config.task.metric
        self._step, self._dev, self._trial = step, dev, trial

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        self._step(state.global_step, state.max_steps)
        return control

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        value = self._value(kwargs["metrics"])
        self._dev(value)
        if self._trial is None or not math.isfinite(value) or state.global_step >= state.max_steps:
            return control
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a run that goes on reports a step again
            self._trial.report(value, state.global_step)
        if self._trial.should_prune():
            raise Pruned(f"{PRUNED}dev {value:.4f} at step {state.global_step}, worse than the median of the trials")
        return control

    def _value(self, metrics: Mapping[str, float]) -> float:
        """Of the best candidate, less is better."""
        if not self._by_metric:
            return metrics["eval_loss"]
        others = ("_loss", "_n", "_unpredicted")
        known = [key for key in metrics if not key.endswith(others)]
        ours = [key for key in known if self._metric is not None and key.endswith(f"_{self._metric}")] or known
        return -max((metrics[key] for key in ours if math.isfinite(metrics[key])), default=-math.inf)
