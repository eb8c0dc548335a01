"""How far theta moved, layer by layer: the journal's updates done again on zeros, without the base model.

rms of a layer = sqrt(sum over its weights of (theta - theta_0)^2 / number of its weights). A rule moves a weight by
what the directions say and not by where it is, so the updates from 0 in fp32 are theta - theta_0 before any rounding to
the weights' own type. Where that takes long, the first weights of each tensor stand for all of it; where it cannot be
done, the triangle inequality bounds it: rms <= sum over the updates of rate |c|, for directions of rms 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zofo.errors import InputError
from zofo.study.results import Result
from zofo.zo.journal import JournalError, Outcome, Record, read_header, read_records

WORK = 200_000_000  # weights times updates that are done again: seconds on two cores
WEIGHTS = WORK // 10  # that are held for it, in fp32
CALLS = 400_000  # tensors times updates
LEAST = 4096  # weights of a tensor that stand for it
LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block|layer)\.(\d+)\.")


@dataclass(frozen=True)
class Layer:
    """name: "layer 3", or a tensor's own. rms: of theta - theta_0 there; None where it is not computed."""

    name: str
    weights: int
    rms: float | None


@dataclass(frozen=True)
class Movement:
    """updates: those that moved theta, up to what is deployed. records: those of the whole journal. bound: of every
    layer's rms; None where the rule is none of sgd. how: how the layers' numbers came about, or why there are none."""

    layers: tuple[Layer, ...]
    updates: int
    records: int
    bound: float | None
    how: str


def movement(result: Result) -> Movement | None:
    """Of a run's directory; None where there is no journal, or none that can be read."""
    journal = result.path / "journal.bin"
    if not result.path.is_dir() or not journal.is_file() or result.ending.kind == "going":
        return None
    try:
        header, start = read_header(journal)
        records = list(read_records(journal, start, result.info.get("journal_position")))
        written = sum(record.outcome is not Outcome.SUPPORT for record in read_records(journal, start))
    except (JournalError, OSError):
        return None
    moved = [r for r in records if r.outcome in (Outcome.APPLIED, Outcome.REVERSED)]
    sizes = _sizes(header)
    try:
        rms, how = _replayed(result.path, header, records)
    except (_NotHere, InputError, JournalError) as reason:
        rms, how = {}, f"not computed: {reason}"
    return Movement(_layers(sizes, rms), len(moved), written, _bound(header, moved), how)


class _NotHere(Exception):
    """Why it is not done."""


def _sizes(header: Mapping[str, Any]) -> dict[str, int]:
    sizes = {}
    for tensor in header["tensors"]:
        sizes[tensor["name"]] = 1
        for length in tensor["shape"]:
            sizes[tensor["name"]] *= length
    return sizes


def _bound(header: Mapping[str, Any], moved: Sequence[Record]) -> float | None:
    rule = header.get("rule") or {}
    if rule.get("name") not in ("sgd", "conservative") or rule.get("normalize") or rule.get("scalar_sign"):
        return None
    return sum(record.rate * abs(c) for record in moved for _, c in record.terms)


def _replayed(path: Path, header: Mapping[str, Any], records: Sequence[Record]) -> tuple[dict[str, float], str]:
    """({tensor: rms}, how in words). Raises _NotHere, InputError and JournalError."""
    shapes = {tensor["name"]: tuple(tensor["shape"]) for tensor in header["tensors"]}
    sizes, count = _sizes(header), max(1, len(records))
    if count * len(sizes) > CALLS:
        raise _NotHere(f"{count} updates of {len(sizes)} tensors take long to do again")
    _check_weightless(header)
    cut = sum(sizes.values()) > min(WORK // count, WEIGHTS)
    if cut:
        if header.get("mask") or (header.get("estimator") or {}).get("name") in ("lozo", "subzero"):
            raise _NotHere(f"{count} updates of {sum(sizes.values())} weights take long to do again")
        least = max(LEAST, min(WORK // count, WEIGHTS) // len(sizes) // LEAST * LEAST)
        shapes = {name: (min(size, least),) for name, size in sizes.items()}
    rms = _displacements(path, shapes, records)
    share = sum(_length(shape) for shape in shapes.values()) / sum(sizes.values())
    how = f"by the updates done again on the first weights of each tensor ({share:.2g} of all)" if cut else ""
    return rms, how or "by all updates done again"


def _check_weightless(header: Mapping[str, Any]) -> None:
    """Raises _NotHere where an update needs the weights themselves."""
    if (header.get("mask") or {}).get("name") == "magnitude":
        raise _NotHere("the mask goes by the weights' sizes, which the journal does not have")
    if (header.get("rule") or {}).get("weight_decay"):
        raise _NotHere("weight decay goes by the weights' sizes, which the journal does not have")


def _displacements(path: Path, shapes: Mapping[str, tuple[int, ...]], records: Sequence[Record]) -> dict[str, float]:
    """{tensor: rms of what the updates add up to}."""
    import torch
    from torch import nn

    from zofo.config.instantiate import make_estimator, make_rule
    from zofo.train.run_dir import RunDir
    from zofo.zo.point import Point
    from zofo.zo.replay import replay

    config = RunDir(path).read_config()
    model = nn.Module()
    params = {}
    for number, (name, shape) in enumerate(shapes.items()):
        params[name] = nn.Parameter(torch.zeros(shape, dtype=torch.float32))
        model.register_parameter(f"tensor{number}", params[name])
    theta = Point(model, params=params)
    replay(theta, make_estimator(config), make_rule(config), records)
    return {name: float(value.double().square().mean().sqrt()) for name, value in theta.items()}


def _layers(sizes: Mapping[str, int], rms: Mapping[str, float]) -> tuple[Layer, ...]:
    members: dict[str, list[str]] = {}
    for name in sizes:
        found = LAYER.search(name)
        members.setdefault(f"layer {found.group(1)}" if found else name.removesuffix(".weight"), []).append(name)
    layers = []
    for layer, names in members.items():
        weights = sum(sizes[name] for name in names)
        square = sum(sizes[name] * rms[name] ** 2 for name in names) / weights if rms else None
        layers.append(Layer(layer, weights, None if square is None else square**0.5))
    return tuple(layers)


def _length(shape: Sequence[int]) -> int:
    length = 1
    for each in shape:
        length *= each
    return length
