"""Can a zeroth-order step help here at all? From forwards alone, at a run, at one of its checkpoints or at a start.

docs/signal.md says how to read it. Nothing is trained and nothing of the run is written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zofo.api.evaluate import task_config
from zofo.api.out_of_memory import smaller, with_options
from zofo.api.restore import given_model, restore
from zofo.api.scored_rows import load_rows
from zofo.api.states import is_state
from zofo.api.targets import Opened
from zofo.config.instantiate import make_method
from zofo.config.resolve import Config
from zofo.data.loader import shorter
from zofo.data.stream import eval_batches, forward_cost
from zofo.data.tokenization import Encoded, tokenize_all
from zofo.errors import InputError, RunError, did_you_mean, printable
from zofo.eval.evaluator import make_evaluator
from zofo.models.tree_probe import share_prompts
from zofo.objectives._loss import Loss
from zofo.study.signal_statistics import Interval, Moments, Step, best_step
from zofo.train.progress import counter
from zofo.train.setup import audit, build
from zofo.zo.direction import Direction
from zofo.zo.keys import derive
from zofo.zo.masks.magnitude import groups, layer_of
from zofo.zo.point import Point
from zofo.zo.slopes import slopes
from zofo.zo.support import Support

FEWEST_ROWS = 8  # fewer have no interval to speak of
BATCHES = (1, 4, 16, 64, 256, 1024)


@dataclass(frozen=True)
class Place:
    """Where theta's gradient is looked at: the model as it computes, theta, and the rows whose mean loss it is of."""

    words: str
    theta: Point
    loss: Loss
    rows: list[Encoded]
    rate: float | None  # that the configuration gives theta's steps, where it does
    batch: int

    def losses(self, batch_size: int) -> Tensor:
        """[n] float64; their mean is the loss."""
        sums, weights = torch.zeros(len(self.rows)).double(), torch.zeros(len(self.rows)).double()
        scorer = self.loss.scorer
        for indices, batch in eval_batches(self.rows, batch_size, scorer.pad_id, forward_cost(scorer.device.type)):
            sums[indices], weights[indices] = self.loss.rows(batch.to(self.loss.scorer.device))
        return sums * (len(self.rows) / weights.sum())


@dataclass(frozen=True)
class Signal:
    """loss: the mean over the rows. layers: |g|^2 of each layer's part of the gradient. steps: the best step of each
    batch of BATCHES, [] where none follows."""

    place: str
    split: str
    loss: float
    eps: float
    moments: Moments
    rate: float | None
    batch: int
    layers: dict[str, Interval] = field(default_factory=dict)

    @property
    def steps(self) -> list[Step]:
        return [step for batch in BATCHES if (step := best_step(self.moments, batch)) is not None]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers; an interval is [value, low, high], 95 %."""
        moments = self.moments
        return {
            "place": self.place,
            "split": self.split,
            "rows": moments.rows,
            "directions": moments.directions,
            "eps": self.eps,
            "loss": self.loss,
            "gradient_squared": moments.gradient.to_list(),
            "row_variance": moments.variance.to_list(),
            "trace_of_hessian": moments.curvature.to_list(),
            "share": {str(batch): moments.share(batch).to_list() for batch in BATCHES},
            "batch_of_half_signal": moments.half.to_list(),
            "found": moments.found,
            "best_steps": [{"batch": s.batch, "rate": s.rate.to_list(), "gain": s.gain} for s in self.steps],
            "layers": {name: interval.to_list() for name, interval in self.layers.items()},
        }


def signal(
    target: str | Path | Config,
    *,
    split: str = "dev",
    limit: int = 128,
    directions: int = 32,
    eps: float = 1e-3,
    seed: int = 0,
    batch_size: int = 32,
    adapter: str | None = None,
    model: str | None = None,
    data: str | None = None,
    by_layer: int = 0,
    overrides: Sequence[str] = (),
) -> Signal:
    """The gradient's signal and noise for theta, where `target` stands: a run, a checkpoint of one, or a configuration,
    which means its start.

    split: "dev", "test", "train", or "f" and "p" for D_f and D_p of two levels; limit: rows of it, from the first.
    directions: K, each costs two forwards of all rows. by_layer: directions for each layer's own part of the gradient,
    0 for none. adapter: which of a run's ("p", "s", "theta"). model, data: where the base model and the rows are now.
    overrides: "model.key=value" or "task.key=value". Raises InputError, and RunError for losses that are not finite.
    """
    for name, value, least in (("limit", limit, FEWEST_ROWS), ("directions", directions, 2), ("by_layer", by_layer, 0)):
        if value < least:
            raise InputError(f"{name}: must be >= {least}, got {value}")
    if not (math.isfinite(eps) and eps > 0):
        raise InputError(f"eps: must be > 0 and finite, got {eps}")
    with with_options("the estimate of the signal", [f"--batch-size {max(1, batch_size // 4)}", *smaller({})]):
        with ExitStack() as stack:
            if isinstance(target, Config):
                place = _at_the_start(target, split, limit, adapter, stack)
            else:
                place = _of_a_run(Path(target), split, limit, adapter, model, data, overrides)
            return _measure(place, split, directions, eps, seed, batch_size, by_layer)


def _measure(
    place: Place, split: str, directions: int, eps: float, seed: int, batch_size: int, by_layer: int
) -> Signal:
    blocks = groups(list(place.theta), "layer") if by_layer else []
    total, done = 2 * (directions + by_layer * len(blocks)) + 1 + len(blocks), 0
    with counter(f"{place.words}, {len(place.rows)} {split} rows: forwards of all rows", total) as (_, progress):

        def losses() -> Tensor:
            nonlocal done
            values = place.losses(batch_size)
            if not bool(values.isfinite().all()):
                row = place.rows[int((~values.isfinite()).nonzero()[0])].example.id
                raise RunError(f"{place.words}: the loss of {row} is not finite; try a smaller eps, or float32")
            progress(done := done + 1)
            return values

        def of(supports: Sequence[Support | None], name: str) -> tuple[float, Moments]:
            every = [
                Direction(derive(seed, f"signal/{name}", k), support=support) for k, support in enumerate(supports)
            ]
            measured = slopes(losses, place.theta, every, eps)
            first, second = (each.numpy().astype(np.float64) for each in (measured.first, measured.second))
            return float(measured.losses.mean()), Moments(first, second, seed)

        loss, moments = of([None] * directions, "all")
        layers = {}
        for names in blocks:
            name = layer_of(names[0])
            layers[name] = of([Support(dict.fromkeys(names))] * by_layer, name)[1].gradient
    return Signal(place.words, split, loss, eps, moments, place.rate, place.batch, layers)


def _of_a_run(
    path: Path,
    split: str,
    limit: int,
    adapter: str | None,
    model: str | None,
    data: str | None,
    overrides: Sequence[str],
) -> Place:
    if not is_state(path):
        raise InputError(
            f"{path}: no run and no checkpoint of one; of a model give a configuration: --model {path} --task NAME"
        )
    given, others = given_model(model, overrides, "signal", tasks=True)
    restored = restore(path, adapter, given)
    config, loaded = restored.config, restored.loaded
    cfg = task_config(config, None, {"data": data}, others)
    opened = Opened(loaded, restored.model, config, restored.info, restored.inputs)
    data_of = load_rows(opened, cfg, False, config.train.seed, split if split in ("dev", "test") else "train")
    parts = {"train": data_of.train, "dev": data_of.dev, "test": data_of.test}
    method = make_method(config)
    parts |= {name: rows for name, rows in method.split(data_of, config.train.seed).items() if name not in parts}
    examples = _chosen(parts, split)[:limit]
    loaded.max_length = shorter(loaded.max_length, data_of.max_length)
    evaluates = split in ("dev", "test")
    encoded = tokenize_all(
        loaded.tokenizer, examples, loaded.max_length, data_of.encodes, data_of.ends, evaluates, split
    )
    scorer = loaded.scorer(restored.model)
    rows = share_prompts(scorer, {split: encoded}, loaded.max_length)[split]
    loss = make_evaluator(scorer, data_of, loaded, config.train.eval_batch_size, config.train.seed).loss
    theta, adapters = restored.theta, restored.adapters
    if method.theta_of == "adapter" and adapters is not None:
        theta = Point(adapters.model, params=adapters.parameters(restored.adapter))
    step = restored.info["best_step"]
    words = f"{path.name}, step {step}, (theta{'' if restored.adapter == 'theta' else f', {restored.adapter}'})"
    return Place(words, theta, loss, rows, _rate(config), config.train.batch_size)


def _at_the_start(config: Config, split: str, limit: int, adapter: str | None, stack: ExitStack) -> Place:
    session = build(config.absolute())
    audit(session)
    streams = {name: list(stream.encoded) for name, stream in session.streams.items()}
    parts = {"train": [row for rows in streams.values() for row in rows]} | session.encoded | streams
    rows = _chosen(parts, split)[:limit]
    adapters, words = session.problem.adapters, "the start, theta"
    if adapter is not None and (adapters is None or adapter not in adapters.names):
        known = ", ".join(adapters.names) if adapters is not None else "none"
        raise InputError(f"adapter {adapter!r}: this method's are {known}")
    if adapters is not None:
        name = adapter or adapters.names[0]
        stack.enter_context(adapters.active(name))
        words = f"the start, (theta, {name})"
    loss, theta = session.evaluator.loss, session.problem.theta
    return Place(words, theta, loss, rows, _rate(config), config.train.batch_size)


def _chosen(parts: dict[str, list[Any]], split: str) -> list[Any]:
    if split not in parts:
        near = did_you_mean(split, parts)
        raise InputError(f'split: unknown "{printable(split, 60)}"{near}; known: {", ".join(parts)}')
    if len(parts[split]) < 2:
        raise InputError(f"split: {split} has {len(parts[split])} rows, and the variance over rows needs two")
    return parts[split]


def _rate(config: Config) -> float | None:
    """Of theta's zeroth-order steps: lr_theta, or the one rate of a method that moves theta alone."""
    settings = vars(config.method)
    value = settings.get("lr_theta", settings.get("lr"))
    return float(value) if make_method(config).moves == "zo" and value is not None else None
