"""The leaderboard's numbers: forwards to MeZO's best dev loss, and what they are worth.

For a contender, a task and a seed: the fewest forwards after which its dev loss is MeZO's best of the same seed (same
rows, same batches), on the line between two evaluations. Their ratio is how many times fewer it needs; MeZO's own is 1.
Over tasks and seeds its logarithms are averaged over the seeds of a task first, and Student's interval is over tasks
and seeds together where all reached it. What did not reach it within the common forwards is counted, not imputed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from zofo.errors import InputError
from zofo.study.bench.entry import Entry, Point, Run
from zofo.study.bench.plan import BASELINE
from zofo.study.statistics import Estimate, over_seeds

PUBLISHED = "mezo-published"  # MeZO at a rate that its paper has


@dataclass(frozen=True)
class Standing:
    """Of a contender beside a baseline, on a task or over all. fewer: times, its interval; NaN where a seed did not
    reach it. reached, of: seeds. loss: its best dev loss less the baseline's, in nats, paired by seed."""

    name: str
    fewer: Estimate
    reached: int
    of: int
    loss: Estimate
    test: float
    seconds: float
    peak: int | None


def best(run: Run) -> float:
    """Dev loss."""
    return min((point.loss for point in run.dev if point.loss is not None), default=math.inf)


def forwards_to(run: Run, target: float) -> float:
    """Infinite where the run does not come to this dev loss."""
    before: Point | None = None
    for point in run.dev:
        if point.loss is None:
            continue
        if point.loss <= target:
            if before is None or before.loss is None or before.loss <= target:
                return point.forwards
            share = (before.loss - target) / (before.loss - point.loss)
            return before.forwards + share * (point.forwards - before.forwards)
        before = point
    return math.inf


def standing(entry: Entry, baseline: Entry, tasks: Sequence[str]) -> Standing:
    """Over these tasks, which both have. Raises InputError where their rows differ."""
    logs, losses, tests, reached, runs = list[float](), list[float](), list[float](), 0, list[Run]()
    for task in tasks:
        theirs = {run.seed: run for run in baseline.tasks[task].runs}
        for run in entry.tasks[task].runs:
            other = theirs.get(run.seed)
            if other is None or other.rows != run.rows:
                raise InputError(f"{entry.name}: {task}, seed {run.seed}: other rows than {baseline.name}'s")
            target = best(other)
            mine, its = forwards_to(run, target), forwards_to(other, target)
            reached += math.isfinite(mine)
            logs.append(math.log(its / mine) if math.isfinite(mine) and mine else -math.inf)
            losses.append(best(run) - target)
            runs.append(run)
        metric = entry.tasks[task].metric
        tests.append(sum(run.test.get(metric, math.nan) for run in entry.tasks[task].runs) / len(theirs))
    peaks = [run.peak_bytes for run in runs if run.peak_bytes]
    return Standing(
        entry.name,
        _times(logs),
        reached,
        len(logs),
        over_seeds(losses) if all(map(math.isfinite, losses)) else Estimate(math.inf, math.nan, math.nan, len(losses)),
        sum(tests) / len(tests),
        sum(run.seconds for run in runs) / len(runs),
        max(peaks) if peaks else None,
    )


def _times(logs: Sequence[float]) -> Estimate:
    """exp of a mean of logarithms, with exp of its interval."""
    if not all(map(math.isfinite, logs)):
        return Estimate(math.nan, math.nan, math.nan, len(logs))
    told = over_seeds(logs)
    return Estimate(math.exp(told.mean), math.exp(told.low), math.exp(told.high), told.n, told.p)


def tables(entries: Mapping[str, Entry]) -> Iterable[tuple[str, list[list[str]]]]:
    """(heading, lines with their head first), over all tasks and for each, in the order of the forwards that are
    needed. Raises InputError without the baseline."""
    if BASELINE not in entries:
        raise InputError(f"no entry {BASELINE}, which all are compared with")
    base = entries[BASELINE]
    shared = [task for task in base.tasks if all(task in one.tasks for one in entries.values())]
    if len(base.tasks) > 1 and shared:
        yield "all tasks", _lines(entries, shared)
    for task in base.tasks:
        yield task, _lines({name: one for name, one in entries.items() if task in one.tasks}, [task])


def _lines(entries: Mapping[str, Entry], tasks: Sequence[str]) -> list[list[str]]:
    head = ["contender", "times fewer forwards than MeZO", "reached", "dev loss less MeZO's", "test", "s a run", "peak"]
    standings = [standing(one, entries[BASELINE], tasks) for one in entries.values()]
    published = entries.get(PUBLISHED)
    beside = {} if published is None else {one.name: standing(one, published, tasks) for one in entries.values()}
    if beside:
        head.insert(2, "than MeZO at its published rate")
    lines = [head]
    for one in sorted(standings, key=_order):
        line = [one.name, _interval(one.fewer, one, 2), f"{one.reached} of {one.of}", _interval(one.loss, one, 3)]
        line += [f"{one.test:.3f}", f"{one.seconds:.0f}", "" if one.peak is None else f"{one.peak / 2**30:.2f} GiB"]
        if beside:
            line.insert(2, _interval(beside[one.name].fewer, beside[one.name], 2))
        lines.append(line)
    return lines


def _order(one: Standing) -> tuple[float, float, float]:
    return (-one.reached, -one.fewer.mean if math.isfinite(one.fewer.mean) else 0.0, one.loss.mean)


def _interval(told: Estimate, one: Standing, digits: int) -> str:
    if not math.isfinite(told.mean):
        return "not reached" if one.reached < one.of else "not finite"
    inside = f" ({told.low:.{digits}f} to {told.high:.{digits}f})" if told.known else ""
    return f"{told.mean:.{digits}f}{inside}"
