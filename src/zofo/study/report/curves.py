"""Which curves a report shows: of one run the related ones together, of several each by itself, the runs overlaid."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zofo.study.report.figures import Drawing, Line, Value, curves, dots, thinned
from zofo.study.report.movement import Movement
from zofo.study.report.words import number
from zofo.study.results import Result, finite

TABLE = 25  # rows of the numbers beside a figure
OTHERS = 6  # panels of values that no group names
STEP = "counted step"
GROUPS = (
    ("Training loss", ("loss", "loss_s", "loss_p"), "in nats a token, of the step's batches"),
    ("G and F in its terms", ("G", "G_f", "G_p", "G_s"), "G = G_f + lambda (G_p - G_s), theta's objective"),
    ("The gap", ("gap",), "G_p - G_s: how much worse p is than s on the lower level's batch"),
    ("Coefficient c", ("c",), "of the zeroth-order estimate"),
    ("Rates", ("lr", "lr_s", "lr_p", "lr_theta"), "of each part"),
)
NAMES = {
    "G_f": "G_f = F(theta, p; B_f)",
    "G_p": "G_p = F(theta, p; B_p)",
    "G_s": "G_s = F(theta, s; B_p)",
    "loss_s": "s",
    "loss_p": "p",
    "lr_s": "s",
    "lr_p": "p",
    "lr_theta": "theta",
}
QUIET = {"event", "step", "lower", "upper", "skipped", "seconds", "n", "candidate", "epoch"}


@dataclass(frozen=True)
class Panel:
    """A figure of the page: with words for who does not see it, and its numbers."""

    title: str
    about: str
    words: str
    drawing: Drawing
    legend: tuple[tuple[int, str], ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left_out: int


def panels(results: Sequence[Result], names: Sequence[str]) -> list[Panel]:
    """All that the runs logged. names: of the runs, as the page has them."""
    lines = [_series(result) for result in results]
    keys = list(dict.fromkeys(key for each in lines for key in each))
    groups = list[tuple[str, list[str], str]]()
    for title, members, about in GROUPS:
        groups.append((title, [key for key in members if key in keys], about))
    metrics = dict.fromkeys(key.split("/")[2] for key in keys if key.startswith("dev/"))
    for metric in metrics:
        about = "of each candidate on the dev examples, which choose the step"
        members = [key for key in keys if key.startswith("dev/") and key.split("/")[2] == metric]
        groups.insert(1 if metric == "loss" else 2, (f"Dev {metric}", members, about))
    known = {key for _, members, _ in groups for key in members}
    groups += [(key, [key], "as it was logged") for key in keys if key not in known][:OTHERS]
    drawn = [panel for group in groups if group[1] for panel in _drawn(*group, lines, names)]
    return drawn


def _drawn(
    title: str,
    members: Sequence[str],
    about: str,
    series: Sequence[Mapping[str, tuple[list[int], list[Value]]]],
    names: Sequence[str],
) -> list[Panel]:
    log = title == "Rates"
    if len(series) == 1:
        lines = [Line(_name(key), style, *series[0][key]) for style, key in enumerate(members)]
        return [_panel(title, about, lines, log)]
    found = []
    for key in members:
        lines = [Line(names[run], run, *each[key], toggle=run) for run, each in enumerate(series) if key in each]
        of = f": {_name(key)}" if len(members) > 1 and key != "loss" else ""
        found.append(_panel(f"{title}{of}", about, lines, log))
    return found


def _panel(title: str, about: str, lines: Sequence[Line], log: bool) -> Panel:
    steps = sorted({x for line in lines for x in line.xs})
    by_step = [dict(zip(line.xs, line.ys)) for line in lines]
    shown = thinned(steps, TABLE)
    rows = tuple((str(x), *(number(each[x]) if x in each else "" for each in by_step)) for x in shown)
    legend = tuple((line.style, line.label) for line in lines) if len(lines) > 1 else ()
    words = " ".join(_words(line) for line in lines)
    drawing = curves(title, lines, STEP, log)
    return Panel(
        title, about, words, drawing, legend, (STEP, *(line.label for line in lines)), rows, len(steps) - len(shown)
    )


def _words(line: Line) -> str:
    values, odd = finite(line.ys), sum(y is None for y in line.ys)
    said = f"{line.label}: {len(line.ys)} values"
    if values:
        said += f", from {number(values[0])} to {number(values[-1])}"
        said += f", lowest {number(min(values))}, highest {number(max(values))}"
    return said + (f", {odd} not finite" if odd else "") + "."


def of_movement(found: Sequence[Movement | None], names: Sequence[str]) -> Panel | None:
    """theta's movement by layer; None where no run has it."""
    movements = [(run, each) for run, each in enumerate(found) if each is not None and each.layers[0].rms is not None]
    if not movements:
        return None
    layers = list(dict.fromkeys(layer.name for _, each in movements for layer in each.layers))
    lines, columns = [], []
    for run, each in movements:
        by_name = {layer.name: layer for layer in each.layers}
        columns.append(by_name)
        rms = [by_name[name].rms if name in by_name else None for name in layers]
        lines.append(Line(names[run], run, range(len(layers)), rms, run))
    rows = tuple((name, *(cell for by_name in columns for cell in _cells(by_name.get(name)))) for name in layers)
    of = [f", {names[run]}" if len(found) > 1 else "" for run, _ in movements]
    heads = ("layer", *(f"{what}{run}" for run in of for what in HEADS))
    legend = tuple((line.style, line.label) for line in lines) if len(lines) > 1 else ()
    drawing = dots("movement", layers, lines, "rms of theta - theta_0")
    return Panel(
        "theta's movement by layer", "", " ".join(_words(line) for line in lines), drawing, legend, heads, rows, 0
    )


HEADS = ("weights", "rms", "norm")


def _cells(layer: Any) -> tuple[str, ...]:
    if layer is None:
        return ("", "", "")
    return f"{layer.weights:,}", number(layer.rms), number(layer.rms * layer.weights**0.5)


def _series(result: Result) -> dict[str, tuple[list[int], list[Value]]]:
    """{key: (steps, values)}: of train lines a key each, of dev lines "dev/candidate/metric"."""
    series: dict[str, tuple[list[int], list[Value]]] = {}

    def add(key: str, step: int, value: Any) -> None:
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            xs, ys = series.setdefault(key, ([], []))
            xs.append(step)
            ys.append(next(iter(finite([value])), None))

    for line in _at_steps(result, "train"):
        for key, value in line.items():
            if key not in QUIET:
                add(key, line["step"], value)
        if "G_p" in line and "G_s" in line:
            terms = line["G_p"], line["G_s"]
            add("gap", line["step"], None if None in terms else terms[0] - terms[1])
    for line in _at_steps(result, "dev"):
        for key, value in line.items():
            if key not in QUIET:
                add(f"dev/{str(line.get('candidate', 'theta')).replace('/', ' ')}/{key}", line["step"], value)
    return {key: pair for key, pair in series.items() if finite(pair[1]) or None in pair[1]}


def _at_steps(result: Result, event: str) -> list[Mapping[str, Any]]:
    return [line for line in result.of(event) if isinstance(line.get("step"), int)]


def _name(key: str) -> str:
    if key.startswith("dev/"):
        return key.split("/")[1]
    return NAMES.get(key, re.sub("_", " ", key))
