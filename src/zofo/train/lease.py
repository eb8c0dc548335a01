"""One process at a time writes a directory. The lock is a file, so it holds between machines that share the directory.

Its holder touches it every BEAT seconds. A process of this machine that is gone has left a stale lock; of another
machine's it is known by not being touched for PATIENCE seconds, as seen from here, whatever the clocks say.
"""

from __future__ import annotations

import glob
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from zofo.config.json_text import dumps
from zofo.errors import InputError, RunError
from zofo.train.files import make_directory, naming

NAME = ".lock"
BEAT, PATIENCE = 5.0, 30.0


class Lease:
    """`with Lease(directory):` inside, no other process that asks has it. Raises InputError naming one that does.

    inside: whether the lock is in the directory; else it is beside it, of one that is not there yet.
    """

    def __init__(self, directory: Path, inside: bool = True) -> None:
        self.what, self.directory = directory, directory if inside else directory.parent
        self.path = self.directory / (NAME if inside else f".{directory.name}{NAME}")
        self.token = uuid.uuid4().hex
        self._stop = threading.Event()

    def __enter__(self) -> Lease:
        make_directory(self.directory)
        if _anothers(self.path):
            raise InputError(f"{self.path}: no lock of zofo's; move it away, or choose another directory")
        while not self._create():
            self._remove(self._stale().get("token"))
        threading.Thread(target=self._beat, name="zofo lease", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        with suppress(OSError):
            self._remove(self.token)

    @property
    def held(self) -> bool:
        """Whether the lock is still this process's: it may have slept for longer than others wait."""
        return _read(self.path).get("token") == self.token

    def check(self) -> None:
        """Before something is written. Raises RunError where the directory is another's by now."""
        if not self.held:
            other = _read(self.path)
            raise RunError(
                f"{self.what}: {_named(other) if other else 'another process'} has taken over this directory, "
                f"because this one seemed dead; stopped, nothing more was written"
            )

    def _create(self) -> bool:
        """The lock with its contents, at once, or not at all."""
        content = {"token": self.token, "host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        draft = self.path.with_name(f"{self.path.name}.{self.token}")
        try:
            with naming(draft), draft.open("w", encoding="utf-8") as file:
                file.write(dumps({**content, "born": _born(os.getpid())}))
                file.flush()
                os.fsync(file.fileno())  # a lock that a power cut emptied names nobody, so it is waited for
            return self._put(draft)
        finally:
            with suppress(OSError):  # the next holder takes it away
                draft.unlink(missing_ok=True)

    def _put(self, draft: Path) -> bool:
        try:
            os.link(draft, self.path)
        except FileExistsError:
            return False
        except FileNotFoundError:  # the draft was taken for a dead process's
            return False
        except OSError:  # a file system without hard links
            try:
                handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                return False
            with naming(self.path), os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(draft.read_text("utf-8"))
        return True

    def _stale(self) -> dict[str, Any]:
        """The contents of a lock whose holder is gone. Raises InputError where it is not."""
        holder, touched = _read(self.path), _touched(self.path)
        if touched is None:  # let go of in between
            return holder
        if not (_alive(holder) if _is_here(holder) else _is_touched(self.path, touched)):
            return holder
        raise _in_use(self.what, _named(holder))

    def _remove(self, token: str | None) -> None:
        """Take away the lock with this token, and no other: of two that find one stale, the second finds the first's.

        Locks are taken away one at a time, and made only where there is none.
        """
        with _alone(self.directory):
            if _read(self.path).get("token") == token:
                self.path.unlink(missing_ok=True)
                drafts = self.directory.glob(f"{glob.escape(self.path.name)}.*")
                for draft in drafts:  # of a process that died as it asked
                    if of_a_lock(draft.name):
                        draft.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            with suppress(OSError):
                if self.held:
                    os.utime(self.path)


def of_a_lock(name: str) -> bool:
    """Whether a file of this name is a lock, or the draft that a process left which died, or lost its disk, with it."""
    return re.fullmatch(rf"(\..+)?{re.escape(NAME)}(\.[0-9a-f]{{32}})?", name) is not None


def holder(directory: Path, inside: bool = True, here: bool = False) -> str | None:
    """Who writes this directory now, in words; None where nobody does. Nothing is waited for and nothing written.

    Of another machine's lock the time of its last touch is compared with this machine's clock. inside: as of `Lease`.
    here: processes of this machine alone, of which it is certain.
    """
    path = directory / NAME if inside else directory.parent / f".{directory.name}{NAME}"
    content, touched = _read(path), _touched(path)
    if touched is None or not content.get("token"):
        return None
    if _is_here(content):
        return _named(content) if _alive(content) else None
    return _named(content) if not here and abs(time.time() - touched / 1e9) < PATIENCE else None


def refuse_in_use(directory: Path, inside: bool = True, here: bool = False) -> None:
    """Raises InputError where another process writes this directory: before anything else is said of it."""
    if (who := holder(directory, inside, here)) is not None:
        raise _in_use(directory, who)


def _in_use(what: Path, who: str) -> InputError:
    return InputError(f"{what}: in use by {who}; wait for it to end, or choose another directory")


def _is_here(content: dict[str, Any]) -> bool:
    """Whether it is a lock of this machine, whose processes can be looked at."""
    return content.get("host") == socket.gethostname() and isinstance(content.get("pid"), int)


def _alive(content: dict[str, Any]) -> bool:
    """Of a lock of this machine."""
    return _born(content["pid"]) == content.get("born")


def _is_touched(path: Path, before: int) -> bool:
    """Whether somebody touches another machine's lock, or one that cannot be read, within PATIENCE."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        time.sleep(min(1.0, PATIENCE / 10))
        if _touched(path) != before:
            return True
    return False


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """No two processes are in here for one directory at once, where the system has such locks; the dead hold none."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without them
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _anothers(path: Path) -> bool:
    """Whether a file of this name is no lock, nor the beginning of one or the zeros that a crash left."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    except OSError:
        return not path.is_file()
    begin = b'{"token": "'
    torn = not content.strip(b"\0") or content[: len(begin)] == begin[: len(content)]
    return not torn and "token" not in _read(path)


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
    """When a process of this machine began, so that a number that was given again is not taken for it. None for one
    that has died and whose parent has not asked how: in a container often nobody does."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def _named(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    since = datetime.fromtimestamp(holder.get("since", 0)).strftime("%Y-%m-%d %H:%M:%S")
    return f"process {holder.get('pid')} on {holder.get('host')} since {since}"
