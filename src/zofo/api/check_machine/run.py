"""The checks of `zofo check`, each a verdict in a line: bits, theta, mixed rows, memory, speed."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

from zofo.api.check_machine.bits import BitsDiffer, check_bits
from zofo.api.check_machine.world import SHAPE, World, world
from zofo.errors import InputError
from zofo.models.load import device_of
from zofo.models.versions import processor
from zofo.train import record
from zofo.zo.estimators import spsa
from zofo.zo.laws import LAWS
from zofo.zo.point import MODES

FORMAT = "zofo.machine/1"
ROUNDS = 3
SIZES = {"cpu": ((4, 32), (4, 64)), "cuda": ((4, 256), (16, 256))}  # rows x tokens
NEAR = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}  # of a loss, between batches of other shapes
SLOW = 1.5  # a MeZO step over its two forwards: above it something else is in the way
OFF = 1.25  # measured over predicted memory, above it, and below its inverse, a prediction misleads
MIB = 2**20


@dataclass(frozen=True)
class Verdict:
    """good: None where it was not measured. facts: its numbers, for the block that is sent."""

    name: str
    good: bool | None
    words: str
    facts: dict[str, Any] = field(default_factory=dict)
    grave: bool = True  # results of this machine are wrong; else slow, or a prediction is off

    @property
    def word(self) -> str:
        return "not measured" if self.good is None else "ok" if self.good else "FAILS" if self.grave else "off"


def checks(device: str = "auto", dtype: str = "auto", tiny: bool = False) -> Iterator[Verdict]:
    """Each as it is made. tiny: a model of two narrow layers, for a rehearsal of the code. Raises InputError for a
    device that is not there."""
    where = device_of(device)
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in ("auto", *kinds):
        raise InputError(f"--dtype: expected auto, {', '.join(kinds)}, got {dtype}")
    kind = kinds.get(dtype) or (torch.bfloat16 if where.type == "cuda" else torch.float32)
    yield _bits(where)
    yield from _theta(where, kind)
    made = world(where, kind, tiny)
    yield _mixed(made, kind)
    sizes = ((2, 8),) if tiny else SIZES.get(where.type, SIZES["cpu"])
    for rows, length in sizes:
        yield _speed(made, rows, length)
    yield _memory(made, kind, *sizes[-1], tiny)


def block(verdicts: list[Verdict], device: str, seconds: float) -> dict[str, Any]:
    """What is pasted or sent: no name, no path of the machine."""
    environment = record.environment()
    return {
        "format": FORMAT,
        "device": str(device_of(device)),
        "device_name": environment["device_name"],
        "processor": processor(),
        "environment": {key: environment[key] for key in ("python", "machine", "packages", "threads", "cuda")},
        "cpu_capability": environment["cpu_capability"],
        "seconds": round(seconds, 1),
        "checks": [{"name": v.name, "good": v.good, "words": v.words, **v.facts} for v in verdicts],
    }


def _bits(device: torch.device) -> Verdict:
    try:
        count = check_bits(device)
    except BitsDiffer as error:
        return Verdict("kernels' bits", False, f"{error}; runs of this machine do not replay on others", {"cases": 0})
    return Verdict("kernels' bits", True, f"{count} cases are those of every machine", {"cases": count})


def _theta(device: torch.device, dtype: torch.dtype) -> Iterator[Verdict]:
    """Bit for bit as before an estimate, by each law, in the modes that promise it."""
    for mode in MODES:
        if mode == "inplace":  # which rounds, and is undone by the journal alone
            continue
        made, wrong = world(device, dtype, tiny=True, mode=mode), list[str]()
        batch, theta = made.use(4, 16), made.problem.theta
        before = theta.digest()
        for law in LAWS:
            estimator = spsa.Estimator(spsa.Config(q=2, law=law, shift=mode))
            estimator(lambda batch=batch, made=made: made.problem.loss(batch), theta, 0, 7)
            if theta.digest() != before:
                wrong.append(law)
        words = f"the same bits after estimates by {', '.join(LAWS)}" if not wrong else f"changed by {', '.join(wrong)}"
        yield Verdict(f"theta, shift {mode}", not wrong, words)


def _mixed(made: World, dtype: torch.dtype) -> Verdict:
    """F of three parts in one forward beside each alone, of adapters that differ."""
    problem, loss = made.problem, made.problem.loss
    assert problem.adapters is not None
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for param in problem.adapters.parameters("p").values():
            param.add_(0.2 * torch.randn(param.shape, generator=generator).to(param))
    f = made.use(4, 16)
    parts = [(f, "p"), (next(problem.streams["p"]), "p"), (next(problem.streams["p"]), "s")]
    if not problem.adapters.mixes:
        return Verdict(
            "mixed rows", None, "a trial says that rows may not mix here: each part has a forward of its own"
        )
    with torch.no_grad():  # in one forward, whether or not that is faster
        together, alone = loss._means(loss._tables(parts), parts), [loss.each([part])[0] for part in parts]
    worst = max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(together, alone))
    good = worst <= NEAR[dtype]
    return Verdict(
        "mixed rows", good, f"losses within {worst:.1e} of those of separate forwards", {"difference": worst}
    )


def _speed(made: World, rows: int, length: int) -> Verdict:
    """Steps beside two plain forwards of the same batch, in turn."""
    batch, loss = made.use(rows, length), made.problem.loss
    variants: dict[str, Callable[[], object]] = {"two forwards": lambda: [loss(batch), loss(batch)], **made.steps()}
    times: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(ROUNDS + 1):
        for name, run in variants.items():
            seconds = _seconds(run, made.device)
            if turn:  # the first one compiles and allocates
                times[name].append(seconds)
    ratios = [a / b for a, b in zip(times["mezo"], times["two forwards"])]
    medians = {name: median(values) for name, values in times.items()}
    ratio = median(ratios)
    words = f"a MeZO step takes {ratio:.2f} of its two forwards ({min(ratios):.2f} to {max(ratios):.2f}); "
    words += ", ".join(f"{name} {value:.3f} s" for name, value in medians.items())
    facts = {"rows": rows, "tokens": length, "seconds": medians, "mezo_over_forwards": ratio}
    return Verdict(f"speed, {rows} x {length} tokens", ratio <= SLOW, words, facts, grave=False)


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _memory(made: World, dtype: torch.dtype, rows: int, length: int, tiny: bool) -> Verdict:
    """Of a first-order step: what `zofo memory` predicts, and the peak over what is held."""
    made.use(rows, length)
    step = made.steps()["fo-peft"]
    step()  # what the first step makes stays
    measured = _peak_over(step, made.device)
    if tiny:
        return Verdict("memory", None, "not predicted for a rehearsal's model")
    if measured is None:
        return Verdict("memory", None, "this system does not say what a step took")
    predicted = _predicted(dtype, rows, length)
    ratio = measured / predicted
    words = f"a first-order LoRA step takes {measured / MIB:.0f} MiB over the weights, predicted {predicted / MIB:.0f}"
    facts = {"measured_bytes": measured, "predicted_bytes": predicted, "rows": rows, "tokens": length}
    return Verdict("memory", 1 / OFF <= ratio <= OFF, words, facts, grave=False)


def _predicted(dtype: torch.dtype, rows: int, length: int) -> int:
    from zofo.api.configure import resolve
    from zofo.api.memory.footprint import Rows, predict
    from zofo.api.memory.named_shapes import place

    model = {"name": place(SHAPE), "dtype": str(dtype).removeprefix("torch."), "device": "cpu"}
    train = {"output_dir": "unused", "batch_size": rows, "eval_batch_size": rows}
    sections: dict[str, Any] = {"model": model, "task": "sst2", "method": "fo-peft", "adapter": "lora"}
    config = resolve(train=train, **sections)
    footprint = predict(config, Rows(length, 2))
    weights = ("weights", "adapters", "moments")
    return max(peak.total - sum(peak.parts.get(part, 0) for part in weights) for peak in footprint.peaks)


def _peak_over(run: Callable[[], object], device: torch.device) -> int | None:
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with suppress(OSError, AttributeError):  # else freed memory that is held for later hides the step's
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = record.resident("VmRSS")
    if before is None:
        return None
    record.reset_peak()
    run()
    after = record.resident("VmHWM")
    return None if after is None else max(1, after - before)
