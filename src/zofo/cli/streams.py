"""Standard output and error that may go away: a closed pipe, a full disk, a terminal that was shut."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from typing import Any, TextIO


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

    Whoever reads a run's output may stop reading; the run goes on.
    """

    def __init__(self, stream: TextIO | None, broken: Callable[[OSError], None] | None = None) -> None:
        """stream: None for one that was closed before the process began."""
        self.stream, self.broken = stream or Closed(), broken
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        self._try(lambda: self.stream.write(text))
        return len(text)

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
