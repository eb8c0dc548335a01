"""Math-Verify's opinion of an answer, asked of a process of its own.

The library bounds its time with SIGALRM, which works in a main thread alone, does not interrupt sympy inside one large
power, and would take the alarm from whoever uses it here. So it runs in a child, which is killed when it does not
answer in time; a child answers one text after the other and ends with its parent.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue

from zofo.errors import InputError

SECONDS = 15  # of one text: Math-Verify's own limits are 5 for a parse and 5 for a comparison
LONGEST = 100_000  # characters of a text that are read: its end, where the answer is
CHILD = Path(__file__).with_name("_math_child.py")


class _Child:
    """One process and a thread that reads its lines. Raises InputError where it cannot start."""

    def __init__(self) -> None:
        command = [sys.executable, "-P", str(CHILD)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, encoding="utf-8")
        self.lines: SimpleQueue[str] = SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        try:
            ready = self.lines.get(timeout=120)  # sympy is slow to import on a cold disk
        except Empty:
            ready = ""
        if ready != "ready":
            self.process.kill()
            raise InputError(f"task.metric: math_verify: the library does not start: {ready or 'no answer'}; {_FIX}")

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))
        self.lines.put("")  # it has ended

    def ask(self, text: str, gold: str) -> bool | None:
        """None where there is no answer in time, or the child has died of it."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps([text, gold]) + "\n")
            self.process.stdin.flush()
            line = self.lines.get(timeout=SECONDS)
        except (Empty, OSError):
            return None
        return {"True": True, "False": False}.get(line)


_FIX = 'pip install "zofo[math]", or take math_equal'
_lock = threading.Lock()
_children: list[_Child] = []  # one, or none yet


def require() -> None:
    """Raises InputError, naming the extra, where the library is missing."""
    if find_spec("math_verify") is None:
        raise InputError(f"task.metric: math_verify needs the library Math-Verify: {_FIX}")


def verified(text: str, gold: str) -> bool:
    """Whether Math-Verify finds the right answer in the text; one that it cannot decide in time is wrong."""
    require()
    with _lock:
        if not _children:
            _children.append(_Child())
        answer = _children[0].ask(text[-LONGEST:], gold[:LONGEST])
        if answer is None:
            _end()
    return bool(answer)


def _end() -> None:
    for child in _children:
        child.process.kill()
        child.process.wait()
    _children.clear()


atexit.register(_end)
