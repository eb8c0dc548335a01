"""The settings nearest to a configuration whose run fits, in the order of what they change in its results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec

from zofo.api.configure import resolve
from zofo.api.out_of_memory import Option, options_of
from zofo.config.instantiate import make_method
from zofo.config.resolve import Config
from zofo.errors import InputError

Needs = Callable[[Config], int]  # bytes; raises InputError
SAME = ("micro_batch_size", "eval_batch_size", "gradient_checkpointing")  # the same numbers but for last bits
DISK = "offload_folder"
SHORTEST = 128  # tokens below which cutting examples is no advice
MOST = 3  # ways that are told


@dataclass(frozen=True)
class Way:
    """Settings together, and the bytes that a run with them needs."""

    settings: tuple[str, ...]
    needs: int


def nearest(config: Config, needs: Needs, size: int, longest: int) -> list[Way]:
    """At most three ways to fit into `size` bytes, first what leaves a run's numbers the same. longest: tokens of the
    longest row. Each was asked for by `needs`; empty where nothing that was tried fits."""
    levers, ways = _same(config), list[Way]()
    chain = _together(config, levers, needs, size)
    if chain:
        ways.append(chain)
    strongest = [values[-1] for values in levers]
    for option in _others(config, longest):
        if len(ways) == MOST:
            break
        way = _fits(config, [option], needs, size) or _fits(config, [*strongest, option], needs, size)
        if way:
            ways.append(way)
    if len(ways) < MOST and (way := _layer_by_layer(config, needs, size)):
        ways.append(way)
    if len(ways) < MOST and (way := _mezo(config, needs, size)):
        ways.append(way)
    return ways


def _same(config: Config) -> list[list[Option]]:
    """Levers, each from its weakest value to its strongest."""
    train = config.train
    micro = _halves(train.micro_batch_size or train.batch_size)
    levers = [
        [Option("train", "eval_batch_size", n) for n in _halves(train.eval_batch_size)],
        [Option("train", "micro_batch_size", n) for n in micro] if make_method(config).streams else [],
        [o for o in options_of(config) if o.key == "gradient_checkpointing"],
    ]
    return [lever for lever in levers if lever]


def _halves(n: int) -> list[int]:
    return [n >> k for k in range(1, n.bit_length())]


def _others(config: Config, longest: int) -> list[Option]:
    """What changes results: first how numbers are kept, then what is read."""
    options = [option for option in options_of(config) if option.key not in (*SAME, DISK)]
    if find_spec("bitsandbytes") is None:
        options = [option for option in options if option.value != "nf4"]
    lengths = [n for n in _halves(longest) if n >= SHORTEST]
    return [*options, *(Option("model", "max_length", n) for n in lengths[:1])]


def _together(config: Config, levers: Sequence[list[Option]], needs: Needs, size: int) -> Way | None:
    """The weakest values that fit: of one lever, else of the first so many of them."""
    for lever in levers:
        if way := _weakest(config, [], lever, needs, size):
            return way
    for last in range(1, len(levers)):
        chosen = [lever[-1] for lever in levers[:last]]
        way = _weakest(config, chosen, levers[last], needs, size)
        if way:
            return way
    return None


def _weakest(config: Config, chosen: list[Option], lever: list[Option], needs: Needs, size: int) -> Way | None:
    """The first value of the lever with which it fits, by halving; None where the strongest does not."""
    best = _fits(config, [*chosen, lever[-1]], needs, size)
    low, high = 0, len(lever) - 1  # lever[high] fits
    while best and low < high:
        middle = (low + high) // 2
        way = _fits(config, [*chosen, lever[middle]], needs, size)
        best, low, high = (way, low, middle) if way else (best, middle + 1, high)
    return best


def _fits(config: Config, options: Sequence[Option], needs: Needs, size: int) -> Way | None:
    for option in options:
        config = option.of(config)
    return _asked(config, tuple(option.setting for option in options), needs, size)


def _asked(config: Config, settings: tuple[str, ...], needs: Needs, size: int) -> Way | None:
    try:
        needed = needs(config)
    except InputError:  # a setting that this model or method does not take
        return None
    return Way(settings, needed) if needed <= size else None


def _layer_by_layer(config: Config, needs: Needs, size: int) -> Way | None:
    """The weights in a file, where this run may have them there."""
    options = [option for option in options_of(config) if option.key == DISK]
    return _fits(config, options, needs, size) if options else None


def _mezo(config: Config, needs: Needs, size: int) -> Way | None:
    """MeZO on the backbone: no gradients and no moments."""
    method = make_method(config)
    if not method.first_order or method.many:
        return None
    parts = {name: part for name, part in config.to_dict().items() if name in ("model", "task", "train")}
    try:
        other = resolve(None, (), files=False, method="mezo", **parts)
    except InputError:
        return None
    small = replace(other, train=replace(other.train, eval_batch_size=1))
    asked = _asked(other, ("method=mezo",), needs, size)
    return asked or _asked(small, ("method=mezo", "train.eval_batch_size=1"), needs, size)
