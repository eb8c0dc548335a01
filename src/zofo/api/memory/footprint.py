"""What a run needs in memory, by part: predicted without the model's weights, or measured with them.

Both run the method's own steps on its longest batch under a count of the tensors that are alive (`live`); a
prediction runs them on hollow tensors (`hollow`). So whatever a method, an adapter or the loss does is counted
as it is, with no formula to keep up with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zofo.api.memory.depth import deepened, shallow
from zofo.api.memory.hollow import Hollow, hollow, hollow_model, settings_of
from zofo.api.memory.larger import sizes_of, with_layers
from zofo.api.memory.live import PARTS, REST, Live, Peak
from zofo.api.memory.rows import NoTokenizer, Rows
from zofo.config.adapter_start import without
from zofo.config.resolve import Config
from zofo.config.sections import ModelConfig
from zofo.data import TaskData
from zofo.data.batch import Batch, collate
from zofo.data.multitask.setting import find_setting
from zofo.data.stream import eval_batches, forward_cost, longest
from zofo.data.tokenization import Encoded
from zofo.errors import InputError
from zofo.methods._problem import Schedule
from zofo.models.backbone import Loaded
from zofo.models.load import load as load_model
from zofo.models.load import max_length_of, pad_id_of, read_tokenizer
from zofo.train import setup
from zofo.train.checks import trains_metric
from zofo.train.record import reset_peak, resident
from zofo.zo._torch import tree_leaves
from zofo.zo.quantized import Frozen

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = ["PARTS", "Footprint", "Peak", "Rows", "measure", "predict"]

FIRST_ORDER, ZEROTH_ORDER = "first-order pass", "zeroth-order forward"
DESCENT_ADAPTER, DESCENT_THETA = "first-order update, adapter", "first-order update, theta"
UPDATE = "zeroth-order update"
EVALUATION = "evaluation"
PHASES = (FIRST_ORDER, DESCENT_ADAPTER, DESCENT_THETA, ZEROTH_ORDER, UPDATE, REST, EVALUATION)


Loader = Callable[[ModelConfig], Loaded]
Task = Callable[..., TaskData]


@dataclass(frozen=True)
class Footprint:
    """Bytes of the tensors alive at the fullest moment of each phase of a step, and of an evaluation."""

    method: str
    adapter: str | None
    model: str
    dtype: str
    batches: dict[str, tuple[int, int, int]]  # stream, or "evaluation": (examples, rows, tokens of a row)
    peaks: tuple[Peak, ...]
    process: tuple[int, int] | None = None  # measured: held before the steps, at most in them (Linux)

    @property
    def peak(self) -> Peak:
        """The fullest phase."""
        return max(self.peaks, key=lambda peak: peak.total)

    def to_dict(self) -> dict[str, Any]:
        """Plain, for JSON."""
        return {
            **{key: getattr(self, key) for key in ("method", "adapter", "model", "dtype")},
            "batches": {n: dict(zip(("examples", "rows", "tokens"), size)) for n, size in self.batches.items()},
            "phases": {peak.phase: {**peak.parts, "total": peak.total} for peak in self.peaks},
            "peak_phase": self.peak.phase,
            "peak_bytes": self.peak.total,
            "process": dict(zip(("before", "peak"), self.process)) if self.process else None,
        }


def predict(config: Config, rows: Rows | None = None, task: Task | None = None, whole: bool = False) -> Footprint:
    """What a run of `config` will need. Reads config.json, and where `rows` is None the tokenizer and the data.

    task: stands for `data.load_task`, e.g. to read the data once for several predictions. whole: every layer is
    computed; otherwise, where layers are alike, two models of few of them, see `depth`. Raises InputError as a run
    does, and where the data decides what a model computes.
    """
    settings, dtype = settings_of(config.model)
    plain = dataclasses.replace(config.model, device="cpu", dtype=str(dtype)[6:])
    config = dataclasses.replace(config, model=plain)

    def traced(settings: PreTrainedConfig, every: bool = False) -> _Traced:
        with hollow(settings.model_type) as mode:
            return _trace(config, rows, _loader(settings, dtype, mode, rows), False, task, every)

    if config.model.offload_folder is not None:
        sizes = sizes_of(settings, dtype, config.model.trust_remote_code)
        in_memory = dataclasses.replace(config, model=dataclasses.replace(plain, offload_folder=None))
        footprint = predict(in_memory, rows, task, whole)
        return replace(footprint, peaks=with_layers(footprint.peaks, sizes))
    few = None if whole or config.names.get("mask") == "blocks" else shallow(settings)  # a block is a layer
    if few is None:
        return traced(settings).footprint()
    one, other = (traced(each, every=True) for each in few.settings)
    return replace(one, peaks=deepened(one.moments, other.moments, few)).footprint()


def measure(config: Config, rows: Rows | None = None) -> Footprint:
    """The same for the real model, which is loaded and makes two real steps of each kind. Raises InputError."""
    return _trace(config, rows, load_model, True).footprint()


@dataclass(frozen=True)
class _Traced:
    """A count of a run's steps. moments: see `Live`."""

    config: Config
    dtype: torch.dtype
    batches: dict[str, Batch]
    peaks: dict[str, Peak]
    moments: dict[str, list[tuple[int, ...]]]
    process: tuple[int, int] | None

    def footprint(self) -> Footprint:
        sizes = {
            n: (batch.examples, len(batch.input_ids), batch.input_ids.shape[1]) for n, batch in self.batches.items()
        }
        peaks = sorted(self.peaks.values(), key=lambda peak: PHASES.index(peak.phase))
        fullest = max(peaks, key=lambda peak: peak.total)
        shown = tuple(peak for peak in peaks if peak is fullest or peak.phase != REST)
        names = self.config.names
        dtype, model = str(self.dtype)[6:], self.config.model.name
        return Footprint(names["method"], names.get("adapter"), model, dtype, sizes, shown, self.process)


def _loader(settings: PreTrainedConfig, dtype: torch.dtype, mode: Hollow, rows: Rows | None) -> Loader:
    """Stands for `models.load.load`."""

    def load(config: ModelConfig) -> Loaded:
        tokenizer = NoTokenizer() if rows is not None else read_tokenizer(config)
        model = hollow_model(config, settings, dtype, mode)
        limit, pad = max_length_of(config, settings, tokenizer), pad_id_of(tokenizer, settings)
        return Loaded(model, tokenizer, torch.device("cpu"), dtype, limit, pad, Frozen(model))

    return load


def _trace(
    config: Config, rows: Rows | None, load: Loader, real: bool, task: Task | None = None, every: bool = False
) -> _Traced:
    """Build the session with this loader and run its method under the count. task: see `predict`; every: see `Live`.

    real: as it comes; otherwise what a step of one kind finds made by the step before is made for it, to save time.
    """
    if config.names.get("mask") == "sensitivity" and not real:
        raise InputError("mask.name: which weights sensitivity chooses hangs on gradients; --measure counts them")
    if rows is not None:
        setting = find_setting(config.task.name)
        rows = replace(rows, tasks=setting.train[config.task.held_out :] if setting else ())
        task = partial(_made_up, rows.task(16 * config.train.batch_size))
    built = setup.build(_shortened(config), load, task)
    if trains_metric(config, built.method) and built.data.kind == "generation" and not real:
        raise InputError(
            "task.objective: what a step that generates takes depends on what is written; --measure counts it"
        )
    batches = _batches(built, rows)
    live = Live(built.loaded.model.get_input_embeddings().weight.shape[0], every)
    live.claim((*built.loaded.model.parameters(), *built.loaded.model.buffers()), "weights")
    if built.problem.adapters is not None:
        for name in built.problem.adapters.names:
            live.claim(built.problem.adapters.parameters(name).values(), "adapters")
    with live:
        before = resident("VmRSS") if real and reset_peak() else None
        _steps(live, built, batches, real)
        process = None if before is None else (before, resident("VmHWM") or before)
        _evaluation(live, built, batches[EVALUATION])
    return _Traced(config, built.loaded.dtype, batches, live.peaks, live.moments, process)


def _made_up(data: TaskData, *_: Any) -> TaskData:
    return data


def _shortened(config: Config) -> Config:
    """One lower step in place of T: each takes the same."""
    train = dataclasses.replace(config.train, num_train_epochs=None)
    config = dataclasses.replace(config, train=train, adapter=without(config.adapter))
    if getattr(config.method, "inner_steps", 0) > 1:
        return dataclasses.replace(config, method=dataclasses.replace(config.method, inner_steps=1))
    return config


def _batches(built: setup.Session, rows: Rows | None) -> dict[str, Batch]:
    """The batch of each stream whose rows take most tokens, and the largest of an evaluation."""
    train, pad = built.config.train, built.loaded.pad_id
    if rows is not None:
        limit, words = built.loaded.max_length, built.loaded.model.get_input_embeddings().weight.shape[0]
        if limit is not None and rows.length > limit:
            raise InputError(f"--length: {rows.length} is more than the {limit} tokens that the model takes")
        examples = {name: rows.encoded(train.batch_size, words) for name in built.streams}
        evaluated = rows.encoded(train.eval_batch_size, words)
    else:
        examples = {name: _filled(stream.encoded, train.batch_size) for name, stream in built.streams.items()}
        evaluated = max((built.encoded["dev"], built.encoded["test"]), key=lambda split: max(e.length for e in split))
    batches = {name: collate(batch, pad) for name, batch in examples.items()}
    asked = built.config.model.device  # of the run, whatever this prediction computes on
    device = ("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked.partition(":")[0]
    parts = (batch for _, batch in eval_batches(evaluated, train.eval_batch_size, pad, forward_cost(device)))
    return {**batches, EVALUATION: max(parts, key=lambda batch: batch.input_ids.numel())}


def _filled(encoded: Sequence[Encoded], size: int) -> list[Encoded]:
    """The longest batch, its examples again where there are too few."""
    batch = longest(encoded, size)
    return [batch[i % len(batch)] for i in range(size)]


def _steps(live: Live, built: setup.Session, batches: dict[str, Batch], real: bool) -> None:
    """Steps of each kind on the longest batches; nothing for a method without any."""
    problem, method = built.problem, built.method
    if not built.streams:
        return
    problem.streams = {name: repeat(batches[name]) for name in built.streams}
    problem.rate, problem.descents = Schedule("constant", 1), []
    with live.during(REST, "adapters"):  # a copy of their start
        method.setup(problem)
    _follow(live, built)
    # A second step finds the moments, the rule's state and the scratch that the first one made
    left = built.rule is not None and (
        built.rule.bytes_per_weight
        or (method.iterates and method.optimizers())
        or (problem.estimator is not None and problem.estimator.host_bytes(problem.theta))
    )
    if not real:
        _make_moments(built)
    live.forget()
    for k in method.kinds(max(1, built.config.train.max_steps // built.counted_per_step)):
        for _ in range(2 if real or left else 1):
            method.step(k)
            if built.rule is not None and problem.estimator is not None:
                states = [built.rule.state_dict(), problem.estimator.state_dict(), dict(problem.theta.bases)]
                live.claim((t for t in tree_leaves(states) if isinstance(t, Tensor)), "moments")


def _follow(live: Live, built: setup.Session) -> None:
    """Name the phases of a step, and the parts that only its objects know."""
    problem = built.problem
    live.follow(problem.loss, "backward", FIRST_ORDER)
    live.follow(problem.loss, "each", ZEROTH_ORDER)
    live.follow(problem.loss, "first", ZEROTH_ORDER)
    for name, descent in built.method.optimizers().items():
        live.follow(descent, "step", DESCENT_THETA if name == "theta" else DESCENT_ADAPTER, "moments")
        for param in descent.params.values():
            _mark_gradient(live, param)
    if problem.rule is not None:
        live.follow(problem.rule, "update_", UPDATE)
    live.follow(problem.theta._places.scratch, "take", None, "scratch")


def _make_moments(built: setup.Session) -> None:
    """A step of each optimizer on gradients of nothing, at rate 0."""
    for descent in built.problem.descents:
        for param in descent.params.values():
            trained = param.requires_grad
            param.requires_grad_(True).grad = torch.zeros_like(param)
            param.requires_grad_(trained)
        descent.step(0.0)


def _mark_gradient(live: Live, param: Tensor) -> None:
    """From now on the gradient that a backward pass leaves is known for what it is."""
    trained = param.requires_grad
    param.requires_grad_(True).register_post_accumulate_grad_hook(
        lambda p: live.claim([p.grad] if p.grad is not None else [], "gradients")
    )
    param.requires_grad_(trained)


def _evaluation(live: Live, built: setup.Session, batch: Batch) -> None:
    """The forward of `eval.likelihood.evaluate`, which also reads the scores."""
    loss = built.problem.loss
    with live.during(EVALUATION), torch.no_grad():
        loss.scorer.logprobs(batch)
