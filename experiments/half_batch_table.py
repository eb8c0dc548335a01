"""The tables of `experiments.half_batch`: probabilities with Wilson's 95 % intervals, and what slopes say of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from typing import Any

from experiments.every_task import wilson
from experiments.half_batch_plan import Plan
from experiments.half_batch_trial import Arm

Trials = list[dict[str, Any]]


def tables(plan: Plan, by_task: bool = False) -> str:
    blocks = [_steps(plan, by_task), _slopes(plan), _curvature(plan), _bands(plan)]
    return "\n\n".join("\n".join(block) for block in blocks)


def cells(plan: Plan, by_task: bool) -> Iterator[tuple[str, str, Trials]]:
    """(task, theta, its finished trials); of all tasks together where not by_task."""
    for theta in plan.data["thetas"]:
        for tasks in [[task] for task in plan.data["tasks"]] if by_task else [list(plan.data["tasks"])]:
            trials = [
                trial for task in tasks for part in plan.found(task=task, theta=theta) for trial in part["trials"]
            ]
            if trials:
                yield tasks[0] if by_task else "all", theta, trials


def share(hits: list[bool]) -> str:
    """The share of hits and its 95 % interval."""
    low, high = wilson(sum(hits) / len(hits), len(hits))
    return f"{sum(hits) / len(hits):.2f} ({max(0.0, low):.2f} to {min(1.0, high):.2f})"


def of(trial: dict[str, Any], arm: Arm, rate: float) -> dict[str, Any]:
    return next(step for step in trial["steps"] if step["arm"] == arm.name and step["rate"] == rate)


def raises(trial: dict[str, Any], arm: Arm, rate: float, half: int) -> bool:
    return not of(trial, arm, rate)["after"][half] <= trial["before"][half]  # a loss that is no number was raised too


def _steps(plan: Plan, by_task: bool) -> Iterator[str]:
    yield (
        "| task | theta | step | rate | trials | its length | predicted fall on A | change on A | raises A | raises B |"
    )
    yield "|" + "---|" * 10
    for task, theta, trials in cells(plan, by_task):
        for arm in plan.arms:
            for rate in arm.rates:
                steps = [of(trial, arm, rate) for trial in trials]
                norm, predicted = (statistics.median(step[key] for step in steps) for key in ("norm", "predicted"))
                change = statistics.median(s["after"][0] - t["before"][0] for s, t in zip(steps, trials))
                a, b = (share([raises(trial, arm, rate, half) for trial in trials]) for half in (0, 1))
                yield (
                    f"| {task} | {theta} | {arm.name} | {rate:g} | {len(trials)} | {norm:.2g} | {predicted:.2g} "
                    f"| {change:+.2g} | {a} | {b} |"
                )


def _slopes(plan: Plan) -> Iterator[str]:
    """Whether both halves agree on a slope's sign: by their gradients, for a Gaussian z, and by ZO's smallest step."""
    zo = next((arm for arm in plan.arms if arm.kind == "zo"), None)
    yield (
        "| task | theta | half | trials | loss | gradient's norm | rms c | cos of the halves' gradients "
        "| arccos(cos) / pi | ZO's least rate raises B |"
    )
    yield "|" + "---|" * 10
    for task, theta, trials in cells(plan, True):
        slopes = [trial["gradients"]["all"] for trial in trials]
        cos = [slope["cos"] for slope in slopes]
        differ = statistics.mean(math.acos(max(-1.0, min(1.0, c))) / math.pi for c in cos)
        c = statistics.mean(trial["c"] ** 2 for trial in trials) ** 0.5
        norm, loss = statistics.mean(s["norm_a"] ** 2 for s in slopes) ** 0.5, [t["before"][0] for t in trials]
        raised = share([raises(trial, zo, min(zo.rates), 1) for trial in trials]) if zo else "-"
        yield (
            f"| {task} | {theta} | {plan.data['tasks'][task]['half']} | {len(trials)} | {statistics.mean(loss):.3f} "
            f"| {norm:.1f} | {c:.1f} | {statistics.mean(cos):.2f} ({min(cos):.2f} to {max(cos):.2f}) | {differ:.2f} "
            f"| {raised} |"
        )


def _curvature(plan: Plan) -> Iterator[str]:
    """A quadratic loss rises on A where rate z'Hz > 2, whatever c is: against what happened."""
    yield "| theta | ZO's rate | trials | raises A | rate z'Hz > 2 | both or neither |"
    yield "|" + "---|" * 6
    for _, theta, trials in cells(plan, False):
        for arm in (arm for arm in plan.arms if arm.kind == "zo"):
            for rate in arm.rates:
                rose = [raises(trial, arm, rate, 0) for trial in trials]
                expected = [rate * trial["curvature"] > 2 for trial in trials]
                same = [a == b for a, b in zip(rose, expected)]
                yield f"| {theta} | {rate:g} | {len(trials)} | {share(rose)} | {share(expected)} | {share(same)} |"


def _bands(plan: Plan) -> Iterator[str]:
    """What of the gradient lies in a band of magnitudes."""
    yield "| theta | weights | trials | share of the gradient's square | cos of the halves' gradients |"
    yield "|" + "---|" * 5
    for _, theta, trials in cells(plan, False):
        for label in trials[0]["gradients"]:
            band = [trial["gradients"][label] for trial in trials]
            part = statistics.mean((b["norm_a"] / t["gradients"]["all"]["norm_a"]) ** 2 for b, t in zip(band, trials))
            cos = statistics.mean(b["cos"] for b in band)
            yield f"| {theta} | {label} | {len(trials)} | {part:.3f} | {cos:.2f} |"
