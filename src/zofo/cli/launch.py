"""`--nproc N`: the same command line in N processes of this machine, started and watched by torch's own launcher."""

from __future__ import annotations

import logging
import os
import sys
import uuid
from collections.abc import Sequence

PATIENCE = 3600  # seconds from a signal to SIGKILL: a round is finished and saved


def without(args: Sequence[str], name: str = "--nproc") -> list[str]:
    """The command line of each process."""
    out, skip = [], False
    for arg in args:
        if not skip and arg != name and not arg.startswith(f"{name}="):
            out.append(arg)
        skip = arg == name
    return out


def launch(processes: int, args: Sequence[str]) -> int:
    """Run `zofo ARGS` as ranks of one run. Returns the exit code of the first that failed, or 0."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # a rank says itself what ended it
    threads = max(1, (os.cpu_count() or 1) // processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        max_restarts=0,
        shutdown_timeout=PATIENCE,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "zofo", *without(args))
    except ChildFailedError as failed:
        code = failed.get_first_failure()[1].exitcode
        return code if code > 0 else 128 - code
    except SignalException as stop:
        return 128 + int(stop.sigval)
    return 0
