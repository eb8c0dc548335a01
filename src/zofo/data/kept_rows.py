"""The rows of small files, parsed once: a run looks at them before it reads the model, and again with its tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

MOST = 2**24  # bytes of a file whose rows are kept; a compressed one counts eightfold
Rows = TypeVar("Rows")
_held: ContextVar[dict[tuple[Any, ...], Any] | None] = ContextVar("rows of files", default=None)


@contextmanager
def rows_kept() -> Iterator[Callable[[], None]]:
    """Inside, a small file is parsed once, as long as it stays the same on disk. Gives what lets go of all rows before
    the end. One inside another is the outer one."""
    if (outer := _held.get()) is not None:
        yield outer.clear
        return
    held: dict[tuple[Any, ...], Any] = {}
    before = _held.set(held)
    try:
        yield held.clear
    finally:
        _held.reset(before)


def kept(path: Path, parse: Callable[[], Rows]) -> Rows:
    """What `parse` makes of the file, or made of it; nobody changes rows in place. Raises OSError and its errors."""
    if (held := _held.get()) is None:
        return parse()
    known = path.stat()
    key = (path.absolute(), known.st_ino, known.st_size, known.st_mtime_ns)
    if key not in held:
        rows = parse()
        if known.st_size * (8 if path.suffix.lower() in (".gz", ".parquet") else 1) > MOST:
            return rows
        held[key] = rows
    return held[key]
