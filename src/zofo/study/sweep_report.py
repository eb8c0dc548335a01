"""What a sweep prints at its end: a line for each row, its trials on dev, and what is at the edge of its grid."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zofo.errors import first_few
from zofo.study.labels import CHOSEN
from zofo.study.plan import Plan, Row
from zofo.study.results import read
from zofo.study.sweep_jobs import Job, State
from zofo.study.sweep_view import short

COLUMNS = ("row", "chosen", "dev", "metric", "test", "seeds", "trials", "failed", "pruned")
SEARCH = ("row", "trial", "settings", "dev loss", "dev metric", "")
MOST = 20  # trials of a row that are shown
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


def search(plan: Plan, jobs: Jobs, study: Path) -> tuple[tuple[str, ...], list[tuple[str, ...]], list[str]]:
    """(columns, a line for each trial of the rows that have several, a warning for each chosen setting at an end of its
    grid). Of many trials the best ones are shown, by what the choice goes by."""
    lines, edges = [], list[str]()
    for row in plan.rows:
        trials = [(job, state) for job, state in jobs if job.row.name == row.name and job.kind == "trial"]
        if len(trials) < 2:
            continue
        best = {job.number for job, _ in sorted(trials, key=lambda one: (one[1].value, one[0].number))[:MOST]}
        for job, state in trials:
            if not (job.number in best or job.final):
                continue
            result = read(job.directory(study)) if state.kind == "done" else None
            set_by = _settings(plan, job, None if result is None else result.settings)
            words = ", ".join(f"{key.partition('.')[2]} {short(value)}" for key, value in set_by.items())
            dev = {} if result is None else result.dev
            metric = "" if result is None or result.metric == "loss" else f"{result.metric} {_four(dev, result.metric)}"
            said = CHOSEN if job.final else "" if state.kind == "done" else state.kind
            lines.append((row.name, str(job.number), words, _four(dev, "loss"), metric, said))
            if job.final and result is not None:
                edges += _edges(row, set_by)
        if len(trials) > MOST:
            lines.append((row.name, f"{len(trials) - len(best)} more are worse", "", "", "", ""))
    return SEARCH, lines, edges


def _settings(plan: Plan, job: Job, settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a trial sets, of what the row searches; {} where it did not come to its end and nothing else says it."""
    if settings is not None:
        return {key: settings.get(key) for key in _keys(job.row)}
    return dict(job.row.points[job.number]) if job.number < len(job.row.points) else {}


def _edges(row: Row, chosen: Mapping[str, Any]) -> Iterator[str]:
    """Of a range nothing is said: it has no neighbours at its ends."""
    for key, value in chosen.items():
        if key in row.search:
            space = row.search[key].values
        else:
            space = tuple(point[key] for point in row.points if key in point)
        grid = sorted({float(one) for one in space if type(one) in (int, float)})
        if len(grid) < 2 or type(value) not in (int, float) or value not in (grid[0], grid[-1]):
            continue
        end, beyond = ("lowest", "lower") if value == grid[0] else ("highest", "higher")
        tried = first_few([short(one) for one in grid], 6)
        best = f"row {row.name}: the best {key}, {short(value)}, is the {end} that was tried ({tried})"
        yield f"{best}; a {beyond} one may be better"


def _four(values: Mapping[str, Any], key: str) -> str:
    return "" if values.get(key) is None else f"{values[key]:.4f}"


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
