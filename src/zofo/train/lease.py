"""One process at a time writes a directory. The lock is a file, so it holds between machines that share the directory.

Its holder touches it every BEAT seconds. A process of this machine that is gone has left a stale lock; of another
machine's it is known by not being touched for PATIENCE seconds, as seen from here, whatever the clocks say.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from zofo.errors import InputError, RunError

NAME = ".lock"
BEAT, PATIENCE = 5.0, 30.0


class Lease:
    """`with Lease(directory):` inside, no other process that asks has it. Raises InputError naming one that does."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.path = directory, directory / NAME
        self.token = uuid.uuid4().hex
        self._stop = threading.Event()

    def __enter__(self) -> Lease:
        self.directory.mkdir(parents=True, exist_ok=True)
        while not self._create():
            self._take_over(self._stale())
        threading.Thread(target=self._beat, name="zofo lease", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self.held:
            with suppress(OSError):
                self.path.unlink()

    @property
    def held(self) -> bool:
        """Whether the lock is still this process's: it may have slept for longer than others wait."""
        return _read(self.path).get("token") == self.token

    def check(self) -> None:
        """Before something is written. Raises RunError where the directory is another's by now."""
        if not self.held:
            other = _read(self.path)
            raise RunError(
                f"{self.directory}: {_named(other) if other else 'another process'} has taken over this directory, "
                f"because this one seemed dead; stopped, nothing more was written"
            )

    def _create(self) -> bool:
        """The lock with its contents, at once, or not at all."""
        content = {"token": self.token, "host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        draft = self.directory / f"{NAME}.{self.token}"
        draft.write_text(json.dumps({**content, "born": _born(os.getpid())}), "utf-8")
        try:
            os.link(draft, self.path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            try:
                handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                return False
            with os.fdopen(handle, "w") as file:
                file.write(draft.read_text("utf-8"))
        finally:
            draft.unlink(missing_ok=True)
        return True

    def _stale(self) -> dict[str, Any]:
        """The contents of a lock whose holder is gone. Raises InputError where it is not."""
        holder, touched = _read(self.path), _touched(self.path)
        if holder.get("host") == socket.gethostname() and isinstance(holder.get("pid"), int):
            if _born(holder["pid"]) != holder.get("born"):
                return holder
        else:  # another machine's, or not readable
            until = time.monotonic() + PATIENCE
            while time.monotonic() < until:
                time.sleep(min(1.0, PATIENCE / 10))
                if _touched(self.path) != touched:
                    break
            else:
                return holder
        raise InputError(
            f"{self.directory}: in use by {_named(holder)}; wait for it to end, or choose another directory"
        )

    def _take_over(self, stale: dict[str, Any]) -> None:
        """Take the stale lock away; where it was taken over by another one in between, that one's is put back."""
        aside = self.directory / f"{NAME}.stale.{self.token}"
        with suppress(FileNotFoundError):
            os.rename(self.path, aside)
            if _read(aside).get("token") != stale.get("token"):
                with suppress(OSError):
                    os.link(aside, self.path)
            aside.unlink()

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            with suppress(OSError):
                if self.held:
                    os.utime(self.path)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _touched(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _born(pid: int) -> float | None:
    """When a process of this machine began, so that a number that was given again is not taken for it."""
    import psutil

    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def _named(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    since = datetime.fromtimestamp(holder.get("since", 0)).strftime("%Y-%m-%d %H:%M:%S")
    return f"process {holder.get('pid')} on {holder.get('host')} since {since}"
