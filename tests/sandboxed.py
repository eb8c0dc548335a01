"""For the tests of the sandbox: to run a program there, and to find the processes that it started."""

from __future__ import annotations

import os
import secrets
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from zofo.eval import sandbox
from zofo.eval.sandbox import Limits, Outcome

SOURCE = Path(sandbox.__file__).parents[3]
BASE = Path(sys.base_prefix).resolve()

needs_sandbox = pytest.mark.skipif(sandbox.missing() is not None, reason=f"no sandbox here: {sandbox.missing()}")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def run(program: str, **limits: float) -> Outcome:
    """With a time limit that a busy machine does not reach, unless one is given."""
    limits = {"seconds": 120, **limits}
    return sandbox.run(textwrap.dedent(program), Limits(**limits))  # type: ignore[arg-type]


def passes(program: str, **limits: float) -> Outcome:
    outcome = run(program, **limits)
    assert outcome.passed, outcome
    assert outcome.reason == "passed"
    return outcome


def mark() -> tuple[str, str]:
    """A name, and the lines that give it to a process and to all that it starts."""
    name = f"zt{secrets.token_hex(5)}"
    return name, f"import ctypes, os\nctypes.CDLL(None).prctl(15, b'{name}', 0, 0, 0)\n"


def alive(name: str) -> list[int]:
    return [pid for pid in psutil.pids() if comm(pid) == name]


def comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def threads(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def gone(name: str, seconds: float = 60.0) -> bool:
    until = time.monotonic() + seconds
    while alive(name) and time.monotonic() < until:
        time.sleep(0.02)
    return not alive(name)
