"""A command with a limit on its memory, page cache included: a cgroup of version 1 or 2 (Linux, root)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

TOP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Limited:
    """A cgroup that is there. limit: bytes."""

    folder: Path
    limit: int
    highest: str  # the file that says the most that was used at once

    def command(self, command: Sequence[str]) -> list[str]:
        """The same command, in the cgroup from its start."""
        enter = f'echo $$ > {self.folder / "cgroup.procs"}; exec "$@"'
        return ["sh", "-c", enter, "sh", *command]

    def peak(self) -> int:
        """Bytes, the pages of files included."""
        return int((self.folder / self.highest).read_text("ascii"))


@contextmanager
def limited(size: int) -> Iterator[Limited | None]:
    """None where none can be made here. size: bytes."""
    made = _make(size)
    try:
        yield made
    finally:
        if made is not None:
            for _ in range(50):  # its last process may take a moment to go
                with suppress(OSError):
                    made.folder.rmdir()
                    break
                time.sleep(0.1)


def _make(size: int) -> Limited | None:
    name = f"zofo-{os.getpid()}"
    for folder, limit, highest in (
        (TOP / "memory" / name, "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
        (TOP / name, "memory.max", "memory.peak"),
    ):
        try:
            if not folder.parent.is_dir() or (limit == "memory.max" and not (TOP / "cgroup.controllers").exists()):
                continue
            folder.mkdir()
            if not (folder / limit).exists():
                folder.rmdir()
                continue
            (folder / limit).write_text(str(size), "ascii")
        except OSError:
            continue
        return Limited(folder, size, highest)
    return None
