"""Figures of the page: matplotlib's SVG with the page's colours and letters, for a bright and a dark ground.

Lines differ in colour, dash and marker. The colours are Okabe and Ito's, darkened or lightened to stand out from the
page's ground, whose variables the SVG names.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from zofo.errors import InputError

COLOURS, DASHES, MARKERS = 6, ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2))), "osD^vPX"
TEXT, GRID = "#0b0a00", "#0b0b01"
MOST, POINTS = 300, 3000  # points that are drawn: of a line, of a figure
NEEDS = 'the figures need matplotlib: pip install "zofo[study]"'
Value = float | None
Edges = tuple[float, float, float, float]


@dataclass(frozen=True)
class Line:
    """style: its number among the page's styles. toggle: the number of the run that it is of. ys: None where the value
    is not finite."""

    label: str
    style: int
    xs: Sequence[float]
    ys: Sequence[Value]
    toggle: int = 0


@dataclass(frozen=True)
class Drawing:
    """An SVG's inside, and its viewBox."""

    box: str
    inside: Markup


def curves(name: str, lines: Sequence[Line], x: str, log: bool = False) -> Drawing:
    """Lines over steps. name: of the figure, its own on the page. log: the values' axis is logarithmic, where they are
    above 0 and span a decade."""
    with _figure(name, 4.6, 2.5) as (figure, axes):
        for line in lines:
            most = min(MOST, max(20, POINTS // len(lines)))
            xs, ys = thinned(line.xs, most), [math.nan if y is None else y for y in thinned(line.ys, most)]
            # A point between two that are not finite has no line to it
            every = 1 if len(xs) <= 12 else max(1, len(xs) // 8)
            axes.plot(xs, ys, gid=f"run-{line.toggle}", markevery=every, **_style(line.style))
        values = [y for line in lines for y in line.ys if y is not None]
        if log and values and 0 < 10 * min(values) <= max(values):
            _logarithmic(axes)
        else:
            axes.ticklabel_format(axis="y", scilimits=(-3, 4))
            axes.locator_params(axis="y", nbins=5)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel(x)
        axes.margins(x=0.03, y=0.08)
        return _svg(figure)


def dots(name: str, names: Sequence[str], lines: Sequence[Line], x: str) -> Drawing:
    """A row for each name; ys of a line: its value there."""
    names = [name if len(name) <= 20 else f"{name[:8]}...{name[-9:]}" for name in names]
    left = 0.2 + 0.085 * max(map(len, names))
    with _figure(name, 4.6, 0.75 + 0.19 * len(names), (left, 0.5, 0.1, 0.17)) as (figure, axes):
        for line in lines:
            places = [(y, place) for place, y in enumerate(line.ys) if y is not None]
            style = _style(line.style) | {"linestyle": "none"}
            axes.plot([y for y, _ in places], [place for _, place in places], gid=f"run-{line.toggle}", **style)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(0, 1.08 * max((y for line in lines for y in line.ys if y is not None), default=1) or 1)
        axes.ticklabel_format(axis="x", scilimits=(-2, 4))
        axes.locator_params(axis="x", nbins=4)
        axes.set_xlabel(x)
        return _svg(figure)


def swatch(style: int) -> Drawing:
    """A line's style, for a legend."""
    with _figure(f"style {style}", 0.5, 0.17, (0, 0, 0, 0)) as (figure, axes):
        axes.plot([0, 1, 2], [0, 0, 0], markevery=[1], **_style(style))
        axes.set_axis_off()
        return _svg(figure)


def thinned(values: Sequence[Any], most: int) -> list[Any]:
    """At most so many of them, the first and the last included, evenly spaced."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def check_matplotlib() -> None:
    """Raises InputError where it is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError(NEEDS) from error


def _style(number: int) -> dict[str, Any]:
    """Colours, dashes and markers have different periods: 84 styles before two are alike."""
    dash, marker = DASHES[number % len(DASHES)], MARKERS[number % len(MARKERS)]
    colour = f"#0a0a0{number % COLOURS}"
    return {"color": colour, "linestyle": dash, "marker": marker, "markersize": 4, "linewidth": 1.6}


def _logarithmic(axes: Any) -> None:
    """Its labels are plain numbers: matplotlib's own are mathematics, which data could write too."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _power(value: float) -> str:
    """0.001 -> 1e-3."""
    return re.sub(r"e([+-])0*(\d)", lambda e: f"e{e.group(1).replace('+', '')}{e.group(2)}", f"{value:.0e}")


@contextmanager
def _figure(name: str, width: float, height: float, edges: Edges = (0.55, 0.5, 0.1, 0.17)) -> Iterator[tuple[Any, Any]]:
    """A figure of its own, with its one axes: no state of pyplot is touched. edges: inches left, below, right and above
    of them, for labels."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 10.0, "axes.grid": True}
    settings |= {"text.color": TEXT, "axes.labelcolor": TEXT, "xtick.color": TEXT, "ytick.color": TEXT}
    settings |= {"axes.edgecolor": TEXT, "grid.color": GRID, "grid.linewidth": 0.6, "text.parse_math": False}
    settings |= {"axes.spines.top": False, "axes.spines.right": False, "axes.formatter.useoffset": False}
    settings |= {"axes.formatter.use_mathtext": False, "font.family": ["DejaVu Sans"]}
    with mpl.rc_context(mpl.rcParamsDefault):
        mpl.rcParams.update(settings)
        figure = Figure(figsize=(width, height))
        FigureCanvasSVG(figure)
        left, below, right, above = edges
        axes = figure.add_axes((left / width, below / height, 1 - (left + right) / width, 1 - (below + above) / height))
        for ground in (figure, axes):
            ground.patch.set_visible(False)
        yield figure, axes


def _svg(figure: Any) -> Drawing:
    """What of matplotlib's SVG a page needs: no head, no metadata, no style of the page, no ids but those used."""
    target = io.StringIO()
    figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    text = target.getvalue()
    found = re.search(r"<svg[^>]*viewBox=\"([^\"]*)\"[^>]*>(.*)</svg>", text, re.DOTALL)
    assert found is not None
    box, inside = found.groups()
    inside = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", inside, flags=re.DOTALL)
    inside = inside.replace("xlink:href", "href")
    used = set(re.findall(r"(?:href=\"#|url\(#)([^\")]+)", inside))
    inside = re.sub(r' id="(run-\d+)"', r' class="\1"', inside)
    inside = re.sub(r' id="([^"]*)"', lambda each: each.group() if each.group(1) in used else "", inside)
    inside = re.sub(r"#0a0a0(\d)", r"var(--line\1)", inside).replace(TEXT, "currentColor").replace(GRID, "var(--grid)")
    inside = re.sub(r"font-family: [^;\"]*;? ?", "", inside)
    inside = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", inside)
    inside = re.sub(r'="[^"#]*"', lambda each: re.sub(r"(\d\.\d\d)\d+", r"\1", each.group()), inside)
    return Drawing(box, Markup(re.sub(r"\s*\n\s*", "\n", inside).strip()))
