"""What `sandbox._child` asks of the Linux kernel: calls that Python 3.11 lacks, and the filter of system calls."""

from __future__ import annotations

import os
import struct
from typing import Any

NAMESPACES = {
    "user": 0x10000000,
    "PID": 0x20000000,
    "mount": 0x00020000,
    "network": 0x40000000,
    "IPC": 0x08000000,
    "UTS": 0x04000000,
}
NEWER = {  # calls that libc may not know; since Linux 5 a number is the same on every machine
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "mount_setattr": 442,
}
CURRENT_FOLDER, EMPTY_PATH, RECURSIVE = -100, 0x1000, 0x8000
READ_ONLY, NO_SETUID, NO_DEVICES = 1, 2, 4
NO_SETUID_MOUNT, NO_DEVICES_MOUNT, PRIVATE_MOUNT = 2, 4, 0x44000
DIE_WITH_PARENT, DUMPABLE, SECCOMP, DROP_FROM_BOUND, NO_NEW_RIGHTS = 1, 4, 22, 24, 38

# Calls refused to the program: number on x86_64, number on aarch64.
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
REFUSED = {
    # memory that belongs to no process, so that no limit counts it
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "vmsplice": (278, 75),  # a pipe would hold pages that their process has given back
    "sendmsg": (46, 211),  # so would a socket that is itself on its way in a message
    "sendmmsg": (307, 269),
    "setsockopt": (54, 208),  # larger buffers
    # the keys of the session outside: no namespace hides them
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # other processes, and the corners of the kernel that exploits come from
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
}
SOCKETS = {"socket": (41, 198), "socketpair": (53, 199)}
# None but pairs within the sandbox, as asyncio needs one: buffers are the kernel's memory, and vsock reaches the host
FAMILIES: dict[str, tuple[int, ...]] = {"socket": (), "socketpair": (1,)}
SOCKET_BYTES = 2 * 212_992  # of one end's buffer at its default size, at most


class Refused(Exception):
    """The kernel, or the machine, does not do what the sandbox needs."""


class Kernel:
    """The system calls that Python 3.11 lacks."""

    def __init__(self) -> None:
        import ctypes

        self.ctypes = ctypes
        self.libc = ctypes.CDLL(None, use_errno=True)

    def __call__(self, name: str, *args: Any, what: str = "") -> int:
        ctypes = self.ctypes
        words = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
        if name in NEWER:
            result = self.libc.syscall(ctypes.c_long(NEWER[name]), *words)
        else:
            result = getattr(self.libc, name)(*words)
        if result < 0:
            raise Refused(f"{name}{f' ({what})' if what else ''}: {os.strerror(ctypes.get_errno())}")
        return result


def filter_calls(kernel: Kernel) -> None:
    """Load the seccomp filter: refuse `REFUSED`, sockets but for pairs, and calls numbered as on other machines."""
    kill, allow, permission, family = 0x80000000, 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 97

    def load(offset: int) -> bytes:
        return struct.pack("HBBI", 0x20, 0, 0, offset)

    def give(verdict: int) -> bytes:
        return struct.pack("HBBI", 0x06, 0, 0, verdict)

    def equal(value: int, then: bytes) -> bytes:
        return struct.pack("HBBI", 0x15, 0, len(then) // 8, value) + then

    machine = os.uname().machine
    column = list(AUDIT).index(machine)
    code = load(4) + struct.pack("HBBI", 0x15, 1, 0, AUDIT[machine]) + give(kill)
    code += load(0) + struct.pack("HBBI", 0x35, 0, 1, 0x40000000) + give(permission)  # x32
    for numbers in REFUSED.values():
        code += equal(numbers[column], give(permission))
    for name, numbers in SOCKETS.items():
        known = b"".join(equal(number, give(allow)) for number in FAMILIES[name])
        code += equal(numbers[column], load(16) + known + give(family))
    code += give(allow)
    ctypes = kernel.ctypes
    text = ctypes.create_string_buffer(code, len(code))
    head = ctypes.create_string_buffer(struct.pack("HP", len(code) // 8, ctypes.addressof(text)))
    kernel("prctl", SECCOMP, 2, head, 0, 0, what="a filter of system calls")
