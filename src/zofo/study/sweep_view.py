"""What a worker shows: a live table on a terminal, a line for each event elsewhere."""

from __future__ import annotations

import io
import math
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.table import Table
from rich.text import Text

from zofo.errors import printable
from zofo.study.sweep_jobs import Job, State
from zofo.train.progress import console, duration

SHOWN = 12  # runs in the table, the last ones
COLUMNS = ("run", "settings", "step", "dev", "state")
# How lines of a run begin that its worker says too, and its words for them: what goes on is the sweep
SAID = {
    "interrupted": "interrupted: saving the run that is under way; the same command goes on (again to stop at once)",
    "stopped at once": "stopped at once; the same command goes on",
}


@dataclass(frozen=True)
class _Line:
    run: str
    settings: str
    step: str = ""
    dev: str = ""
    state: str = ""


class View:
    """`with View(total) as view:`; total: runs of the study."""

    def __init__(self, total: int) -> None:
        self.total, self.over = total, 0
        self._console = console(sys.stderr)
        self._lines: deque[_Line] = deque(maxlen=SHOWN)
        self._waits, self._took, self._began = "", deque[float](maxlen=20), 0.0
        # It draws itself as it is made
        self._live = Live(console=self._console, get_renderable=self._table) if self._console.is_terminal else None

    def __enter__(self) -> View:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(printable(text, plain="\n\t"), markup=False)

    def begin(self, job: Job, point: Mapping[str, Any], words: str, over: int) -> None:
        """words: what is done with it. over: runs of the study that are at their end."""
        self.over, self._began, self._waits = over, time.monotonic(), ""
        settings = ", ".join(f"{key.partition('.')[2]} {short(value)}" for key, value in point.items())
        self._lines.append(_Line(job.name, settings, state=words))
        if not self._live:
            self.say(f"{job.name} ({over + 1} of {self.total}): {words}{f', {settings}' if settings else ''}")

    def step(self, count: int, of: int) -> None:
        self._change(step=f"{count}/{of}")

    def dev(self, value: float) -> None:
        self._change(dev=f"{value:.4f}")
        if not self._live:
            line = self._lines[-1]
            self.say(f"{line.run}: step {line.step or 0}, dev {line.dev}")

    def end(self, state: State) -> None:
        took = time.monotonic() - self._began
        self._took.append(took)
        self.over += state.over
        words = state.kind if not state.words else f"{state.kind}: {state.words.removeprefix(f'{state.kind}: ')}"
        dev = f"{state.value:.4f}" if math.isfinite(state.value) else self._lines[-1].dev
        self._change(state=words, dev=dev)
        if not self._live:
            shown = f", dev {dev}" if dev else ""
            self.say(f"{self._lines[-1].run}: {words}{shown}, {took:.1f} s; {self._left()}")

    def wait(self, names: str) -> None:
        """For what others are at."""
        if names != self._waits:
            self._waits = names
            if not self._live:
                self.say(f"waiting for {names}")

    def _change(self, **fields: str) -> None:
        if self._lines:
            self._lines[-1] = replace(self._lines[-1], **fields)

    def _left(self) -> str:
        left = max(0, self.total - self.over)
        each = sum(self._took) / len(self._took) if self._took else 0.0
        return f"{self.over} of {self.total} runs over" + (
            f", about {duration(each * left)} left" if left and self._took else ""
        )

    def _table(self) -> Table:
        table = Table(*COLUMNS, box=None, pad_edge=False, header_style="bold", caption=self._waits or self._left())
        for line in self._lines:
            table.add_row(*(Text(printable(cell)) for cell in vars(line).values()))
        if self._waits:
            table.caption = f"waiting for {printable(self._waits)}"
        return table

    @contextmanager
    def quiet(self, log: Path) -> Iterator[None]:
        """Inside, what a run says goes into a file; of a stop it is shown, too."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            stream = _Said(file, self.say)
            with redirect_stdout(stream), redirect_stderr(stream):
                yield


class _Said(io.TextIOBase):
    """A file; lines that begin as SAID are passed on."""

    def __init__(self, file: Any, say: Any) -> None:
        self._file, self._say = file, say

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._file.write(text)
        self._file.flush()
        for line in text.splitlines():
            for begins, said in SAID.items():
                if line.startswith(begins):
                    self._say(said)
        return len(text)


def short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else printable(str(value), 40)
