"""What a meta-test measures: ways, seeds of demonstrations, tuning. Checked before a model is loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from zofo.errors import InputError, did_you_mean

SEEDS = (100, 13, 21, 42, 87)  # of the demonstrations, as MetaICL's files have them
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
WAYS = {
    "zero-shot": "the backbone alone, without demonstrations",
    "zero-shot-s": "with the shared s of a run, without demonstrations",
    "in-context": "k answered examples before each prompt",
    "tuned": "after a few steps of the adapter, from the run's s",
    "tuned-fresh": "the same from a fresh adapter",
}


@dataclass(frozen=True)
class Plan:
    """ways: of WAYS. seeds: of the demonstrations. k: demonstrations in context, in all. each: examples of each class
    that the adapter is tuned on (in all, where a task has no classes). steps, batch_size: of the tuning. rates: its
    candidates, between which the held-out training tasks decide, with the first `rate_runs` seeds. test_examples: of
    each target task."""

    ways: tuple[str, ...]
    seeds: tuple[int, ...] = SEEDS
    k: int = 4
    each: int = 4
    steps: int = 10
    batch_size: int = 4
    rates: tuple[float, ...] = RATES
    rate_runs: int = 5
    test_examples: int = 1000

    def __post_init__(self) -> None:
        """Raises InputError."""
        for way in self.ways:
            if way not in WAYS:
                hint = did_you_mean(way, WAYS) or ";"
                raise InputError(f'--ways: unknown "{way}"{hint} known: {", ".join(WAYS)}')
        for name, values in (("--ways", self.ways), ("--seeds", self.seeds), ("--rates", self.rates)):
            if not values or len(set(values)) < len(values):
                raise InputError(
                    f"{name}: expected one or more, each once, got {', '.join(map(str, values)) or 'none'}"
                )
        if any(not (math.isfinite(rate) and rate > 0) for rate in self.rates):
            raise InputError(f"--rates: each is more than 0, got {', '.join(map(str, self.rates))}")
        for name in ("k", "each", "steps", "batch_size", "rate_runs", "test_examples"):
            if getattr(self, name) < 1:
                flag = "num-fewshot" if name == "k" else name.replace("_", "-")
                raise InputError(f"--{flag}: must be >= 1, got {getattr(self, name)}")

    @property
    def rate_seeds(self) -> tuple[int, ...]:
        return self.seeds[: self.rate_runs]

    @property
    def tunes(self) -> bool:
        return any(is_tuned(way) for way in self.ways)


def is_tuned(way: str) -> bool:
    return way in ("tuned", "tuned-fresh")


def default_ways(method: str | None, has_s: bool, shared: bool) -> tuple[str, ...]:
    """What is measured of a run, by its method; of a plain model where there is none."""
    if method in ("metaicl", "icl"):
        return ("in-context",)
    if has_s:
        return ("zero-shot", *(("zero-shot-s",) if shared else ()), "tuned", "tuned-fresh")
    return ("zero-shot",) if method else ("zero-shot", "in-context")


def check_ways(ways: Sequence[str], has_s: bool, shared: bool) -> None:
    """Raises InputError for a way that needs what the target has not."""
    if "tuned" in ways and not has_s:
        raise InputError("--ways: tuned starts from the s of a meta-bilevel-zofo run; of this model, take tuned-fresh")
    if "zero-shot-s" in ways and not (has_s and shared):
        raise InputError("--ways: zero-shot-s needs a meta-bilevel-zofo run with method.adapters=shared")
