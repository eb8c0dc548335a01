"""One spoilt command line, and what came of it."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal

from zofo.cli import main as cli

SECONDS: float = 20  # what takes longer hangs
LONGEST = 900  # characters of a line that can still be read
OF_A_BUG = re.compile(r"this is a bug|Traceback|\b[A-Z]\w+(?:Error|Exception)\b|0x[0-9a-f]{8,}|<object|site-packages")
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
Outcome = Literal["clear", "accepted", "fault"]
Expected = Literal["refused", "accepted", "either"]


@dataclass
class Case:
    """args: of `zofo`. names: a refusal has one of them in each of its lines, the file's or the field's. out: what must
    not be there after it. expect: what is right; "either" where both can be. check: of what was accepted, "" is right.
    """

    name: str
    args: list[str]
    names: tuple[str, ...]
    out: Path
    expect: Expected = "either"
    check: Callable[[str], str] = field(default=lambda shown: "", repr=False)
    changes: Path | None = None  # what may change where it is accepted


@dataclass(frozen=True)
class Verdict:
    outcome: Outcome
    why: str  # of a fault
    shown: str  # standard error
    seconds: float


class _Hang(BaseException):
    """Not an Exception: nothing may catch it."""


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _Hang(f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def judge(case: Case, folder: Path) -> Verdict:
    """Run a case. folder: all that belongs to it; but for `out`, and its working directory where an output directory
    became a relative one and was accepted, nothing in it may change."""
    here = folder / "here"
    here.mkdir(exist_ok=True)
    before, start = _listing(folder, case.out), time.monotonic()
    out, err, why, code = io.StringIO(), io.StringIO(), "", -1
    try:
        with (
            contextlib.chdir(here),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            _limited(SECONDS),
        ):
            code = cli.run(case.args)
    except _Hang as error:
        why = f"hangs at {error}"
    except BaseException as error:
        why = "escapes: " + "".join(traceback.format_exception_only(error)).strip()
    shown = err.getvalue()
    if not why:
        changed = {path for path, *_ in set(before) ^ set(_listing(folder, case.out))}
        if code == 0:
            free = {here, case.changes}
            changed = {path for path in changed if not free & {Path(path), *Path(path).parents}}
        why = _fault(case, code, shown) or (f"changes {min(changed)}" if changed else "")
    outcome: Outcome = "fault" if why else "clear" if code == 2 else "accepted"
    return Verdict(outcome, why, shown, time.monotonic() - start)


def _fault(case: Case, code: int, shown: str) -> str:
    """What is wrong with how a command ended; "" where nothing is."""
    lines = [line.removeprefix("error: ") for line in shown.splitlines() if line.startswith("error: ")]
    if code == 0:
        return "accepted without a word" if case.expect == "refused" else case.check(shown)
    for line in lines:
        if OF_A_BUG.search(line):
            return f"says a bug: {line[:300]}"
    if code != 2:
        return f"exit code {code}: {'; '.join(lines)[:300] or shown[-300:]}"
    if case.expect == "accepted":
        return f"refused: {lines[0][:300] if lines else ''}"
    if not lines:
        return "refused without a line"
    if "Traceback" in shown:
        return "a traceback is shown"
    for line in lines:
        if len(line) > LONGEST:
            return f"a line of {len(line)} characters: {line[:200]}"
        if UNPRINTABLE.search(line):
            return f"control characters: {line[:200]!r}"
        if not any(name in line for name in case.names):
            return f"names none of {', '.join(case.names)}: {line[:300]}"
    return "is refused and leaves files" if case.out.exists() else ""


def _listing(folder: Path, without: Path) -> list[tuple[str, int, int]]:
    """(name, size, time of change) of every file."""
    files = (Path(top) / name for top, _, names in os.walk(folder) for name in names)
    kept = [path for path in files if without not in path.parents and path != without]
    return sorted((str(path), path.lstat().st_size, path.lstat().st_mtime_ns) for path in kept)
