"""What several runs took, beside each other: seconds a step (Bilevel ZOFO, Table 7), peak memory (Figure 5), weights
that an adapter adds (Figure 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zofo.study.report.curves import Panel
from zofo.study.report.facts import model_of
from zofo.study.report.figures import Line, dots
from zofo.study.report.words import number
from zofo.study.results import Result, finite


@dataclass(frozen=True)
class Resource:
    """by: what a run stands on the line of. of: its number, None where it has none."""

    title: str
    about: str
    unit: str
    by: Callable[[Result], str]
    of: Callable[[Result], float | None]


def _task(result: Result) -> str:
    return result.task


def _gib(result: Result) -> float | None:
    size = result.info.get("peak_bytes")
    return None if size is None else size / 2**30


def _adapter(result: Result) -> float | None:
    return result.info.get("parameters", {}).get("adapter") or None


RESOURCES = (
    Resource(
        "Seconds a step",
        "of a counted step, evaluations not included",
        "seconds",
        _task,
        lambda result: result.info.get("seconds_per_step"),
    ),
    Resource("Peak memory", "of the process; on CUDA of the allocator", "GiB", _task, _gib),
    Resource("Weights of the adapter", "of one of them, by the backbone", "weights", model_of, _adapter),
)


def resources(results: Sequence[Result], names: Sequence[str]) -> list[Panel]:
    """A figure of each that some of the runs have; none of a single run, whose numbers stand in tables."""
    drawn = [_panel(resource, results, names) for resource in RESOURCES] if len(results) > 1 else []
    return [panel for panel in drawn if panel is not None]


def _panel(resource: Resource, results: Sequence[Result], names: Sequence[str]) -> Panel | None:
    places = list(dict.fromkeys(resource.by(result) for result in results if finite([resource.of(result)])))
    if not places:
        return None
    lines = list[Line]()
    for run, result in enumerate(results):
        values = finite([resource.of(result)])
        ys = [values[0] if values and resource.by(result) == place else None for place in places]
        if values:
            lines.append(Line(names[run], run, range(len(places)), ys, toggle=run))
    said = [(line.label, places[at], y) for line in lines for at, y in enumerate(line.ys) if y is not None]
    rows = tuple((label, place, number(value)) for label, place, value in said)
    words = " ".join(f"{label} on {place}: {number(value)} {resource.unit}." for label, place, value in said)
    drawing = dots(resource.title, places, lines, resource.unit)
    legend = tuple((line.style, line.label) for line in lines)
    return Panel(resource.title, resource.about, words, drawing, legend, ("run", "of", resource.unit), rows, 0)
