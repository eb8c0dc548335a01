"""Standard output and error that may go away: a closed pipe, a full disk, a terminal that was shut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TextIO


class Guarded:
    """A text stream. Once it cannot be written any more, what is written is dropped, or `broken` says what else.

    Whoever reads a run's output may stop reading; the run goes on.
    """

    def __init__(self, stream: TextIO, broken: Callable[[OSError], None] | None = None) -> None:
        self.stream, self.broken = stream, broken
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
