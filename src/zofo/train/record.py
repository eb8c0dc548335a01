"""What a run leaves behind for people and programs: run.json, metrics.jsonl, the environment."""

from __future__ import annotations

import logging
import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any, Protocol

import torch

from zofo.config.json_text import dumps
from zofo.models.versions import installed
from zofo.train.files import naming

PACKAGES = (
    "zofo",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "numba",
    "numpy",
    "safetensors",
    "torchao",
    "bitsandbytes",
)
FORMAT = 1
log = logging.getLogger("zofo")


def environment() -> dict[str, Any]:
    """Versions, threads and device: what bitwise equality of first-order parts depends on."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "packages": {name: installed(name) for name in PACKAGES},
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "device_name": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """`packages.torch: 2.12 -> 2.13` for each entry of the environment that changed."""
    lines = []
    for key in sorted({*then, *now}):
        a, b = then.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += [f"{key}.{line}" for line in differences(a, b)]
        elif a != b:
            lines.append(f"{key}: {a} -> {b}")
    return lines


def peak_bytes(device: torch.device) -> int:
    """Peak memory since the process began, or `reset_peak`: the allocator's on CUDA, the process's resident set
    elsewhere. Not the run's own where a process makes several runs, or did other work before.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak() -> bool:
    """From here on the peak is counted anew, with what is held now: for a process that makes runs one after the other.
    False where the system cannot (no Linux): then it stays the process's."""
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def resident(field: str) -> int | None:
    """Bytes of one field of /proc/self/status: VmRSS is held now, VmHWM was the most since `reset_peak`. None where
    there is no such file (no Linux)."""
    try:
        lines = Path("/proc/self/status").read_text("ascii", "replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


class Metrics(Protocol):
    """Where a run writes what it measures."""

    def write(self, event: str, step: int, **values: Any) -> None: ...

    def sync(self) -> int: ...

    def close(self) -> None: ...


class MetricsLog(Metrics):
    """metrics.jsonl: one line an event, appended as it happens."""

    def __init__(self, path: Path, position: int | None = None) -> None:
        """position: a checkpoint's; later lines are cut, because a resumed run writes them again."""
        self.path = path
        path.touch()
        if position is not None:
            if lacking := max(0, position - path.stat().st_size):
                log.warning("%s: lacks %d bytes of what the checkpoint had written; the run goes on", path, lacking)
            os.truncate(path, min(position, path.stat().st_size))
        self._file = path.open("a", encoding="utf-8")

    def write(self, event: str, step: int, **values: Any) -> None:
        with naming(self.path):
            self._file.write(dumps({"event": event, "step": step, **values}) + "\n")
            self._file.flush()

    def sync(self) -> int:
        """The size in bytes, which are on the disk now: a checkpoint refers to it, and must not outlive them."""
        with naming(self.path):
            os.fsync(self._file.fileno())
        return self.path.stat().st_size

    def close(self) -> None:
        self._file.close()
