"""The command line of federations in processes of their own, each start in a group that can be killed as a whole."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.conftest import ROOT

LIMIT = 900.0  # seconds that anything here may take; a question to a client of a deployment starts a process


class Started:
    """`zofo federated VERB ...`; what it prints is in `log`."""

    def __init__(self, log: Path, *args: str | Path) -> None:
        paths = os.pathsep.join((str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")))
        env = {**os.environ, "NO_COLOR": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        command = [sys.executable, "-m", "zofo", "federated", *map(str, args)]
        self.log, self.seen = log, dict[int, psutil.Process]()
        with log.open("ab") as file:
            self.process = subprocess.Popen(command, env=env, stdout=file, stderr=file, start_new_session=True)

    @property
    def text(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def tree(self) -> list[psutil.Process]:
        """Whatever it has started until now and is alive."""
        with suppress(psutil.Error):
            self.seen |= {one.pid: one for one in psutil.Process(self.process.pid).children(recursive=True)}
        return [one for one in self.seen.values() if one.is_running() and status(one) != psutil.STATUS_ZOMBIE]

    def until(self, so: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + LIMIT
        while not so():
            self.tree()
            assert self.process.poll() is None, f"ended with {self.process.poll()} before {what}: {self.text[-3000:]}"
            assert time.monotonic() < end, f"{what}: {self.text[-3000:]}"
            time.sleep(0.2)

    def wait(self) -> int:
        end = time.monotonic() + LIMIT
        while self.process.poll() is None and time.monotonic() < end:
            self.tree()
            time.sleep(0.2)
        return self.process.wait(1)

    def kill_group(self) -> None:
        """As a machine's owner does; what is in other sessions lives on, or not."""
        self.tree()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def kill_tree(self) -> None:
        """All at once, as where the power is cut."""
        for one in [*self.tree(), psutil.Process(self.process.pid)]:
            with suppress(psutil.Error):
                one.kill()
        self.process.wait(10)

    def gone(self, seconds: float = 30.0) -> bool:
        """Whether nothing of it is left, or will be before long."""
        end = time.monotonic() + seconds
        while self.tree() and time.monotonic() < end:
            time.sleep(0.2)
        return not self.tree()


@contextmanager
def started(log: Path, *args: str | Path) -> Iterator[Started]:
    one = Started(log, *args)
    try:
        yield one
    finally:
        one.kill_group()
        for left in () if one.gone() else one.tree():
            left.kill()


def status(process: psutil.Process) -> str:
    try:
        return process.status()
    except psutil.Error:
        return psutil.STATUS_ZOMBIE


def events(root: Path, event: str) -> list[dict[str, Any]]:
    path = root / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [line for line in (json.loads(text) for text in lines if text.endswith("}")) if line["event"] == event]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Recorder:
    """A TCP proxy on a port of its own: everything that passes is kept, each way of each connection apart."""

    def __init__(self, target: int) -> None:
        self.target, self.kept = target, list[bytearray]()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def bytes(self) -> int:
        return sum(len(kept) for kept in self.kept)

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self.target), timeout=5)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                for source, sink in ((near, far), (far, near)):
                    self.kept.append(kept := bytearray())
                    threading.Thread(target=self._pass, args=(source, sink, kept), daemon=True).start()

    @staticmethod
    def _pass(source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
        with suppress(OSError):
            while block := source.recv(65536):
                kept += block
                sink.sendall(block)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
