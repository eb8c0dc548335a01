"""Signals that ask a run to end: Ctrl-C, SIGTERM, and SIGHUP of a terminal that was closed."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def caught(handle: Callable[[int], None]) -> Iterator[None]:
    """Inside, a stop calls `handle` with its number. One that the process ignores, as under nohup, stays ignored; in
    another thread than the main one the caller's signals are none of our business."""

    def handler(number: int, frame: FrameType | None) -> None:
        handle(number)

    before = {}
    try:
        for number in STOPS:
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
