"""A configuration made into live objects, in four descents: the backbone, the data, F, the method."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from zofo.config import registry
from zofo.config.cadence import counted_per_step
from zofo.config.epochs import Passes
from zofo.config.instantiate import make_method
from zofo.config.resolve import Config
from zofo.config.reward_name import reward_name
from zofo.data import TaskData, load_task
from zofo.data.batch import collate
from zofo.data.files import BadRows
from zofo.data.loader import shorter, streams_of, tokenize_task, without_unfit
from zofo.data.multitask.mixture import Mixture
from zofo.data.multitask.setting import trained_tasks
from zofo.data.rewards import Reward, load_reward
from zofo.data.stream import Stream
from zofo.data.tokenization import Encoded
from zofo.errors import InputError, during
from zofo.eval.evaluator import Evaluator, make_evaluator
from zofo.methods._base import Base as Method
from zofo.methods._problem import Problem
from zofo.models import quantization
from zofo.models.activation_checkpointing import checkpoint_layers
from zofo.models.adapters import _start as adapter_start
from zofo.models.adapters._bank import Bank
from zofo.models.adapters._set import AdapterSet, room
from zofo.models.backbone import Loaded
from zofo.models.load import load as load_model
from zofo.models.sharded import Sharding
from zofo.models.tree_probe import share_prompts
from zofo.train.checks import check, shift_mode, trains_metric
from zofo.train.inputs import inputs_of
from zofo.train.parts import Backbone, Losses
from zofo.train.problem import make_problem
from zofo.train.progress import gib
from zofo.zo.journal import Records
from zofo.zo.keys import derive
from zofo.zo.point import Point, UnshiftableError
from zofo.zo.ranks import ALONE, Ranks
from zofo.zo.rules._base import Base as Rule

log = logging.getLogger("zofo")


@dataclass
class Session:
    """Everything of one run except its progress."""

    config: Config
    loaded: Loaded
    data: TaskData
    problem: Problem
    method: Method
    encoded: dict[str, list[Encoded]]  # dev, test and the training streams' examples by stream name
    streams: dict[str, Stream | Mixture]
    backbone: Point
    evaluator: Evaluator
    records: Records  # of the updates and supports of theta
    read: TaskData  # the data as it was read, rows that do not fit the model included
    passes: Passes
    start: adapter_start.Start | None  # what the adapters began with, where adapter.start says so
    ranks: Ranks = ALONE  # those that make the run together

    @property
    def rule(self) -> Rule | None:
        """The bare rule, for a replay; None where no zeroth-order update is made."""
        return None if self.problem.rule is None else self.problem.rule.rule

    @property
    def counted_per_step(self) -> int:
        """What one `step` of the method adds to the count that max_steps bounds."""
        return counted_per_step(self.config.train, self.method.per_step)

    @property
    def epoch(self) -> float | None:
        """Passes over the training examples so far, see `config.epochs`; None where nothing is counted in passes."""
        stream = self.streams[self.passes.stream] if self.streams else None
        return stream.position / len(stream.encoded) if isinstance(stream, Stream) else None

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
    def sums(self) -> dict[str, str]:
        """SHA-256 of each tensor of the backbone that is not quantised. Read it before theta moves."""
        moved_in = None if self.loaded.offload is None else self.loaded.offload.sums
        return moved_in or self.backbone.sha256()

    @cached_property
    def base_sha256(self) -> str:
        """One digest of the base model's tensors. Read it before theta moves."""
        return self.loaded.base_sha256(self.backbone, self.sums)

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """Digests of what the run is made from. Read it before theta moves."""
        start = {} if self.start is None else {"start": self.start.recorded}
        return inputs_of(self.base_sha256, self.loaded, self.read, self.evaluator.reward) | start

    def extra_memory(self) -> list[str]:
        """What is quantised, and what moving theta costs beside theta itself, in words; often nothing."""
        lines = quantization.in_words(self.loaded, self.problem.theta.size)
        if self.loaded.offload is not None and (words := self.loaded.offload.words()):
            lines.append(words)
        for name, descent in self.method.optimizers().items():
            if name == "theta":
                lines.append(f"first-order steps of theta: {gib(descent.nbytes)} for gradients and moments")
        estimator, theta = self.problem.estimator, self.problem.theta
        if self.rule is not None and self.rule.bytes_per_weight:
            share = 1.0 if estimator is None or estimator.mask is None else estimator.mask.state_share
            lines.append(
                f"rule {self.config.names['rule']}: {self.rule.bytes_per_weight:g} bytes a weight"
                f"{' that moves' if share < 1 else ' of theta'}, "
                f"{gib(self.rule.bytes_per_weight * theta.size * share)} in all"
            )
        if estimator is not None and estimator.host_bytes(theta):
            what = f"estimator {self.config.names['estimator']}: {gib(estimator.host_bytes(theta))} {estimator.keeps}"
            lines.append(what)
        return lines


@during("preparing the run")
def build(
    config: Config,
    load: Callable[..., Loaded] | None = None,
    task: Callable[..., TaskData] | None = None,
    metric: Callable[..., Any] | None = None,
    start: Path | None = None,
    ranks: Ranks = ALONE,
    made: Callable[..., Problem] = Problem,
) -> Session:
    """The method's file made ready: the backbone, the data, F, the method. Draws nothing from the global random state.

    load, task: what makes the model and the data in place of `models.load.load` and `data.load_task`, for a prediction.
    metric: the reward that a call in Python gave. A reward's file is run: whoever calls this was asked for it.
    start: the files of the adapter that adapter.start means. ranks: those that make the run together. made: what makes
    the problem of its parts, for a federation's client.
    """
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1 and ranks.alone:
        raise InputError(f"{processes} processes: this runs in one; start it without torchrun or accelerate launch")
    named = reward_name(config.task.metric) is not None and task is None
    reward = load_reward(str(config.task.metric), metric) if named else None
    sharding = Sharding.of(ranks)
    loaded = (load or load_model)(config.model, **({} if sharding is None else {"sharding": sharding}))
    method = make_method(config)
    data = (task or load_task)(config.task, config.train.seed, loaded.tokenizer, None, method.demonstrates)
    reward = None if reward is None else reward.fitted(data)
    check(config, data, loaded, method)
    loaded.max_length = shorter(loaded.max_length, data.max_length)
    backbone = wrap(config, loaded, method, data, start, ranks)
    if backbone.adapters is not None:
        backbone.adapters.mixes = ranks.every(backbone.adapters.mixes)  # which was tried, and may be one machine's
    splits = method.split(data, config.train.seed)
    bad = BadRows(config.task.on_bad_row == "skip")
    examples = tokenize_task(data, splits, loaded.tokenizer, loaded.max_length, loaded.beyond, bad)
    read, data = data, without_unfit(data, bad)
    encoded = share_prompts(backbone.scorer, examples, loaded.max_length, ranks.every)
    streams = streams_of(
        {name: encoded[name] for name in method.streams},
        config.train.batch_size,
        loaded.pad_id,
        config.train.seed,
        config.train.group_by_length,
    )
    passes = Passes(config.train, method, config.estimator, {name: len(encoded[name]) for name in method.streams})
    config = config.counted(passes) if config.train.num_train_epochs is not None else config
    losses = make_losses(config, backbone, data, method, reward, ranks)
    records = Records()
    problem = make_problem(config, backbone, losses, data, method, streams, records, made)
    method.setup(problem)
    parts = (config, loaded, data, problem, method, encoded, streams, backbone.whole, losses.evaluator, records, read)
    return Session(*parts, passes, backbone.start, ranks)


@during("building the adapters")
def wrap(
    config: Config, loaded: Loaded, method: Method, data: TaskData, start: Path | None = None, ranks: Ranks = ALONE
) -> Backbone:
    """The method's adapters on the model. Virtual tokens take room from the longest example. start: see `build`."""
    given = None if start is None else adapter_start.read(start, loaded)  # before there is anything else on the model
    moves = method.moves == "zo" and method.theta_of == "backbone"
    whole = loaded.point(shift_mode(config), moves, ranks.shards)  # before PEFT renames anything
    scorer = loaded.scorer()
    if config.train.gradient_checkpointing and method.first_order:
        checkpoint_layers(loaded.model)
    names, tasks = method.adapters_used, trained_tasks(data)
    if not names:
        return Backbone(loaded, whole, whole, None, scorer)
    adapter = registry.load("adapters", config.names["adapter"]).Adapter(config.adapter)
    every = Bank.all_members(names, tasks) if method.bank else names
    adapters: AdapterSet = adapter.build(loaded.model, every, derive(config.train.seed, "adapter"), loaded.tokenizer)
    begun = None if given is None else adapter_start.begin(adapters, given)
    if method.bank:
        adapters = Bank(adapters, names, tasks)
    loaded.max_length = room(loaded.max_length, loaded.model.config, adapters.virtual)
    theta = whole
    if method.theta_of == "adapter":
        theta = Point(adapters.model, params=adapters.parameters(names[0]), mode=shift_mode(config))
    return Backbone(loaded, whole, theta, adapters, replace(scorer, model=adapters.model), begun)


def make_losses(
    config: Config,
    backbone: Backbone,
    data: TaskData,
    method: Method,
    reward: Reward | None = None,
    ranks: Ranks = ALONE,
) -> Losses:
    """Raises InputError for prompts that leave no room for a text: now, and not when the run is over."""
    evaluator = make_evaluator(
        backbone.scorer,
        data,
        backbone.loaded,
        config.train.eval_batch_size,
        config.train.seed,
        config.task.run_generated_code,
        reward,
        adapters=backbone.adapters,
        micro_batch_size=config.train.micro_batch_size,
        ranks=ranks,
        checkpointed=config.train.gradient_checkpointing,
    )
    if data.kind == "generation":
        evaluator.prepare([*data.dev, *data.test, *(data.train if trains_metric(config, method) else ())])
    return Losses(evaluator.loss, evaluator.loss.of(evaluator.objective()), evaluator)


@during("the first forward")
def audit(session: Session) -> None:
    """Before the first estimate: every weight of theta must be reachable by the shift. One small forward."""
    shortest = min(next(iter(session.streams.values())).encoded, key=lambda e: e.length)
    batch = collate([shortest], session.loaded.pad_id).to(session.loaded.device)
    loss = session.problem.loss
    try:
        unread = session.problem.theta.audit(lambda: loss.scorer.logprobs(batch))
    except UnshiftableError as error:
        raise InputError(f"model {session.config.model.name}: weights {error}") from error
    if unread:
        log.warning("never read by the model, so their updates change nothing: %s", ", ".join(sorted(unread)))
