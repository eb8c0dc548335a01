"""The inside of `zofo.eval.sandbox`, with the standard library alone. Three processes, each the child of the one above:

    sandbox    leaves the host's namespaces, waits for
    init       process 1 of the new ones: builds a root, gives up every right, watches over
    program    a fresh interpreter under limits, in which the program runs

They talk to `zofo.eval.sandbox` in lines on the control pipe, which the program does not have: `unshared` (map the
users, then send one byte), `started`, `end STATUS CPU-SECONDS CAUSE`, `refused WHAT`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from zofo.eval.sandbox._kernel import (
    AUDIT,
    CURRENT_FOLDER,
    DIE_WITH_PARENT,
    DROP_FROM_BOUND,
    DUMPABLE,
    EMPTY_PATH,
    NAMESPACES,
    NO_DEVICES,
    NO_DEVICES_MOUNT,
    NO_NEW_RIGHTS,
    NO_SETUID,
    NO_SETUID_MOUNT,
    PRIVATE_MOUNT,
    READ_ONLY,
    RECURSIVE,
    Kernel,
    Refused,
    filter_calls,
)
from zofo.eval.sandbox._memory import OPEN_FILES, beside, memory, resident, share

NOBODY = 65534
# What an interpreter may need; each of them that exists is shown read-only, and nothing else of the host.
SHOWN = ["/usr", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store", "/etc/ld.so.cache"]
DEVICES = ["null", "zero", "full", "random", "urandom"]
# PYTHONHASHSEED is why the program's interpreter runs with -s -P and not with -I, which would ignore it.
ENVIRONMENT = {
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "MALLOC_ARENA_MAX": "2",  # else each thread reserves 64 MiB, which the limit of the address space counts
    "OMP_NUM_THREADS": "1",
    "PATH": "/usr/bin:/bin",
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    "TMPDIR": "/tmp",
}


def say(control: int, line: str) -> None:
    os.write(control, line.replace("\n", " ").encode(errors="replace") + b"\n")


# ---------------------------------------------------------------------------------------------------- sandbox


def sandbox(control: int, verdict: int, parent: int) -> int:
    """Leave every namespace, and live exactly as long as process 1 of the new ones."""
    os.set_inheritable(control, False)
    os.set_inheritable(verdict, False)
    os.umask(0o022)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)  # what the caller ignores, and what Python has set
    kernel = Kernel()
    stdin = sys.stdin.buffer
    job = json.loads(stdin.read(int.from_bytes(stdin.read(8), "little")))
    with open(os.path.join(os.path.dirname(__file__), "_program.py"), encoding="utf-8") as file:
        job["wrapper"] = file.read()
    if os.uname().machine not in AUDIT:
        raise Refused(f"a filter of system calls for {os.uname().machine} (known: {', '.join(AUDIT)})")
    root = os.geteuid() == 0
    kernel("unshare", sum(NAMESPACES.values()), what=f"new {', '.join(NAMESPACES)} namespaces")
    kernel("prctl", DIE_WITH_PARENT, int(signal.SIGKILL))
    say(control, "unshared")
    if os.getppid() != parent or stdin.read(1) != b"m":
        return 1
    if root:
        os.setgroups([])
    alive, held = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(held)
        guarded(control, lambda: init(kernel, job, control, verdict, alive))
    os.waitpid(pid, 0)
    return 0


def build_root(kernel: Kernel, disk_bytes: int) -> None:
    """A root with the interpreter, a few devices and an empty /tmp; the host's root is let go of.

    Trees are taken before anything is mounted, so that one which lies below /tmp is found. What is shown becomes
    read-only with all that is mounted below it; nobody inside has the right to change that.
    """
    shown = {os.path.realpath(p) for p in (sys.base_prefix, sys.base_exec_prefix)}
    links = [p for p in SHOWN if os.path.islink(p)]
    shown |= {p for p in SHOWN if os.path.exists(p) and p not in links}
    shown = {p for p in shown if not any(p.startswith(f"{other}/") for other in shown)}
    trees = {p: kernel("open_tree", CURRENT_FOLDER, p.encode(), 1 | RECURSIVE, what=p) for p in sorted(shown)}
    devices = {f"/dev/{d}": kernel("open_tree", CURRENT_FOLDER, f"/dev/{d}".encode(), 1, what=d) for d in DEVICES}
    targets = {p: os.readlink(p) for p in links}
    folders = {p: os.path.isdir(p) for p in trees}

    kernel("mount", None, b"/", None, PRIVATE_MOUNT, None, what="private mounts")
    flags = NO_SETUID_MOUNT | NO_DEVICES_MOUNT
    kernel("mount", b"root", b"/tmp", b"tmpfs", flags, b"size=1m,mode=755", what="a root")
    os.chdir("/tmp")
    for path, tree in {**trees, **devices}.items():
        place(kernel, path, tree, folder=folders.get(path, False), device=path in devices)
    for path, target in targets.items():
        os.symlink(target, f".{path}")
    os.mkdir("tmp")
    options = f"size={disk_bytes},nr_inodes=4096,mode=700,uid={NOBODY},gid={NOBODY}".encode()
    kernel("mount", b"work", b"tmp", b"tmpfs", flags, options, what="a folder to write in")
    read_only(kernel, CURRENT_FOLDER, b".", 0, READ_ONLY)
    kernel("pivot_root", b".", b".")
    kernel("umount2", b".", 2, what="the host's root")
    os.chdir("/")


def place(kernel: Kernel, path: str, tree: int, folder: bool, device: bool) -> None:
    """Mount `tree` read-only at `path` of the root that is being built in the current folder."""
    os.makedirs(f".{path}" if folder else os.path.dirname(f".{path}"), exist_ok=True)
    if not folder:
        os.close(os.open(f".{path}", os.O_CREAT, 0o644))
    read_only(kernel, tree, b"", EMPTY_PATH | RECURSIVE, READ_ONLY | NO_SETUID | (0 if device else NO_DEVICES))
    kernel("move_mount", tree, b"", CURRENT_FOLDER, f".{path}".encode(), 4, what=path)
    os.close(tree)


def read_only(kernel: Kernel, folder: int, path: bytes, how: int, attributes: int) -> None:
    settings = (kernel.ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    kernel("mount_setattr", folder, path, how, settings, 32, what="read-only")


# ---------------------------------------------------------------------------------------------------- init


def init(kernel: Kernel, job: dict[str, Any], control: int, verdict: int, alive: int) -> int:
    """Process 1: signals from inside do not reach it, and all processes inside die with it."""
    # A /proc that is mounted nowhere: this process counts memory with it, the program has none. The kernel gives it
    # only while the host's own is in sight.
    processes = os.open(".", os.O_RDONLY, dir_fd=kernel("fsmount", proc_filesystem(kernel), 1, 0, what="/proc"))
    forbid = os.open("sys/user/max_user_namespaces", os.O_WRONLY, dir_fd=processes)
    os.write(forbid, b"0")  # in a further user namespace the program would have every right again
    os.close(forbid)
    build_root(kernel, job["disk_bytes"])
    kernel("sethostname", b"sandbox", 7)
    give_up_rights(kernel)
    source, sink = os.pipe()
    pid = os.fork()
    if pid == 0:
        guarded(control, lambda: become_program(kernel, job, source, verdict))
    os.close(source)
    os.close(verdict)
    say(control, "started")
    with contextlib.suppress(BrokenPipeError), open(sink, "wb") as pipe:  # broken: it has died, `watch` says how
        pipe.write(bytes.fromhex(job["key"]) + job["program"].encode(errors="surrogatepass"))
    say(control, f"end {watch(pid, processes, alive, job['memory_bytes'])}")
    return 0


def proc_filesystem(kernel: Kernel) -> int:
    filesystem = kernel("fsopen", b"proc", 1, what="/proc")
    kernel("fsconfig", filesystem, 6, None, None, 0, what="a /proc of its own")
    return filesystem


def give_up_rights(kernel: Kernel) -> None:
    """From now on: nobody (outside, the caller or, where that is root, nobody too), without a way to any capability."""
    for capability in range(64):
        if kernel.libc.prctl(DROP_FROM_BOUND, kernel.ctypes.c_long(capability), 0, 0, 0) < 0:
            break  # past the last one this kernel has
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    head = (kernel.ctypes.c_uint32 * 2)(0x20080522, 0)
    kernel("capset", head, (kernel.ctypes.c_uint32 * 6)())
    kernel("prctl", NO_NEW_RIGHTS, 1, 0, 0, 0)
    kernel("prctl", DUMPABLE, 0, 0, 0, 0)  # the program has the same user; it shall not look into this process


def watch(pid: int, processes: int, alive: int, memory_bytes: int) -> str:
    """Reap until the program ends, the process above does, or all processes together hold too much memory."""
    poll = select.poll()
    poll.register(os.pidfd_open(pid), select.POLLIN)
    poll.register(alive, select.POLLIN)
    while True:
        if any(fd == alive for fd, _ in poll.poll(20)):
            return "0 0 abandoned"
        while True:
            ended, status, usage = os.wait4(-1, os.WNOHANG)
            if ended == pid:
                return f"{os.waitstatus_to_exitcode(status)} {usage.ru_utime + usage.ru_stime:.2f} itself"
            if ended == 0:
                break
        rest = beside(processes)
        if all(memory(processes, kind) + rest > memory_bytes for kind in (resident, share)):
            return "0 0 memory"


# ---------------------------------------------------------------------------------------------------- program


def become_program(kernel: Kernel, job: dict[str, Any], source: int, verdict: int) -> NoReturn:
    """A session of its own (`kill(0)` must not reach the host), limits, the filter, then a fresh interpreter."""
    os.setsid()
    os.chdir("/tmp")
    set_limits(job)
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.dup2(1, 2)
    for fd in (source, verdict):
        os.set_inheritable(fd, True)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    filter_calls(kernel)
    python = os.path.realpath(sys.executable)
    arguments = ["-s", "-P", "-S", "-B", "-c", job["wrapper"], str(source), str(verdict)]
    os.execve(python, [python, *arguments], ENVIRONMENT)


def set_limits(job: dict[str, Any]) -> None:
    import resource

    cpu = max(1, math.ceil(job["cpu_seconds"]))
    wanted = {
        resource.RLIMIT_AS: (job["memory_bytes"],) * 2,
        resource.RLIMIT_CPU: (cpu, cpu + 1),
        resource.RLIMIT_FSIZE: (job["disk_bytes"],) * 2,
        resource.RLIMIT_NPROC: (job["processes"] + 2,) * 2,  # the two that wait are of the same user
        resource.RLIMIT_NOFILE: (OPEN_FILES,) * 2,
        resource.RLIMIT_STACK: (8 << 20,) * 2,
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_MEMLOCK: (0, 0),
    }
    for which, (soft, hard) in wanted.items():
        top = resource.getrlimit(which)[1]
        if top != resource.RLIM_INFINITY:
            soft, hard = min(soft, top), min(hard, top)
        resource.setrlimit(which, (soft, hard))


def guarded(control: int, body: Callable[[], int]) -> NoReturn:
    """`body`, as all that this process does; what it could not do is said on the control pipe."""
    code = 70
    try:
        code = body()
    except Refused as refused:
        say(control, f"refused {refused}")
    except Exception as error:
        say(control, f"refused {error!r}")
    finally:
        os._exit(code)


def main(control: int, verdict: int, parent: int) -> NoReturn:
    guarded(control, lambda: sandbox(control, verdict, parent))
