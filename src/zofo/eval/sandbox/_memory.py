"""What the processes of a sandbox hold, read from its own /proc, given as a descriptor of that folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from zofo.eval.sandbox._kernel import SOCKET_BYTES

OPEN_FILES = 128  # that a process may have


def memory(processes: int, of: Callable[[int, str], int]) -> int:
    """Bytes of all processes but this one."""
    total = 0
    for name in os.listdir(processes):
        if name.isdigit() and name != "1":
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                total += of(processes, name)
    return total


def resident(processes: int, name: str) -> int:
    return int(read(processes, f"{name}/statm").split()[1]) * os.sysconf("SC_PAGESIZE")


def share(processes: int, name: str) -> int:
    """As `resident`, but a page that n forks share counts 1/n; a process that hides this is charged in full."""
    try:
        lines = read(processes, f"{name}/smaps_rollup").splitlines()
    except PermissionError:
        return resident(processes, name)
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(b"Pss:"))


def beside(processes: int) -> int:
    """Bytes that are in no process's pages: shared memory, and the kernel's for sockets."""
    return memory(processes, sockets) + shared_memory(processes)


def sockets(processes: int, name: str) -> int:
    """What the buffers of its sockets may hold, which are the kernel's: in no process's pages, under no limit."""
    try:
        folder = os.open(f"{name}/fd", os.O_RDONLY, dir_fd=processes)
    except PermissionError:
        return OPEN_FILES * SOCKET_BYTES
    total = 0
    try:
        for fd in os.listdir(folder):
            with contextlib.suppress(OSError):  # just closed
                total += SOCKET_BYTES * os.readlink(fd, dir_fd=folder).startswith("socket:")
    finally:
        os.close(folder)
    return total


def shared_memory(processes: int) -> int:
    """Bytes of shared memory without a file, which lives on where no process has its pages: each counts once."""
    sizes: dict[bytes, int] = {}

    def add(processes: int, name: str) -> int:
        try:
            lines = read(processes, f"{name}/maps").splitlines()
        except PermissionError:  # it hides them: all that it has mapped
            return int(read(processes, f"{name}/statm").split()[0]) * os.sysconf("SC_PAGESIZE")
        for line in lines:
            if line.endswith(b"/dev/zero (deleted)"):
                span, _, offset, _, inode, *_ = line.split()
                first, last = (int(end, 16) for end in span.split(b"-"))
                sizes[inode] = max(sizes.get(inode, 0), int(offset, 16) + last - first)
        return 0

    hidden = memory(processes, add)
    return hidden + sum(sizes.values())


def read(folder: int, path: str) -> bytes:
    with open(os.open(path, os.O_RDONLY, dir_fd=folder), "rb") as file:
        return file.read()
