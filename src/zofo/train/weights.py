"""Whether the weights of a run are finite, and what a person can do where an update met a NaN."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from zofo.train.setup import Session

BLOWN = 100.0  # times the largest weight before training, or 1


def broken(session: Session) -> list[str]:
    """The tensors of the backbone and of the adapters that hold a weight which is NaN or infinite, by name."""
    tensors = {**session.backbone.params, **session.problem.theta.params}
    adapters = session.problem.adapters
    if adapters is not None:
        tensors |= {
            f"{name}: {key}": param
            for name in session.method.adapters_used
            for key, param in adapters.parameters(name).items()
        }
    return [name for name, tensor in tensors.items() if not math.isfinite(_largest(tensor))]


def largest(session: Session) -> dict[str, float]:
    """{"theta" and each adapter: its largest absolute weight}: inf where one is NaN or infinite."""
    parts: dict[str, Iterable[torch.Tensor]] = {"theta": session.problem.theta.params.values()}
    if (adapters := session.problem.adapters) is not None:
        parts |= {name: adapters.parameters(name).values() for name in session.method.adapters_used}
    return {name: max(map(_largest, tensors), default=0.0) for name, tensors in parts.items()}


def _largest(tensor: torch.Tensor) -> float:
    if not tensor.is_floating_point() or not tensor.numel():
        return 0.0
    low, high = tensor.detach().aminmax()  # one pass and no copy, as abs or isfinite would make; of a NaN they are NaN
    value = max(-float(low), float(high))
    return value if math.isfinite(value) else math.inf


def blown_up(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """In words, the part whose largest weight is far from any that training makes; "" where none is."""
    far = [name for name, size in after.items() if size > BLOWN * max(1.0, before.get(name, 0.0))]
    if not far:
        return ""
    name = max(far, key=after.__getitem__)
    now = f"{after[name]:.3g}" if math.isfinite(after[name]) else "NaN or infinite"
    return f"the largest weight of {name} is {now}, and was {before.get(name, 0.0):.3g}"


def advice(session: Session, begun: bool, finite: Path | None, before: Mapping[str, float]) -> str:
    """After an update that was refused: what the weights are now, and what can be done.

    begun: whether an update was made before. before: the largest weights before training. finite: the last checkpoint
    whose weights are finite and not blown up, where something is worth keeping. Rates and on_nonfinite are of the whole
    run, so a resume cannot change them and would come to this place again; but one that makes no further step goes back
    to the best evaluation, and ends there.
    """
    names, inplace = broken(session), session.problem.theta.mode == "inplace"
    lower, blown = "start again with lower rates", "" if names else blown_up(before, largest(session))
    if blown:
        now = f"{blown}: an update before this one was too large, and no later one can mend it"
    elif not names:
        now = "stopped before that update; theta and the adapters are finite"
        if inplace:
            now += ", theta back from its shift up to rounding (mode inplace; what is saved is exact)"
        elif session.config.train.on_nonfinite == "stop":
            lower += " or, where it is one batch's doing, train.on_nonfinite=skip"
    elif not begun:
        return f"{_words(names)} before any update: take another copy of the model, or another model.dtype"
    else:
        now = f"{_words(names)}: an update before this one overflowed, and no later one can mend it"
        lower += " or model.dtype=float32" if session.loaded.dtype == torch.float16 else ""
    lower += " (--overwrite, or another --output-dir)"
    if finite is None or not finite.is_dir():
        return f"{now}; {lower}"
    steps = finite.name.removeprefix("checkpoint-")
    command = f"zofo train --resume {shlex.quote(str(finite))} --max-steps {steps}"
    return f"{now}; {lower}, or end it with what is best on dev until step {steps}: {command}"


def _words(names: list[str]) -> str:
    what = "1 tensor holds" if len(names) == 1 else f"{len(names)} tensors hold"
    return f"{what} NaN or infinite weights ({names[0]})"
