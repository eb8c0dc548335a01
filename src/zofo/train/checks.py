"""Settings that do not go with this model or data."""

from __future__ import annotations

import logging
import math

import torch

from zofo.config.resolve import Config
from zofo.config.sections import TrainConfig
from zofo.data.example import TaskData
from zofo.data.multitask.setting import trained_tasks
from zofo.errors import InputError
from zofo.methods._base import Base as Method
from zofo.models import quantization
from zofo.models.backbone import Loaded

log = logging.getLogger("zofo")


def trains_metric(config: Config, method: Method) -> bool:
    """Whether some part of theta's objective is minus the task's metric."""
    return config.task.objective == "metric" or "metric" in method.objectives


def shift_mode(config: Config) -> str:
    return "layer" if config.estimator is None else config.estimator.shift


def stretched(method: Method, k: int, before: int, train: TrainConfig) -> str:
    """A warning where the run had `before` counted steps, has others now, and something is scheduled by them; or "".

    k: the iterations that are done.
    """
    was, now = (method.scheduled(k, total) for total in (before, train.max_steps))
    changed = [f"{name} {was[name]:.3g} -> {now[name]:.3g}" for name in now if not math.isclose(was[name], now[name])]
    if not changed:
        return ""
    return (
        f"train.max_steps: the run had {before} and has {train.max_steps} now, which its schedules go by; at the next "
        f"step {', '.join(changed)}; give {before} for the schedule it had, or start a new run of {train.max_steps}"
    )


def check(config: Config, data: TaskData, loaded: Loaded, method: Method) -> None:
    """Settings that do not go with this model or data; those among themselves are `config.validate.together`'s.

    Raises InputError.
    """
    quantization.check(config.model, loaded, config.names["method"], method)
    if method.many and not data.groups:
        raise InputError(
            f"task.name: method {config.names['method']} trains on many tasks and {data.name} is one; give a setting "
            f"such as class-to-class (zofo ls settings), with --data"
        )
    asked, there = method.tasks_per_step, len(trained_tasks(data))
    if asked > there:
        log.warning("method.tasks_per_step %d: an iteration takes all of the %d training tasks", asked, there)
    trained, upper = config.task.objective == "metric", "metric" in method.objectives
    if trained and method.first_order:
        raise InputError(
            f"task.objective: a metric has no gradient, and method {config.names['method']} takes first-order steps; "
            f"use a zeroth-order method such as mezo, or as bilevel-ablations' upper objective "
            f"(method.upper_objective=metric), or another objective"
        )
    if trained or upper:
        field = "task.objective" if trained else "method.upper_objective"
        if data.kind == "completion":
            raise InputError(f"{field}: task {data.name} has no metric; use a task with options or generated answers")
        if data.kind == "options" and data.metrics[0] != "accuracy":
            raise InputError(f"{field}: {data.metrics[0]} is no mean over examples; give task.metric=accuracy")
        if data.metrics[0] == "pass_at_k" and not config.task.run_generated_code:
            raise InputError(f"{field}: pass@k runs what the model writes: give task.run_generated_code=true")
        if data.kind == "generation" and shift_mode(config) == "layer":
            raise InputError(
                f"{field}: generated text needs estimator.shift=copy; in mode layer every token would make all shifted "
                f"weights again"
            )
    if not data.answered:
        _check_unanswered(config, data, method, trained)
    if config.rule is not None and config.rule.rounding == "split" and loaded.dtype != torch.bfloat16:
        raise InputError(
            f"rule.rounding: split keeps 16 more bits of a bfloat16 weight, and the model is {str(loaded.dtype)[6:]}; "
            f"give model.dtype=bfloat16, or leave it at stochastic"
        )
    if method.moves == "fo" and loaded.dtype.itemsize == 2:
        log.warning(
            "first-order updates of theta are rounded to %s, which loses small ones; model.dtype=float32 keeps them",
            str(loaded.dtype)[6:],
        )


def _check_unanswered(config: Config, data: TaskData, method: Method, trained: bool) -> None:
    """Rows of prompts alone have no loss. Raises InputError where one is descended. trained: theta's objective is the
    metric."""
    name, why = config.names["method"], f"rows of {data.name} have no completion, and so no loss"
    if method.per_step and method.first_order:
        raise InputError(
            f"method.name: {why}, which {name} descends; give rows with completions, or use a zeroth-order method such "
            f"as mezo with task.objective=metric"
        )
    if method.per_step and not trained:
        raise InputError(f"task.objective: {why}; give task.objective=metric, and estimator.shift=copy with it")
    if config.names.get("mask") == "sensitivity":
        raise InputError(f"mask.name: {why}, whose gradients the mask sensitivity goes by; use magnitude or random")
