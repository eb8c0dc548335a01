"""Session: a configuration made into live objects: model, theta, adapters, data, method."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor

from zofo.config import registry
from zofo.config.instantiate import make_estimator, make_mask, make_method, make_rule
from zofo.config.resolve import Config
from zofo.data import TaskData, load_task
from zofo.data.batch import Batch, collate
from zofo.data.loader import encode_task, shorter, streams_of
from zofo.data.multitask.mixture import Mixture, among
from zofo.data.multitask.setting import trained_tasks
from zofo.data.stream import Stream
from zofo.data.tokenization import Encoded
from zofo.errors import InputError
from zofo.eval.evaluator import Evaluator
from zofo.methods._problem import Problem, Schedule
from zofo.models import load as models
from zofo.models import quantization
from zofo.models.activation_checkpointing import recompute_layers
from zofo.models.adapters._bank import Bank
from zofo.models.adapters._set import AdapterSet, room
from zofo.models.backbone import Loaded
from zofo.models.label_head import LabelHead
from zofo.models.tree_probe import share_prompts
from zofo.objectives import OBJECTIVES
from zofo.objectives._loss import Loss
from zofo.train.checks import check, shift_mode, trains_metric
from zofo.train.progress import gib
from zofo.zo.journalled import Journalled
from zofo.zo.keys import derive
from zofo.zo.point import Point, UnshiftableError

log = logging.getLogger("zofo")


@dataclass
class Session:
    """Everything of one run except its progress."""

    config: Config
    loaded: Loaded
    data: TaskData
    problem: Problem
    method: Any
    encoded: dict[str, list[Encoded]]  # dev, test and the training streams' examples by stream name
    streams: dict[str, Stream | Mixture]
    backbone: Point
    evaluator: Evaluator
    rule: Any = None  # the bare rule, for replay; None where no zeroth-order update is made

    @property
    def counted_per_step(self) -> int:
        """What one `step` of the method adds to the count that max_steps bounds."""
        return min(1, self.method.per_step) if self.config.train.count == "outer" else self.method.per_step

    @property
    def journals(self) -> bool:
        """theta moves by zeroth-order updates alone: the run is its journal."""
        return self.method.moves == "zo"

    @property
    def tasks(self) -> dict[str, list[str]] | None:
        """Of a setting: the tasks that are trained on, and those that are held out of it; else None."""
        if not self.data.groups:
            return None
        return {"train": list(trained_tasks(self.data)), "held_out": sorted({e.group for e in self.data.dev})}

    @cached_property
    def base_sha256(self) -> str:
        """One digest of the base model's tensors. Read it before theta moves."""
        return self.loaded.base_sha256(self.backbone)

    def extra_memory(self) -> list[str]:
        """What is quantised, and what moving theta costs beside theta itself, in words; often nothing."""
        found = quantization.in_words(self.loaded, self.problem.theta.size)
        for name, descent in self.method.optimizers().items():
            if name == "theta":
                found.append(f"first-order steps of theta: {gib(descent.nbytes)} for gradients and moments")
        estimator, theta = self.problem.estimator, self.problem.theta
        if self.rule is not None and self.rule.bytes_per_weight:
            share = 1.0 if estimator is None or estimator.mask is None else estimator.mask.state_share
            found.append(
                f"rule {self.config.names['rule']}: {self.rule.bytes_per_weight:g} bytes a weight"
                f"{' that moves' if share < 1 else ' of theta'}, "
                f"{gib(self.rule.bytes_per_weight * theta.size * share)} in all"
            )
        if estimator is not None and estimator.host_bytes(theta):
            what = f"estimator {self.config.names['estimator']}: {gib(estimator.host_bytes(theta))} {estimator.keeps}"
            found.append(what)
        return found


def build(
    config: Config, load: Callable[[Any], Loaded] | None = None, task: Callable[..., TaskData] | None = None
) -> Session:
    """Load data and model, wrap the adapters, make the streams. Draws nothing from the global random state.

    load, task: what makes the model and the data in place of `models.load.load` and `data.load_task`, for a prediction.
    """
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise InputError(f"{processes} processes: not supported yet; start one, without torchrun or accelerate launch")
    accelerator = Accelerator(cpu=config.model.device == "cpu")
    loaded = (load or models.load)(config.model)
    method = make_method(config)
    data = (task or load_task)(config.task, config.train.seed, loaded.tokenizer, None, method.demonstrates)
    check(config, data, loaded, method)
    loaded.max_length = shorter(loaded.max_length, data.max_length)
    backbone = Point(loaded.model, mode=shift_mode(config))  # before PEFT renames anything
    head = LabelHead(loaded.model)
    if config.train.gradient_checkpointing and method.first_order:
        recompute_layers(loaded.model)
    theta, adapters = _adapt(config, loaded, method, backbone, data)
    encoded = encode_task(data, method.split(data, config.train.seed), loaded.tokenizer, loaded.max_length)
    loss = Loss(
        adapters.model if adapters else loaded.model, head, OBJECTIVES[data.objective], loaded.pad_id, loaded.device,
        adapters, config.train.micro_batch_size, reduce=lambda sums: cast(Tensor, accelerator.reduce(sums, "sum")),
        recomputes=config.train.gradient_checkpointing,
    )  # fmt: skip
    encoded = share_prompts(loss, encoded, loaded.max_length)
    evaluator = Evaluator(
        loss, data, loaded.tokenizer, loaded.max_length, config.train.eval_batch_size, config.train.seed,
        config.task.run_generated_code,
    )  # fmt: skip
    if data.kind == "generation":  # what does not fit is said now, not when the run is over
        evaluator.prepare([*data.dev, *data.test, *(data.train if trains_metric(config, method) else ())])
    of_metric = copy(loss)  # the same but for its objective, and the same meter
    of_metric.objective = evaluator.objective()
    streams = streams_of(
        {name: encoded[name] for name in method.streams}, config.train.batch_size, loaded.pad_id, config.train.seed,
        config.train.group_by_length,
    )  # fmt: skip
    problem = Problem(
        theta, adapters, of_metric if config.task.objective == "metric" else loss, streams, config.train.seed,
        metric=of_metric, gradients=partial(_gradients, loss, theta, streams),
        rate=Schedule(config.train.lr_scheduler_type, config.train.max_steps, config.train.warmup_steps),
        total=config.train.max_steps, count=config.train.count, max_grad_norm=config.train.max_grad_norm,
        skip_nonfinite=config.train.on_nonfinite == "skip", tasks=trained_tasks(data), among=partial(among, streams),
    )  # fmt: skip
    session = Session(config, loaded, data, problem, method, encoded, streams, backbone, evaluator)
    if "estimator" in method.needs:
        session.rule, problem.rule = (rule := make_rule(config)), Journalled(rule, None)
        problem.estimator = estimator = make_estimator(config)
        problem.mask = estimator.mask
    else:
        problem.mask = make_mask(config)
    if problem.mask is not None:
        problem.mask.setup(problem.gradients)
    method.setup(problem)
    return session


def _gradients(
    loss: Loss, theta: Point, streams: Mapping[str, Stream | Mixture], number: int
) -> Iterator[Callable[[], object]]:
    """Calls that add theta's gradient of the loss on one training batch each, where theta is trainable.

    The run's own batches stay what they are, and so do the gradients of what else is trained.
    """
    batches = next(iter(streams.values())).fork("mask")
    for _ in range(number):
        yield partial(_backward, loss, theta, next(batches))


def _backward(loss: Loss, theta: Point, batch: Batch) -> None:
    own = {id(tensor) for tensor in theta.values()}
    others = [p for p in loss.model.parameters() if p.requires_grad and id(p) not in own]
    try:
        for param in others:
            param.requires_grad_(False)
        loss.backward(batch)
    finally:
        for param in others:
            param.requires_grad_(True)


def _adapt(
    config: Config, loaded: Loaded, method: Any, backbone: Point, data: TaskData
) -> tuple[Point, AdapterSet | None]:
    """(theta, the method's adapters on the model). Virtual tokens take room from the longest example."""
    names, tasks = method.adapters_used, trained_tasks(data)
    if not names:
        return backbone, None
    adapter = registry.load("adapters", config.names["adapter"]).Adapter(config.adapter)
    seed = derive(config.train.seed, "adapter")
    every = Bank.all_members(names, tasks) if method.bank else names
    adapters: AdapterSet = adapter.build(loaded.model, every, seed, loaded.tokenizer)
    if method.bank:
        adapters = Bank(adapters, names, tasks)
    loaded.max_length = room(loaded.max_length, loaded.model.config, adapters.virtual)
    if method.theta_of == "backbone":
        return backbone, adapters
    own = adapters.parameters(method.adapters_used[0])
    return Point(adapters.model, params=own, mode=shift_mode(config)), adapters


def audit(session: Session) -> None:
    """Before the first estimate: every weight of theta must be reachable by the shift. One small forward."""
    shortest = min(next(iter(session.streams.values())).encoded, key=lambda e: e.length)
    batch = collate([shortest], session.loaded.pad_id).to(session.loaded.device)
    loss = session.problem.loss
    try:
        unread = session.problem.theta.audit(lambda: loss.head.logprobs(loss.model, batch))
    except UnshiftableError as error:
        raise InputError(f"model {session.config.model.name}: weights {error}") from error
    if unread:
        log.warning("never read by the model, so their updates change nothing: %s", ", ".join(sorted(unread)))
