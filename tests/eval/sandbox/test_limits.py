"""The limits of the sandbox: what uses up time, memory and processes, and what kills those who watch."""

from __future__ import annotations

import os
import subprocess
import threading
import time

import psutil
import pytest

from tests.sandboxed import alive, gone, mark, needs_sandbox, passes, run, threads


@needs_sandbox
@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import time; time.sleep(600)",
        "import signal\nfor s in range(1, 65):\n  if s not in (9, 19, 32, 33): signal.signal(s, signal.SIG_IGN)\n"
        "while True: pass",
        "while True:\n  try:\n    while True: pass\n  except BaseException: pass",
        "import os\nos.closerange(0, 100)\nos.setsid() if os.fork() == 0 else 0\nwhile True: pass",
        "import re; re.match('(a+)+$', 'a' * 50 + 'b')",
    ],
    ids=["loop", "sleep", "all signals ignored", "all exceptions caught", "no files, a fork", "in C"],
)
def test_an_endless_program_is_ended(program: str) -> None:
    name, line = mark()
    begun = time.monotonic()
    outcome = run(line + program, seconds=0.4)
    assert (outcome.passed, outcome.reason) == (False, "timed out")
    assert 0.4 <= time.monotonic() - begun < 60, "it was ended, and did not end by itself"
    assert gone(name)


@needs_sandbox
@pytest.mark.parametrize("ignored", ["", "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\n"])
def test_processor_time_is_limited(ignored: str) -> None:
    begun = time.monotonic()
    outcome = run(f"{ignored}while True: pass", cpu_seconds=1, seconds=600)
    assert outcome.reason == "timed out"
    assert time.monotonic() - begun < 300


@needs_sandbox
@pytest.mark.parametrize(
    "bomb",
    [
        "while True:\n  try: os.fork()\n  except OSError: pass",
        "import time\nwhile True:\n  try:\n    if os.fork() == 0: os.setsid()\n  except OSError: time.sleep(0.001)",
        "import threading, time\nwhile True:\n  try: threading.Thread(target=time.sleep, args=[100]).start()\n"
        "  except RuntimeError: pass",
    ],
    ids=["forks", "sessions", "threads"],
)
def test_fork_bombs(bomb: str) -> None:
    for seconds in (0.8, 3, 30):  # a busy machine needs longer to start as many
        name, line = mark()
        most = 0
        done = threading.Event()

        def count(name: str = name, done: threading.Event = done) -> None:
            nonlocal most
            while not done.is_set():
                most = max(most, sum(threads(pid) for pid in alive(name)))

        counting = threading.Thread(target=count)
        counting.start()
        try:
            outcome = run(line + bomb, seconds=seconds, processes=12)
        finally:
            done.set()
            counting.join()
        assert outcome.reason == "timed out"
        assert most <= 14, "bounded"
        assert gone(name)
        if most >= 8:
            break
    assert most >= 8, "the bomb was real"
    assert subprocess.run(["true"]).returncode == 0


@needs_sandbox
def test_processes_left_behind_are_ended() -> None:
    name, line = mark()
    passes(f"{line}import time\nif os.fork() == 0:\n  os.setsid()\n  time.sleep(600)")
    assert gone(name)


@needs_sandbox
@pytest.mark.parametrize(
    "bomb",
    [
        "x = bytearray(1 << 40)",
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        "x = 'a'\nwhile True: x += x",
        "import mmap\nx = [mmap.mmap(-1, 1 << 24) for _ in range(1000)]",
    ],
)
def test_memory_of_a_process(bomb: str) -> None:
    outcome = run(bomb, memory_bytes=128 << 20)
    assert not outcome.passed
    assert outcome.reason == "out of memory" or "Cannot allocate memory" in outcome.output, outcome


@needs_sandbox
def test_memory_of_all_processes_together() -> None:
    """Ten times 60 MiB with a limit of 200: each may, all may not; pages that forks share count once."""
    name, line = mark()
    hold = "x = bytearray(os.urandom(1 << 20) * 60)"
    wait = "time.sleep(600)"
    split = f"{line}import time\nfor _ in range(10):\n  if os.fork() == 0:\n    {hold}\n    {wait}\n{wait}"
    begun = time.monotonic()
    outcome = run(split, memory_bytes=200 << 20, seconds=600)
    assert outcome.reason == "out of memory", outcome
    assert time.monotonic() - begun < 300
    assert gone(name)
    shared = f"{line}import time\n{hold}\nfor _ in range(10):\n  if os.fork() == 0: time.sleep(60)\ntime.sleep(0.3)"
    passes(shared, memory_bytes=200 << 20)


@needs_sandbox
@pytest.mark.parametrize("fd", [1, 2])
def test_gigabytes_of_output(fd: int) -> None:
    """Its end is kept; to print much is no failure, to print for ever is one of time."""
    before = psutil.Process().memory_info().rss
    program = (
        f"import os\nblock = b'x' * (1 << 16)\nfor _ in range({{}}): os.write({fd}, block)\nos.write({fd}, b'end')"
    )
    outcome = run(program.format(1 << 14), output_bytes=1000, seconds=60, cpu_seconds=60)  # 1 GiB
    assert (outcome.reason, len(outcome.output), outcome.output[-4:]) == ("passed", 1000, "xend")
    outcome = run(program.format(1 << 40), output_bytes=1000, seconds=0.4)
    assert (outcome.reason, outcome.output) == ("timed out", "x" * 1000)
    assert psutil.Process().memory_info().rss - before < 64 << 20


@needs_sandbox
@pytest.mark.parametrize(
    "killing",
    [
        "os.kill(os.getppid(), 9)",
        "refused(os.kill, -1, 9)",
        "[os.kill(1, s) for s in range(1, 65)]",
        "[os.kill(os.getppid(), s) for s in (2, 15, 19, 20) for _ in range(100)]",
        "[refused(os.kill, pid, 9) for pid in range(3, 4000)]",
        pytest.param(f"refused(os.kill, {os.getpid()}, 9)", id="this process by its number outside"),
    ],
)
def test_killing_those_who_watch(killing: str) -> None:
    """They cannot be hit: a program that then ends well has passed, one that does not has not."""
    refused = "import os\ndef refused(do, *args):\n  try: do(*args)\n  except OSError: pass\n"
    passes(f"{refused}{killing}")
    assert run(f"{refused}{killing}\nassert False").reason == "failed"
    assert run(f"{refused}{killing}\nwhile True: pass", seconds=0.3).reason == "timed out"
