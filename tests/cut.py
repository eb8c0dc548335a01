"""A real process that is sent a real signal at a chosen place, whatever the load of the machine.

`cut(args, signal, call, holding, nth)` is the command of `zofo ARGS` which sends itself the signal right after the nth
call of `module:function` (or `module:Class.method`) whose arguments hold a text. A test that watches files from outside
and then sends a signal comes too late on a busy machine.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any


def cut(args: Sequence[str], sent: int, call: str, holding: str = "", nth: int = 1) -> list[str]:
    """The command, for subprocess. sent: the signal."""
    return [sys.executable, "-P", __file__, str(int(sent)), call, holding, str(nth), *args]


def main(sent: str, call: str, holding: str, nth: str, *args: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts tests in the background ignores it
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
    from zofo.cli.main import main as command_line

    sys.argv = ["zofo", *args]
    command_line()


if __name__ == "__main__":
    main(*sys.argv[1:])
