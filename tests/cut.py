"""A real process that is sent a real signal at a chosen place, whatever the load of the machine.

`cut(signal, call, holding, nth, *args)` is `zofo ARGS`, to be run in a process (tests/forked.py), which sends itself
the signal right after the nth call of `module:function` (or `module:Class.method`) whose arguments hold a text. A test
that watches files from outside and then sends a signal comes too late on a busy machine.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from tests.forked import zofo_main


def cut(sent: str, call: str, holding: str, nth: str, *args: str) -> None:
    path, _, name = call.partition(":")
    owner: Any = import_module(path)
    *outer, name = name.split(".")
    for part in outer:
        owner = getattr(owner, part)
    original, left = getattr(owner, name), int(nth)

    def watched(*a: Any, **k: Any) -> Any:
        nonlocal left
        out = original(*a, **k)
        if holding in repr((a, k)):
            left -= 1
            if not left:
                os.kill(os.getpid(), int(sent))
        return out

    setattr(owner, name, watched)
    zofo_main(*args)
