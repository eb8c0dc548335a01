"""What a sweep prints at its end: a line for each row, from its runs."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

from zofo.study.plan import Plan, Row
from zofo.study.results import read
from zofo.study.sweep_jobs import Job, State
from zofo.study.sweep_view import short

COLUMNS = ("row", "chosen", "dev", "metric", "test", "seeds", "trials", "failed", "pruned")
Jobs = list[tuple[Job, State]]


def summary(plan: Plan, jobs: Jobs, study: Path) -> tuple[tuple[str, ...], list[tuple[str, ...]], list[str]]:
    """(columns, a line for each row, why a row has no result)."""
    lines, without = [], []
    for row in plan.rows:
        own = [(job, state) for job, state in jobs if job.row.name == row.name]
        finals = [(job, state) for job, state in own if job.final]
        done = [job for job, state in finals if state.kind == "done"]
        tuned = [state.kind for job, state in own if job.kind == "trial"]
        counts = (str(len(tuned)), str(tuned.count("failed") + tuned.count("refused")), str(tuned.count("pruned")))
        if not done:
            without.append(f"row {row.name}: no result; {_why(own)}")
            lines.append((row.name, "", "", "", "", "0", *counts))
            continue
        results = [read(job.directory(study)) for job in done]
        metric = results[0].metric
        dev = [float(result.dev[metric]) for result in results if result.dev.get(metric) is not None]
        test = [float(result.test[metric]) for result in results if result.test.get(metric) is not None]
        chosen = ", ".join(f"{key.partition('.')[2]} {short(results[0].settings.get(key))}" for key in _keys(row))
        lines.append((row.name, chosen, _spread(dev), metric, _spread(test), str(len(done)), *counts))
        without += [f"{job.name}: {state.kind}: {state.words}" for job, state in finals if state.kind != "done"]
    return COLUMNS, lines, without


def _keys(row: Row) -> Iterator[str]:
    yield from dict.fromkeys([key for point in row.points for key in point] or row.search)


def _why(own: Jobs) -> str:
    reasons = list(dict.fromkeys(state.words for _, state in own if state.words))
    return reasons[0] if reasons else "it was not run"


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    mean = f"{statistics.mean(values):.4f}"
    return f"{mean} +- {statistics.stdev(values):.4f}" if len(values) > 1 else mean
