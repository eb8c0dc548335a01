"""Standard output and error that may go away: a closed pipe, a full disk, a terminal that was shut."""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Callable
from typing import Any, TextIO

from zofo.errors import printable

BAR = re.compile(r"\r|\n*(?:\x1b\[A)*\Z")  # what tqdm steers with: to the line's start, and some lines up


class Closed(io.StringIO):
    """Stands for a stream that was closed before the process began."""

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, "it is closed")


def occupied() -> None:
    """Descriptors 0 to 2, where they are closed, lead nowhere: else the first files that are opened get them, and what
    a library prints is written into a run's journal."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


class Guarded:
    """A text stream. Once it cannot be written any more, what is written is dropped, or `broken` says what else.

    Whoever reads a run's output may stop reading; the run goes on. Where the stream is a terminal, what would steer it
    is written as its escape, whoever writes it; `steering` is the stream for who has to, such as a progress line.
    """

    def __init__(
        self, stream: TextIO | None, broken: Callable[[OSError], None] | None = None, bars: bool = False
    ) -> None:
        """stream: None for one that was closed before the process began. bars: libraries draw theirs there."""
        self.stream, self.broken = stream or Closed(), broken
        self.lost: OSError | None = None
        self.bars = bars
        self.terminal = not self.stream.closed and self.stream.isatty()

    @property
    def steering(self) -> _Steering:
        """The same stream for text that steers a terminal by intent."""
        return _Steering(self)

    def write(self, text: str) -> int:
        shown = self._plain(text) if self.terminal else text
        self._try(lambda: self.stream.write(shown))
        return len(text)

    def _plain(self, text: str) -> str:
        bar = BAR.match(text) if self.bars else None
        head = bar.group() if bar is not None else ""
        return head + printable(text[len(head) :], plain="\n\t")

    def flush(self) -> None:
        self._try(self.stream.flush)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def _try(self, action: Callable[[], object]) -> None:
        if self.lost is not None:
            return
        try:
            action()
        except (OSError, ValueError) as error:  # ValueError: the stream was closed
            self.lost = error if isinstance(error, OSError) else OSError(str(error))
            if self.broken is not None:
                self.broken(self.lost)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _Steering:
    """A `Guarded` whose terminal is given what is written as it is."""

    def __init__(self, guarded: Guarded) -> None:
        self.guarded = guarded

    def write(self, text: str) -> int:
        self.guarded._try(lambda: self.guarded.stream.write(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.guarded, name)
