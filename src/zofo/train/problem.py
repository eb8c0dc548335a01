"""The problem that a method is given, made of the parts of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from zofo.config.instantiate import make_estimator, make_mask, make_rule
from zofo.config.resolve import Config
from zofo.data import TaskData
from zofo.data.multitask.mixture import Mixture, among
from zofo.data.multitask.setting import trained_tasks
from zofo.data.stream import Stream
from zofo.methods._base import Base as Method
from zofo.methods._nonfinite import Refusals
from zofo.methods._problem import Problem, Schedule
from zofo.train.gradients import gradients
from zofo.train.parts import Backbone, Losses
from zofo.zo.journal import Records
from zofo.zo.journalled import Journalled


def make_problem(
    config: Config,
    backbone: Backbone,
    losses: Losses,
    data: TaskData,
    method: Method,
    streams: Mapping[str, Stream | Mixture],
    records: Records,
    made: Callable[..., Problem] = Problem,
) -> Problem:
    """What the method is given."""
    of_theta = partial(gradients, losses.loss, backbone.theta, streams)
    told = (of_theta, records.append_support)
    estimator = make_estimator(config, *told, losses.loss.ranks) if "estimator" in method.needs else None
    return made(
        backbone.theta,
        backbone.adapters,
        losses.metric if config.task.objective == "metric" else losses.loss,
        streams,
        config.train.seed,
        rate=Schedule(config.train.lr_scheduler_type, config.train.max_steps, config.train.warmup_steps),
        total=config.train.max_steps,
        count=config.train.count,
        estimator=estimator,
        rule=Journalled(make_rule(config), records, losses.loss.ranks) if estimator is not None else None,
        mask=make_mask(config, *told) if estimator is None else estimator.mask,
        max_grad_norm=config.train.max_grad_norm,
        refusals=Refusals(config.train.on_nonfinite),
        tasks=trained_tasks(data),
        among=partial(among, streams),
        metric=losses.metric,
        ranks=losses.loss.ranks,
    )
