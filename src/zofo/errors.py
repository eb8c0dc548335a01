"""The errors a user can meet: one clear line each, naming the place and the fix."""

from __future__ import annotations

import difflib
import errno
import logging
import re
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import ClassVar

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a disk without room says


class ZofoError(Exception):
    """Base of all errors meant for the user. `str(error)` is one line, or one line per problem."""

    exit_code: ClassVar[int] = 1


class InputError(ZofoError):
    """Wrong configuration, data, model or directory: nothing was started."""

    exit_code: ClassVar[int] = 2


class RunError(ZofoError):
    """A run that had started failed: a NaN, no disk space, ..."""

    exit_code: ClassVar[int] = 1


class OutOfMemory(RunError):
    """Memory ran out. part: of the work, such as "loading the model"."""

    def __init__(self, part: str) -> None:
        super().__init__(f"out of memory in {part}")
        self.part = part


_NO_MEMORY = re.compile(
    r"out of memory|can(no|')t allocate memory|failed to allocate|bad_alloc|ALLOC_FAILED|start new thread|"
    r"os error 12\b",  # 122 is a quota's
    re.IGNORECASE,
)


def out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out: Python says so, torch's allocators, or a system call; or what the error came of."""
    while error is not None and not isinstance(error, OutOfMemory):
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            return True
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
            return True
        library = type(error).__module__ != "builtins" and not isinstance(error, ZofoError)  # safetensors' own
        if (library or isinstance(error, RuntimeError)) and _NO_MEMORY.search(str(error)):
            return True
        error = error.__cause__
    return False


@contextmanager
def during(part: str) -> Iterator[None]:
    """Raises OutOfMemory, which names the part, where memory runs out inside; the innermost one names it."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise OutOfMemory(part) from error


class Interrupted(KeyboardInterrupt):
    """A signal asked to end; what was there to save is saved. number: the signal's, 128 and that is the exit code."""

    def __init__(self, message: str = "", number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = int(number)


class NonFiniteError(ArithmeticError):
    """A loss or a gradient is NaN or infinite. Raised before anything is updated; the update is refused or skipped."""


_SHOWN = re.compile("[^\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+|(.)", re.DOTALL)
LINE = 800  # characters of a line that is still read


def printable(text: str, most: int | None = None, plain: str = "") -> str:
    """The text with what steers a terminal or cannot be written as its escape, such as `\\x1b`; `plain` stays as it is.

    most: characters, of a longer text the middle is left out.
    """
    if most is not None and len(text) > most:
        text = f"{text[: most // 2]} ... {text[-(most - most // 2) :]}"

    def escaped(match: re.Match[str]) -> str:
        char = match.group(1)
        return match.group() if char is None or char in plain else char.encode("unicode_escape").decode()

    return _SHOWN.sub(escaped, text)


def first_few(names: Iterable[str], most: int = 3, between: str = ", ") -> str:
    """For a line: the first of a list and how many more there are; one more is named too."""
    names = list(names)
    if len(names) <= most + 1:
        return between.join(names)
    return f"{between.join(names[:most])} and {len(names) - most} more"


def plain_record(record: logging.LogRecord) -> bool:
    """A filter of a logger: its words steer no terminal, whatever data they quote."""
    record.msg, record.args = printable(record.getMessage(), plain="\n\t"), ()
    return True


@contextmanager
def said_once() -> Iterator[None]:
    """What is logged inside is said once, however often the rows that it is of are read."""
    said: set[str] = set()

    def new(record: logging.LogRecord) -> bool:
        line = record.getMessage()
        again = line in said
        said.add(line)
        return not again

    log = logging.getLogger("zofo")
    log.addFilter(new)
    try:
        yield
    finally:
        log.removeFilter(new)


@contextmanager
def unheard() -> Iterator[None]:
    """What is odd about rows that are read inside was said, or will be, or is none of the reader's business."""
    log = logging.getLogger("zofo")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def nearest(word: str, choices: Iterable[str], least: float = 0.6) -> str | None:
    """The choice that `word` was probably meant to be; None where none is near. least: of difflib's ratio."""
    by_lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=least)
    return by_lower[near[0]] if near else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`; did you mean "lam"?` for the choice nearest to `word`, `""` where none is near."""
    near = nearest(word, choices)
    return f'; did you mean "{near}"?' if near else ""
