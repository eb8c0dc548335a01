"""torch's process group, as a launcher's environment describes it or as somebody has made it before."""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

# Each of them says that a launcher started this process: torchrun, accelerate, Slurm
LAUNCHED = ("RANK", "LOCAL_RANK", "ACCELERATE_USE_CPU", "ACCELERATE_MIXED_PRECISION", "SLURM_PROCID")


def launched() -> bool:
    """Whether a launcher started this process, were it as the only one."""
    return any(name in os.environ for name in LAUNCHED)


def join(timeout: float) -> bool:
    """Make the process group that the environment describes, if there is none yet; it stays for the calls after this
    one, until the process ends. timeout: seconds that a collective waits. Returns whether there is one."""
    import torch

    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return True
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return False
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=timedelta(seconds=timeout))
    atexit.register(leave)
    return True


def leave() -> None:
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def place() -> tuple[int, int]:
    """(rank, size)"""
    import torch

    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def world(timeout: float) -> Any:
    """A group of all, on which tensors of the CPU can be gathered."""
    import torch

    return torch.distributed.new_group(backend="gloo", timeout=timedelta(seconds=timeout))


def lines(query: int, shard: int, timeout: float) -> dict[str, Any]:
    """{"data", "query", and where theta is sharded "shard", "peers": the group of this rank} of a grid, as `world` is
    one. The lines of data and of query have all shards of each place; peers are those with the same place among them.
    """
    import torch

    distributed, (rank, size), patience = torch.distributed, place(), timedelta(seconds=timeout)
    grid, groups = torch.arange(size).view(query, -1, shard), {}
    axes = {"data": grid.flatten(1), "query": grid.transpose(0, 1).flatten(1)}
    if shard > 1:
        axes |= {"shard": grid.flatten(0, 1), "peers": grid.flatten(0, 1).T}
    for axis, rows in ((axis, rows.tolist()) for axis, rows in axes.items()):
        # Every rank makes every group, in the same order
        made = [distributed.new_group(row, backend="gloo", timeout=patience) for row in rows]
        groups[axis] = next(group for group, row in zip(made, rows) if rank in row)
    return groups


def close(groups: Mapping[str, Any]) -> None:
    """End these groups of `world` and `lines`: whoever still waits in one of them is told at once."""
    import torch

    for group in groups.values():
        if group is not None and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group(group)
