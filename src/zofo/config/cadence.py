"""When a run evaluates, saves and logs: after whole iterations, which is said where the settings name other steps."""

from __future__ import annotations

from zofo.config.sections import TrainConfig

KINDS = {"eval_steps": "evaluations", "save_steps": "checkpoints", "logging_steps": "log lines"}
SHOWN = 3  # steps


def counted_per_step(train: TrainConfig, per_step: int) -> int:
    """What one iteration of `per_step` updates adds to the count that max_steps and every cadence go by."""
    return min(1, per_step) if train.count == "outer" else per_step


def reached(every: int, step: int, total: int, most: int) -> list[int]:
    """The first counted steps up to `total`, of iterations of `step`, at which a cadence of `every` comes."""
    at, wanted = [], every
    while wanted <= total and len(at) < most:
        count = -(-wanted // step) * step
        if count > total:
            break
        at.append(count)
        wanted = (count // every + 1) * every
    return at


def rounded(train: TrainConfig, per_step: int) -> list[str]:
    """Lines for a person: the steps at which evaluations, checkpoints and log lines come where they are not those that
    were asked for, and the steps at the end that make no whole iteration. Nothing where all is as it was asked for."""
    step, total = counted_per_step(train, per_step), train.max_steps
    if step < 2 or not total:
        return []
    kinds: dict[tuple[int, ...], list[str]] = {}
    for field, what in KINDS.items():
        every = getattr(train, field)
        at = reached(every, step, total, SHOWN + 2)
        if at and every % step:
            kinds.setdefault(tuple(at), []).append(f"{what} (train.{field}={every})")
    parts = []
    for at, whats in kinds.items():
        steps = list(map(str, at))
        steps = steps if len(at) <= SHOWN + 1 else [*steps[:SHOWN], "..."]
        parts.append(f"{' and '.join(whats)} at {', '.join(steps)}")
    lines = [f"after whole iterations of {step} counted steps: {'; '.join(parts)}"] if parts else []
    if left := total % step:
        lines.append(f"train.max_steps {total}: the last {left} make no iteration of {step}: not run")
    return lines
