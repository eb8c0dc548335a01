"""Programs that start others, in sessions of their own: whoever started the first ends them all, and so does its death.

Each carries a mark in its environment, which what it starts inherits; `python -m zofo.federated.processes MARK COMMAND`
stands between, and ends when its standard input does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

MARK = "ZOFO_FEDERATION"
PATIENCE = 10.0  # seconds to end by themselves once asked, and to be gone once killed


@contextmanager
def running(command: Sequence[str], env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that writes to this log; behind it, and behind a death of this process, nothing of it is left."""
    mark = uuid.uuid4().hex
    between = [sys.executable, "-m", __name__, mark, *command]
    with log.open("ab") as file:
        process = subprocess.Popen(
            between, env={**env, MARK: mark}, stdin=subprocess.PIPE, stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield process
    finally:
        end(process, mark)


def end(process: subprocess.Popen[bytes], mark: str) -> None:
    """Asked first, with all of its group, and then killed with whatever has the mark."""
    try:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(PATIENCE)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        pass
    finally:
        kill(mark)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def kill(mark: str) -> None:
    """All that have the mark and what they have started, this process left out."""
    until = time.monotonic() + PATIENCE
    while (found := _marked(mark)) and time.monotonic() < until:
        for one in found:
            try:
                one.kill()
            except psutil.Error:
                continue
        psutil.wait_procs(found, timeout=1.0)


def _marked(mark: str) -> set[psutil.Process]:
    found = set[psutil.Process]()
    for one in psutil.process_iter():
        try:
            if one.environ().get(MARK) == mark:
                found |= {one, *one.children(recursive=True)}  # a program that writes its own title has no environment
        except (psutil.Error, OSError):
            continue
    return {one for one in found if one.pid != os.getpid() and _lives(one)}


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _watch(mark: str) -> None:
    """Nothing is ever written there, so it ends with the process that holds the other end."""
    os.read(0, 1)
    kill(mark)
    os._exit(1)


def main(mark: str, command: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: None)  # the command is asked too, and this process ends behind it
    threading.Thread(target=_watch, args=(mark,), daemon=True).start()
    code = subprocess.call(command, stdin=subprocess.DEVNULL)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
