"""What a fork of this process came to, as a code and a text."""

from __future__ import annotations

import contextlib
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path


def in_a_process(act: Callable[[], int], seconds: float = 300) -> tuple[int, str]:
    """(exit code, or minus the signal's number; what it wrote) of `act` in a fork of this process."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        shown, code = io.StringIO(), 99
        try:
            with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
                signal.alarm(int(seconds))
                code = act()
        except BaseException as error:  # told to the parent
            shown.write(repr(error))
        os.write(write, shown.getvalue()[-4000:].encode())
        os._exit(code)
    os.close(write)
    text = b""
    while chunk := os.read(read, 65536):
        text += chunk
    os.close(read)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text.decode("utf-8", "replace")


def files_of(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
