"""Run a Python program that somebody else wrote, a language model say, and learn whether it reached its last line.

`run(program)` starts it in new user, PID, mount, network, IPC and UTS namespaces of the Linux kernel, and never without
them. Inside there are the interpreter with its standard library, read-only, /dev/null and its like, and one folder to
write in, a tmpfs of `disk_bytes` that ends with the run; no other file of the host, no /proc, no network and no
loopback, none of the caller's environment and open files. The program is nobody, has no capability and no way to get
one; a seccomp filter refuses shared memory, the session's keys, ptrace and the like. Time, processor time, memory,
processes and output are limited, and when the run ends the kernel kills all that is left of it.

**Passed** means: the last line was reached, in the process that began, and that process then ended by itself. What the
program prints and how it exits does not count. The last line sends a hash of a key of this run, computed there.

Not defended:

- A program written against this file. The key lies in the memory of its own interpreter: one that goes through the
  frames or the memory of its process can find the means to send the hash, and so forge its own score (not more). Such a
  program can also replace what the check compares with, `__eq__` for instance; no sandbox tells that from a solution.
- Errors of the kernel that let an unprivileged process become more. Against these there is a virtual machine.
- Load: a run may use its limits to the full, and `processes` times `cpu_seconds` of processor time.

Memory: `memory_bytes` bounds the address space of each process at once, and what all of them hold together within
about 20 ms, shared memory that no page table shows and the buffers of sockets with it; files in the folder count
beside, up to `disk_bytes`, and pipes, up to the kernel's limit for a user (64 MiB).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Literal

from zofo.errors import InputError, RunError

Reason = Literal["passed", "failed", "exited early", "timed out", "out of memory"]

_START = "import sys; sys.path.append({folder!r}); from zofo.eval.sandbox._child import main; main({ends})"
_PATIENCE = 30.0  # seconds for what comes before the program's first line, and after its last
_WHY = (
    "a program is run only in namespaces of its own (Linux 5.14 or later), where it can neither see nor change this "
    "machine. Where an administrator has switched them off: sysctl kernel.unprivileged_userns_clone=1, "
    "kernel.apparmor_restrict_unprivileged_userns=0, user.max_user_namespaces above 0; in a container: --security-opt "
    "seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined"
)
# What `missing` runs: the limits that a kernel could take and not enforce.
_TRIAL = """
import os, time
assert os.getpid() == 2 and os.getuid() == 65534, "the namespaces are not new"
for path in ("/file", "/usr/file", "/dev/file"):
    try:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    except OSError:
        continue
    raise AssertionError(f"{path} could be written")
try:
    for _ in range(16):
        if os.fork() == 0:
            time.sleep(60)
except BlockingIOError:
    pass
else:
    raise AssertionError("the number of processes is not limited")
"""


@dataclass(frozen=True)
class Limits:
    """What one run may use. `memory_bytes`: see the module; `output_bytes`: what is kept of its output, the end."""

    seconds: float = 5.0
    cpu_seconds: float = 5.0  # of one process, rounded up to whole seconds
    memory_bytes: int = 512 << 20
    processes: int = 16  # and threads
    output_bytes: int = 64 << 10
    disk_bytes: int = 16 << 20

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 < value < 1 << 50:
                raise InputError(f"limits.{name}: {value} is not a limit; give a positive number")
        if self.memory_bytes < 64 << 20:
            raise InputError(f"limits.memory_bytes: {self.memory_bytes} cannot start Python; give 64 MiB or more")


DEFAULTS = Limits()


@dataclass(frozen=True)
class Outcome:
    """`output`: the end of what it printed and of its traceback.

    `failed`: it ended with an exception; `exited early`: with `sys.exit`, `os._exit` or a signal, whatever the code.
    """

    passed: bool
    reason: Reason
    output: str


class _Refused(RunError):
    """The sandbox could not be set up; its words say where."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the sandbox could not be set up: {what}")


@functools.cache
def missing() -> str | None:
    """Why programs cannot be run safely here, None where they can. Tried once, by running one."""
    if sys.platform != "linux":
        return f"this is {sys.platform}, and {_WHY.partition('. ')[0]}"
    try:
        trial = _run(_TRIAL, Limits(seconds=20, cpu_seconds=10, processes=4))
    except _Refused as refused:
        return f"{refused}; {_WHY}"
    return None if trial.passed else f"a trial {trial.reason}: {_last_line(trial.output)}; {_WHY}"


def run(program: str, limits: Limits = DEFAULTS) -> Outcome:
    """Run one program. InputError where `missing()`: it is never run without the sandbox."""
    if why := missing():
        raise InputError(f"programs cannot be run here: {why}")
    return _run(program, limits)


def run_all(
    programs: Sequence[str],
    limits: Limits = DEFAULTS,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """`run` each, `workers` at a time; the outcomes in the programs' order. `progress` is told (done, of)."""
    if workers < 1:
        raise InputError(f"workers: {workers}; give 1 or more")
    if why := missing():
        raise InputError(f"programs cannot be run here: {why}")
    stop = threading.Event()
    with ThreadPoolExecutor(workers) as pool:
        runs = [pool.submit(_run, program, limits, stop) for program in programs]
        try:
            for done, ended in enumerate(as_completed(runs), start=1):
                ended.result()
                if progress:
                    progress(done, len(runs))
        except BaseException:  # Ctrl-C too: those that run are ended, the others are not begun
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [ended.result() for ended in runs]


def _run(program: str, limits: Limits, stop: threading.Event | None = None) -> Outcome:
    key, stop = secrets.token_bytes(32), stop or threading.Event()
    with contextlib.ExitStack() as stack:
        control, control_inside, verdict, verdict_inside = _pipes(stack)
        ends = f"{control_inside.fileno()}, {verdict_inside.fileno()}, {os.getpid()}"
        start = _START.format(folder=str(Path(__file__).resolve().parents[3]), ends=ends)
        process = subprocess.Popen(
            [getattr(sys, "_base_executable", sys.executable), "-I", "-S", "-c", start],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={},
            cwd="/",
            start_new_session=True,
            pass_fds=(control_inside.fileno(), verdict_inside.fileno()),
        )
        stack.callback(_end, process)
        control_inside.close()
        verdict_inside.close()
        _send_job(process, program, limits, key)
        watch = _Watch(process, (control.fileno(), verdict.fileno()), limits, stop)
        watch.until_all_have_ended()
        return watch.outcome(hashlib.blake2b(key).digest())


def _pipes(stack: contextlib.ExitStack) -> list[FileIO]:
    """Two pipes out of the sandbox: read, write, read, write."""
    ends = [*os.pipe(), *os.pipe()]
    return [stack.enter_context(FileIO(fd, mode)) for fd, mode in zip(ends, ("r", "w", "r", "w"))]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the sandbox, if it still is: its process 1 dies with it, and with that one all that it holds."""
    process.kill()
    for pipe in filter(None, (process.stdin, process.stdout)):
        with contextlib.suppress(OSError):
            pipe.close()
    process.wait()


def _send_job(process: subprocess.Popen[bytes], program: str, limits: Limits, key: bytes) -> None:
    job = json.dumps({"program": program, "key": key.hex(), **asdict(limits)}).encode()
    assert process.stdin
    with contextlib.suppress(BrokenPipeError):  # it has ended: the control pipe says why
        process.stdin.write(len(job).to_bytes(8, "little") + job)
        process.stdin.flush()


def _map_users(process: subprocess.Popen[bytes]) -> None:
    """Give the sandbox its users: nobody inside, who is nobody outside where root started it, else the caller.

    Root is mapped too, only as long as the root file system is built: the kernel does not limit root's processes.
    """
    for kind, mine in (("gid", os.getegid()), ("uid", os.geteuid())):
        root = os.geteuid() == 0
        if kind == "gid" and not root:
            Path(f"/proc/{process.pid}/setgroups").write_text("deny")
        lines = f"0 {mine} 1\n65534 65534 1\n" if root else f"65534 {mine} 1\n"
        Path(f"/proc/{process.pid}/{kind}_map").write_text(lines)
    assert process.stdin
    process.stdin.write(b"m")
    process.stdin.close()


def _last_line(output: str) -> str:
    return output.strip().rpartition("\n")[2]


class _Watch:
    """Reads what comes out of a sandbox until nothing in it can write any more, and ends it when its time is over."""

    def __init__(self, process: subprocess.Popen[bytes], ends: tuple[int, int], limits: Limits, stop: threading.Event):
        self.process, (self.control, self.verdict), self.limits, self.stop = process, ends, limits, stop
        self.deadline = time.monotonic() + _PATIENCE
        self.output, self.lines, self.shown = b"", b"", b""
        self.timed_out = False

    def until_all_have_ended(self) -> None:
        assert self.process.stdout
        with selectors.DefaultSelector() as waiting:
            for pipe in (self.process.stdout.fileno(), self.control, self.verdict):
                waiting.register(pipe, selectors.EVENT_READ)
            while waiting.get_map():
                for ready, _ in waiting.select(0.1):
                    data = os.read(ready.fd, 1 << 16)
                    if not data:
                        waiting.unregister(ready.fileobj)
                    elif ready.fd == self.control:
                        self.hear(data)
                    elif ready.fd == self.verdict:
                        self.shown = (self.shown + data)[:4096]
                    else:
                        self.output = (self.output + data)[-self.limits.output_bytes :]
                if time.monotonic() > self.deadline or self.stop.is_set():
                    self.over()

    def hear(self, data: bytes) -> None:
        """Answer what the sandbox says on the control pipe; each message ends with a line feed."""
        self.lines += data
        if b"unshared\n" in data:
            try:
                _map_users(self.process)
            except OSError as error:
                raise _Refused(f"the users of a new user namespace: {error}") from error
        if b"started\n" in data:
            self.deadline = time.monotonic() + self.limits.seconds

    def over(self) -> None:
        if self.timed_out:
            raise RunError("a sandbox does not end although it was killed")
        self.timed_out, self.stop = True, threading.Event()
        self.deadline = time.monotonic() + _PATIENCE
        self.process.kill()

    def outcome(self, proof: bytes) -> Outcome:
        output = self.output.decode(errors="replace")
        lines = self.lines.decode(errors="replace").splitlines()
        refused = [line.removeprefix("refused ") for line in lines if line.startswith("refused ")]
        if refused or "started" not in lines:
            raise _Refused(refused[0] if refused else f"it ended before the program began, with: {output.strip()!r}")
        reason = self.reason(lines[-1].split(), output, self.shown == proof)
        return Outcome(reason == "passed", reason, output)

    def reason(self, end: list[str], output: str, proven: bool) -> Reason:
        if self.timed_out:
            return "timed out"
        if end[0] != "end":
            return "exited early"
        status, seconds, cause = int(end[1]), float(end[2]), end[3]
        if cause == "memory":
            return "out of memory"
        if status in (-signal.SIGKILL, -signal.SIGXCPU) and seconds >= self.limits.cpu_seconds * 0.9:
            return "timed out"
        if status == 0 and cause == "itself":
            return "passed" if proven else "exited early"
        if status == 1 and _last_line(output).startswith("MemoryError"):
            return "out of memory"
        return "failed" if status == 1 else "exited early"
