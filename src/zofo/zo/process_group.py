"""torch's process group, as a launcher's environment describes it or as somebody has made it before."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

# Each of them says that a launcher started this process: torchrun, accelerate, Slurm
LAUNCHED = ("RANK", "LOCAL_RANK", "ACCELERATE_USE_CPU", "ACCELERATE_MIXED_PRECISION", "SLURM_PROCID")


def launched() -> bool:
    """Whether a launcher started this process, were it as the only one."""
    return any(name in os.environ for name in LAUNCHED)


def join(timeout: float) -> bool | None:
    """Make the process group that the environment describes, if there is none yet. timeout: seconds that a collective
    waits. Returns whether it was made here; None where this process is alone."""
    import torch

    distributed = torch.distributed
    there = distributed.is_available() and distributed.is_initialized()
    if there or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return False if there else None
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=timedelta(seconds=timeout))
    return True


def leave() -> None:
    import torch

    torch.distributed.destroy_process_group()


def place() -> tuple[int, int]:
    """(rank, size)"""
    import torch

    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def lines(query: int, timeout: float) -> dict[str, Any]:
    """{"world", "data", "query": the group of this rank} of a grid, on which tensors of the CPU can be gathered."""
    import torch

    distributed, (rank, size), patience = torch.distributed, place(), timedelta(seconds=timeout)
    grid = torch.arange(size).view(query, size // query)
    groups = {"world": distributed.new_group(backend="gloo", timeout=patience)}
    for axis, rows in (("data", grid.tolist()), ("query", grid.T.tolist())):
        # Every rank makes every group, in the same order
        made = [distributed.new_group(row, backend="gloo", timeout=patience) for row in rows]
        groups[axis] = next(group for group, row in zip(made, rows) if rank in row)
    return groups
