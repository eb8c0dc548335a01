"""Session: a configuration made into live objects: model, theta, adapters, data, method."""

from __future__ import annotations

import dataclasses
import logging
import os
from dataclasses import dataclass
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor

from zofo import registry
from zofo.config import Config
from zofo.data import Encoded, Stream, collate, encode_all
from zofo.errors import InputError
from zofo.models import Loaded, load
from zofo.objective import OBJECTIVES, LabelHead, Loss
from zofo.problem import Journalled, Problem, Schedule
from zofo.tasks import TaskData, load_task, split_levels
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
    streams: dict[str, Stream]
    rule: Any = None  # the bare rule, for replay; None where theta does not move

    @property
    def moves_theta(self) -> bool:
        return self.rule is not None

    @property
    def updates_per_step(self) -> int:
        return self.method.lower_per_step + self.method.upper_per_step


def build(config: Config) -> Session:
    """Load data and model, wrap the adapters, make the streams. Draws nothing from the global random state."""
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise InputError(f"{processes} processes: not supported yet; start one, without torchrun or accelerate launch")
    accelerator = Accelerator(cpu=config.model.device == "cpu")
    seed = config.train.seed
    loaded = load(config.model)
    data = load_task(config.task, seed, loaded.tokenizer)
    module = registry.load("methods", config.names["method"])
    method = module.Method(config.method)
    encoded = _encode(config, data, loaded, method)

    theta = Point(loaded.model, mode=getattr(config.estimator, "shift", "layer"))  # before PEFT renames anything
    head = LabelHead(loaded.model)
    model, adapters = loaded.model, None
    if method.adapters_used:
        adapter = registry.load("adapters", config.names["adapter"]).Adapter(config.adapter)
        adapters = adapter.build(loaded.model, method.adapters_used, derive(seed, "adapter"), loaded.tokenizer)
        model = adapters.model
    objective = OBJECTIVES[data.objective]
    loss = Loss(
        model, head, objective, loaded.pad_id, loaded.device, adapters, config.train.micro_batch_size,
        reduce=lambda sums: cast(Tensor, accelerator.reduce(sums, "sum")),
    )  # fmt: skip
    streams = {n: Stream(encoded[n], config.train.batch_size, loaded.pad_id, seed, n) for n in method.streams}
    problem = Problem(
        theta, adapters, loss, streams, seed,
        rate=Schedule(config.train.lr_scheduler_type, config.train.max_steps, config.train.warmup_steps),
        max_grad_norm=config.train.max_grad_norm, skip_nonfinite=config.train.on_nonfinite == "skip",
    )  # fmt: skip
    if theta.mode == "inplace" and problem.skip_nonfinite:
        raise InputError(
            "train.on_nonfinite: skip needs estimator.shift=layer: a skipped estimate in place is not undone"
        )
    session = Session(config, loaded, data, problem, method, encoded, streams)
    if "estimator" in method.needs:
        session.rule = registry.load("rules", config.names["rule"]).Rule(config.rule, seed)
        problem.estimator = registry.load("estimators", config.names["estimator"]).Estimator(config.estimator)
        problem.rule = Journalled(session.rule, None)
    method.setup(problem)
    return session


def _encode(config: Config, data: TaskData, loaded: Loaded, method: Any) -> dict[str, list[Encoded]]:
    def run(examples: list, for_eval: bool) -> list[Encoded]:
        eos = data.objective == "lm"
        return encode_all(loaded.tokenizer, examples, loaded.max_length, data.objective, eos, for_eval=for_eval)

    streams = {"train": data.train}
    if set(method.streams) == {"f", "p"}:
        share = config.method.upper_share
        upper, lower = split_levels(data.train, config.train.seed, (share, 1 - share))
        if not upper or not lower:
            raise InputError(
                f"task {data.name}: {len(data.train)} training examples cannot be split into an upper and a lower "
                f"level; give more, or use a method with one level"
            )
        streams = {"f": upper, "p": lower}
    encoded = {name: run(streams[name], False) for name in method.streams}
    return encoded | {"dev": run(data.dev, True), "test": run(data.test, True)}


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


def journal_header(session: Session) -> dict[str, Any]:
    """What a replay needs: the tensors it starts from, and the configuration of everything that acts on them."""
    config, theta, sums = session.config, session.problem.theta, session.problem.theta.sha256()
    return {
        "tensors": [
            {"id": i, "name": name, "shape": list(p.shape), "dtype": str(p.dtype)[6:], "sha256": sums[name]}
            for i, (name, p) in enumerate(theta.items())
        ],
        "model": config.model.name,
        "law": config.estimator.law,
        "estimator": {"name": config.names["estimator"], **dataclasses.asdict(config.estimator)},
        "rule": {"name": config.names["rule"], **dataclasses.asdict(config.rule)},
        "seed": config.train.seed,
        "masks": [],
    }
