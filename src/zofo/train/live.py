"""A run's display on a terminal: how far it is, how long it still takes, its values, and a loss's course so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from zofo.errors import printable

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 24  # characters of a course
KEPT = 4096  # values of it; of a longer run every second one is kept, again and again


def course(values: Sequence[float], width: int = WIDTH) -> str:
    """A sparkline: the means of equal stretches, the lowest and the highest of them the ends of the scale. What is not
    finite is left out of a mean, and a stretch of nothing else is a `?`."""
    if not values:
        return ""
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    stretches = [[v for v in values[a:b] if math.isfinite(v)] for a, b in pairwise(edges)]
    means = [sum(part) / len(part) if part else math.nan for part in stretches]
    known = [mean for mean in means if math.isfinite(mean)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((mean - low) * scale)] if math.isfinite(mean) else "?" for mean in means)


class Screen:
    """Rewritten in place; gone when the run ends, so that what stays are the lines that were said."""

    def __init__(self, console: Console, total: int) -> None:
        self.console, self.total = console, total
        self.values: list[float] = []
        self._stride, self._seen = 1, 0
        self._shown: RenderableType = Spinner("dots", Text("starting"))
        self._live = Live(self._shown, console=console, transient=True, refresh_per_second=4)

    def start(self) -> None:
        self._live.start()

    def stop(self) -> None:
        self._live.stop()

    def step(self, count: int, where: str, left: str, text: str, loss: float | None) -> None:
        """where: "step 12/100". left: the time. text: the values. loss: of which the course is shown."""
        self._add(loss)
        head = Table.grid(padding=(0, 2))
        width = max(8, min(30, self.console.width // 4))
        head.add_row(ProgressBar(max(self.total, 1), count, width=width), Text(where), Text(f"{left} left"))
        body = Text(printable(text), overflow="fold")
        if self.values and (self.console.encoding or "").lower().startswith("utf"):
            body = Text.assemble(body, "  ", (course(self.values), "cyan"))
        self._live.update(Group(head, body))

    def busy(self, text: str) -> None:
        self._live.update(Spinner("dots", Text(printable(text), overflow="fold")))

    def _add(self, loss: float | None) -> None:
        if loss is None:
            return
        if self._seen % self._stride == 0:
            self.values.append(loss)
        self._seen += 1
        if len(self.values) > KEPT:
            self.values, self._stride = self.values[::2], self._stride * 2
