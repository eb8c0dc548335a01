"""From the parts of a meta-test to its numbers: a mean over tasks for each seed, then over the seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any


def summary(parts: Sequence[dict[str, Any]], unseen: Iterable[str] = ()) -> dict[str, Any]:
    """{way: {"all": ..., "unseen_domain": ... or None, "tasks": {task: ...}, "seconds_per_example", "rate"}}.

    Each "...": {"seeds": {seed: score}, "mean", "sd" (of a sample; None for one seed), "worst"}; scores up to 1.
    unseen: the target tasks of a domain that no training task is of.
    """
    ways = {}
    for way in dict.fromkeys(part["way"] for part in parts):
        measured = [part for part in parts if part["way"] == way]
        tasks = list(dict.fromkeys(part["task"] for part in measured))
        apart = [task for task in tasks if task in set(unseen)]
        ways[way] = {
            "all": _over_seeds(measured, tasks),
            "unseen_domain": _over_seeds(measured, apart) if apart else None,
            "tasks": {task: {"metric": _metric(measured, task), **_over_seeds(measured, [task])} for task in tasks},
            "seconds_per_example": sum(p["seconds"] for p in measured) / sum(p["n"] for p in measured),
            "rate": measured[0].get("rate"),
        }
    return ways


def _metric(parts: Sequence[dict[str, Any]], task: str) -> str:
    return next(part["metric"] for part in parts if part["task"] == task)


def _over_seeds(parts: Sequence[dict[str, Any]], tasks: Sequence[str]) -> dict[str, Any]:
    seeds = list(dict.fromkeys(part["seed"] for part in parts))
    scores = {}
    for seed in seeds:
        values = [part["value"] for part in parts if part["seed"] == seed and part["task"] in tasks]
        scores[str(seed)] = sum(values) / len(values)
    values = list(scores.values())
    return {
        "seeds": scores,
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "worst": min(values),
    }


def rows(ways: dict[str, Any]) -> list[tuple[str, ...]]:
    """A line for each way: name, mean (sd), worst seed, unseen domain; in per cent."""
    lines = []
    for way, values in ways.items():
        apart = values["unseen_domain"]
        worst = percent(values["all"]["worst"]) if values["all"]["sd"] is not None else "-"
        lines.append((way, with_sd(values["all"]), worst, with_sd(apart) if apart else "-"))
    return lines


def with_sd(values: dict[str, Any]) -> str:
    """45.5 (0.3), as Bilevel ZOFO's Table 4 has it; without brackets where there is one seed."""
    text = percent(values["mean"])
    return text if values["sd"] is None else f"{text} ({percent(values['sd'])})"


def percent(value: float) -> str:
    return f"{100 * value:.1f}"
