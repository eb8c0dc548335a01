"""A slow and lossy link between two network namespaces: each packet of one end comes to the other late, or not at all.

Root on Linux with /dev/net/tun. Nothing of the machine's own network is touched: both ends are devices inside the two
namespaces, and a process of this module carries packets from the one to the other.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

NAMES = ("zofo-a", "zofo-b")  # of the namespaces, and of the device in each
ADDRESSES = ("10.77.0.1", "10.77.0.2")
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
CLONE_NEWNET = 0x40000000


def carry(delay: float, loss: float) -> None:
    """Until it is ended: packets between the two ends, each direction `delay` seconds late, a share `loss` dropped."""
    ends, draw, waiting, number = [_open(name) for name in NAMES], random.Random(0), [], 0
    print("ready", flush=True)
    while True:
        due = waiting[0][0] - time.monotonic() if waiting else None
        for end in select.select(ends, [], [], None if due is None else max(0.0, due))[0]:
            packet, number = os.read(end, 65536), number + 1
            if draw.random() >= loss:
                heapq.heappush(waiting, (time.monotonic() + delay, number, ends[1 - ends.index(end)], packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, end, packet = heapq.heappop(waiting)
            os.write(end, packet)


def _open(name: str) -> int:
    """The device of a namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{name}", "rb") as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)
    end = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    return end


@contextmanager
def link(delay: float, loss: float) -> Iterator[None]:
    """Two namespaces, NAMES, at ADDRESSES. delay: seconds, in each direction. loss: the share of packets."""

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    carrier: subprocess.Popen[str] | None = None
    try:
        for name in NAMES:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "tuntap", "add", "dev", name, "mode", "tun")
        command = [sys.executable, "-m", "benchmarks._link", str(delay), str(loss)]
        carrier = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert carrier.stdout is not None
        carrier.stdout.readline()
        for name, own, other in zip(NAMES, ADDRESSES, reversed(ADDRESSES)):
            ip("-n", name, "addr", "add", own, "peer", other, "dev", name)
            ip("-n", name, "link", "set", name, "up")
        yield
    finally:
        if carrier is not None:
            carrier.kill()
            carrier.wait()
        for name in NAMES:
            subprocess.run(["ip", "netns", "del", name], check=False)


if __name__ == "__main__":
    carry(float(sys.argv[1]), float(sys.argv[2]))
