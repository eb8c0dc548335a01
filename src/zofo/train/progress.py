"""What a run tells a person: a live display on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from zofo.errors import printable
from zofo.methods._nonfinite import HALVINGS, Refusals
from zofo.train.live import Screen

DIVERGENCE = 10.0  # times the running median of |c|


def duration(seconds: float) -> str:
    """61 -> "1:01", 3700 -> "1:01:40"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def gib(size: float) -> str:
    """Bytes in GiB; in MiB where that would be 0.0 something."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.2f} MiB"


def console(stream: Any) -> Console:
    """A console on the process's stream, which may be guarded against what steers a terminal: rich does that itself,
    and whoever prints here makes texts of data `printable`."""
    return Console(file=getattr(stream, "steering", stream), highlight=False, soft_wrap=True)


class Progress:
    """A display that is rewritten on a terminal (`Screen`); every `every` counted steps a line of its own elsewhere."""

    def __init__(self, total: int, every: int, memory: Callable[[], int], silent: bool = False) -> None:
        """silent: shows nothing, as beside a process that shows the same."""
        self.total, self.every, self.memory = total, every, memory
        self.console = Console(quiet=True) if silent else console(sys.stderr)
        self.live = self.console.is_terminal and not silent
        self._screen = Screen(self.console, total) if self.live else None
        self._printed = -1
        self._first: tuple[float, int] | None = None

    def __enter__(self) -> Progress:
        if self._screen:
            self._screen.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._screen:
            self._screen.stop()

    def step(
        self, count: int, values: dict[str, float], rate: float, skipped: int = 0, epoch: float | None = None
    ) -> None:
        """Show where training is: counted steps, passes over the examples, losses, rates, time left, memory.

        rate: seconds of a counted step, evaluations aside; the time left is judged by the clock, with them. skipped:
        updates of the run, by train.on_nonfinite. epoch: passes so far, of a run that counts them.
        """
        now = time.monotonic()
        self._first = self._first or (now, count)
        passed, done = now - self._first[0], count - self._first[1]
        left = duration((passed / done if done else rate) * (self.total - count))
        shown = " ".join(f"{key} {value:.4g}" for key, value in values.items())
        shown += f" | {skipped} update{'s' * (skipped > 1)} skipped" if skipped else ""
        where = f"step {count}/{self.total}" + (f", epoch {epoch:.2f}" if epoch is not None else "")
        peak = f"peak {gib(self.memory())}"
        if self._screen:
            loss = next((value for key, value in values.items() if key.startswith("loss")), None)
            self._screen.step(count, where, left, f"{shown} | {rate:.2f} s/step | {peak}", loss)
        elif count // self.every != self._printed // self.every:
            self.console.print(f"{where} | {shown} | {rate:.2f} s/step, {left} left | {peak}", markup=False)
            self._printed = count

    def busy(self, text: str) -> None:
        """Something else is under way (an evaluation): shown on a terminal only."""
        if self._screen:
            self._screen.busy(text)

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(printable(text, plain="\n\t"), markup=False)


class Divergence:
    """Warns when the estimate's coefficient c leaves its running median far behind, or is exactly 0 again and again."""

    def __init__(self) -> None:
        self._past: deque[float] = deque(maxlen=50)
        self._zeros = 0

    def check(self, c: float, ruined: Callable[[], str] = str) -> str | None:
        """ruined: asked where it matters, what weight is far from any that training makes, "" for none."""
        self._zeros = self._zeros + 1 if c == 0 else 0
        if self._zeros == 3 and (words := ruined()):
            return (
                f"the estimate's coefficient c was exactly 0 three times in a row: {words}, so an update was too "
                f"large, and nothing is learnt any more: start again with lower rates"
            )
        if self._zeros == 3:
            return (
                "the estimate's coefficient c was exactly 0 three times in a row: the two losses of an estimate are "
                "the same, so nothing is learnt; the loss is 0 already, or estimator.eps is below the precision of the "
                "weights (raise it), or the objective is a metric, which moves in steps (larger batches)"
            )
        usual = median(self._past) if len(self._past) >= 8 else None
        self._past.append(abs(c))
        if usual and abs(c) > DIVERGENCE * usual:
            return (
                f"the estimate's coefficient c is {c:.3g}, {abs(c) / usual:.0f} times its running median; "
                f"theta may be diverging: lower lr_theta or lam, or set rule.clip or rule.normalize"
            )
        return None


class Skips:
    """Says how many updates of a level train.on_nonfinite has left out: at the first, and each time they double."""

    def __init__(self, refusals: Refusals) -> None:
        self.refusals = refusals
        self._said: dict[str, int] = {}

    def check(self, updates: Mapping[str, int]) -> str | None:
        """updates: so far, by level, those that were skipped included."""
        new = [level for level, n in self.refusals.skipped.items() if n >= max(1, 2 * self._said.get(level, 0))]
        if not new:
            return None
        self._said |= {level: self.refusals.skipped[level] for level in new}
        then = "more of them: start again with lower rates"
        if self.refusals.policy == "halve":
            then = f"{HALVINGS} in a row end the run"
        return f"{self.words(updates, new)} (the last: {self.refusals.last}); {then}"

    def mostly(self, updates: Mapping[str, int]) -> list[str]:
        """The levels of which more than half of the updates were skipped."""
        return [level for level, n in self.refusals.skipped.items() if 2 * n > updates.get(level, 0)]

    def words(self, updates: Mapping[str, int], levels: Sequence[str] = ()) -> str:
        """Of these levels, or of all where none is named; "" where nothing was skipped."""
        both = sum(n > 0 for n in updates.values()) > 1
        parts = []
        for level in levels or list(self.refusals.skipped):
            name = f"{level} " if both else ""
            part = f"{self.refusals.skipped[level]} of {updates[level]} {name}updates skipped"
            if self.refusals.halvings.get(level):
                part += f", the {name}rates now {self.refusals.factor(level):.3g} of what they were"
            parts.append(part)
        return f"{' and '.join(parts)}: their loss or gradient was not finite" if parts else ""


@contextmanager
def counter(
    what: str, total: int | None, before: int = 0, silent: bool = False
) -> Iterator[tuple[Callable[[str], None], Callable[[int], None]]]:
    """(says a line that stays; shows how many of `total` are done, and the time left: a bar on a terminal, else a line
    every half minute). total: None where nobody knows. before: how many were done before this command, which took no
    time of it. silent: shows nothing."""
    shown_on, what = Console(quiet=True) if silent else console(sys.stderr), printable(what)
    start = last = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Bar(*columns, console=shown_on, transient=True) if shown_on.is_terminal else None
    with bar or nullcontext():
        row = bar.add_task(what.replace("[", "\\["), total=total, completed=before) if bar else None

        def show(done: int) -> None:
            nonlocal last
            now = time.monotonic()
            if bar is not None and row is not None:
                bar.update(row, completed=done)
            elif now - last > 30:
                last = now
                if total is None:
                    shown_on.print(f"{what}: {done}", markup=False)
                else:
                    left = duration((now - start) / max(done - before, 1) * (total - done))
                    shown_on.print(f"{what}: {done}/{total}, {left} left", markup=False)

        yield (lambda text: shown_on.print(printable(text, plain="\n\t"), markup=False)), show


def of_candidate(name: str, values: Mapping[str, float]) -> str:
    """`(theta, s): loss 0.3210 accuracy 0.9000`."""
    shown = " ".join(f"{k} {v:.4f}" for k, v in values.items() if k not in ("n", "unpredicted"))
    return f"{name if name == 'theta' else f'(theta, {name})'}: {shown}"
