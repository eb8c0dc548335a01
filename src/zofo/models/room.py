"""The memory that is there: of a CUDA device, or of this machine within the limits of its container."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

ROOT = Path("/")


@dataclass(frozen=True)
class Room:
    """free: bytes that a run of this process may take, beside what the process holds; total: of the whole."""

    free: int
    total: int
    what: str


def of(device: str, root: Path = ROOT) -> Room | None:
    """device: as `model.device`. None where it cannot be told (mps, a CUDA device that is not there)."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return of_machine(root)
    if not device.startswith("cuda") or not torch.cuda.is_available():
        return None
    try:
        free, total = torch.cuda.mem_get_info(torch.device(device))
    except (RuntimeError, AssertionError, ValueError):
        return None
    kept = torch.cuda.memory_reserved(torch.device(device)) - torch.cuda.memory_allocated(torch.device(device))
    return Room(free + kept, total, "of the CUDA device")


def of_machine(root: Path = ROOT) -> Room:
    """RAM: what the system can give, at most what each cgroup and `ulimit -v` leave. Swap is not counted."""
    memory = psutil.virtual_memory()
    rooms = [Room(memory.available, memory.total, "of memory"), *_groups(root)]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        rooms.append(Room(max(0, limit - psutil.Process().memory_info().vms), limit, "of addresses (ulimit -v)"))
    least = min(rooms, key=lambda room: room.free)
    return Room(least.free, min(room.total for room in rooms), least.what)


def _groups(root: Path) -> Iterator[Room]:
    """Of this process's cgroups and those above them, version 2 or 1, each that has a limit."""
    for folder, limit, usage, cache in _folders(root):
        with suppress(OSError, ValueError):  # no such file, or "max"
            most = int((folder / limit).read_text(encoding="utf-8"))
            if most >= psutil.virtual_memory().total:  # version 1 says "none" by a number near 2 ** 63
                continue
            stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
            held = int((folder / usage).read_text(encoding="utf-8")) - int(
                stat.get(cache, 0)
            )  # file cache is given back
            yield Room(max(0, most - held), most, "of the container's limit")


def _folders(root: Path) -> Iterator[tuple[Path, str, str, str]]:
    """(folder, its files: limit and usage, the line of memory.stat that says what would be given back)"""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = ["0::/"]
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds == "":
            top, limit, usage, cache = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in kinds.split(","):
            top = root / "sys/fs/cgroup/memory"
            limit, usage, cache = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        folder = top / path.strip("/")
        while True:
            if folder.is_dir():  # inside a container its own group is the top, whatever the path says
                yield folder, limit, usage, cache
            if folder == top or top not in folder.parents:
                break
            folder = folder.parent
