"""Facts of the machine, and clocks: what every benchmark prints beside its figures."""

from __future__ import annotations

import ctypes
import platform
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from zofo.models.versions import processor

MIB = 2**20


def facts() -> dict[str, Any]:
    """Date, processor, cores, memory, versions, threads."""
    import psutil
    import transformers

    machine: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": processor(),
        "cores": psutil.cpu_count(logical=False),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load": [round(x, 2) for x in psutil.getloadavg()],
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return machine


def status(field: str) -> int:
    """Bytes of one field of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this benchmark reads /proc/self/status: Linux only")


def peak_over(run: Callable[[], object]) -> int:
    """Bytes by which `run` raises this process's resident set at its peak, freed memory given back first (Linux)."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    run()
    return status("VmHWM") - before


def interleaved(
    variants: Mapping[str, Callable[[], object]],
    rounds: int,
    say: Callable[[str], None] = lambda line: None,
    peaks: dict[str, int] | None = None,
) -> dict[str, list[float]]:
    """Seconds of each variant in each round. A variant runs once a round, in an order that turns; one round warms up.

    A variant with an attribute `clocked` returns its own seconds. peaks: filled by the first round, see `peak_over`.
    """
    names = list(variants)
    timings: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            run = variants[name]
            if turn == 0 and peaks is not None:
                peaks[name] = peak_over(run)
                continue
            start = time.perf_counter()
            told = run()
            seconds = time.perf_counter() - start
            if turn:
                timings[name].append(float(told) if getattr(run, "clocked", False) else seconds)  # pyright: ignore
        say(f"round {turn} of {rounds}")
    return timings


def summary(seconds: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": median(seconds), "min": min(seconds), "max": max(seconds)}


def ratio(timings: Mapping[str, list[float]], top: str, *below: str) -> dict[str, float]:
    """Of each round's top / sum of below: median, smallest and largest. A round's own jobs beside it cancel."""
    return summary([t / sum(parts) for t, *parts in zip(timings[top], *(timings[name] for name in below))])
