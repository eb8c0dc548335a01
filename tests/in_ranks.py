"""A command line as several real processes that a launcher would have started, over gloo on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests import forked


def in_ranks(
    size: int,
    *args: str,
    act: Callable[..., Any] = forked.zofo_main,
    special: Mapping[int, Callable[..., Any]] | None = None,
    own: Mapping[int, Sequence[str]] | None = None,
    ends_within: float = 120,
) -> list[subprocess.CompletedProcess[str]]:
    """act(*args) in each of so many processes; their results in the order of the ranks. special: what some ranks do in
    place of `act`. own: the whole command line of some ranks, in place of args. ends_within: seconds, after which a
    process is killed, whose exit code then is that of SIGKILL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}

    def one(rank: int) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        given = (own or {}).get(rank, args)
        try:
            return forked.run((special or {}).get(rank, act), *given, env=env, timeout=ends_within)
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(given, -signal.SIGKILL, "", "")

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(one, range(size)))
