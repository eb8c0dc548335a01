"""Which rank is missing: what an exchange that fails, or that one does not come to, does not say by itself.

Every rank writes into torch's store, which the launcher holds, how many exchanges it has come to, every BEAT seconds,
and why it ends, if it does so before the others.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from typing import Any

import torch

from zofo.errors import Interrupted, RunError

BEAT = 1.0
LOOK = 5.0  # seconds in which a rank that ends has said why, and one that lives has been seen


class RollCall:
    """exchanges: how many this rank has come to."""

    def __init__(self, timeout: float) -> None:
        """timeout: seconds that an exchange waits for all to come."""
        self.timeout, self.exchanges = timeout, 0
        self.rank, self.size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        store: Any = torch.distributed.distributed_c10d._get_default_store()
        self._store, self._look = store.clone(), store.clone()  # one for each thread
        self._heard = ""  # what was said of another rank
        self._look.delete_key(f"zofo/{self.rank}/failed")  # of a call before this one
        self._beat()
        self._over = threading.Event()
        threading.Thread(target=self._beats, daemon=True, name="zofo-roll-call").start()

    def failed(self, error: BaseException) -> None:
        """This rank ends by it, before the others. What it ends by may itself be that another has ended."""
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        number = int(getattr(error, "number", signal.SIGINT)) if isinstance(error, KeyboardInterrupt) else None
        words = why if why == self._heard else f"rank {self.rank} ended: {why}"
        with suppress(RuntimeError):  # the store is gone, and with it whoever held it
            self._look.set(f"zofo/{self.rank}/failed", json.dumps([words, number]))

    def end(self) -> None:
        """This rank is seen no more."""
        self._over.set()

    def missing(self) -> BaseException | None:
        """What to end by: who is missing, in words, or the signal that ended another; None where nothing shows it."""
        self._heard, number = self._missing()
        if number is not None:
            return Interrupted(self._heard, number)
        return RunError(self._heard) if self._heard else None

    def _missing(self) -> tuple[str, int | None]:
        began = time.monotonic()
        others = [rank for rank in range(self.size) if rank != self.rank]
        try:
            before = {rank: self._seen(rank) for rank in others}
            while time.monotonic() - began < LOOK:
                for rank in others:
                    if self._look.check([f"zofo/{rank}/failed"]):
                        words, number = json.loads(self._look.get(f"zofo/{rank}/failed"))
                        return words, number
                time.sleep(0.2)
            after = {rank: self._seen(rank) for rank in others}
        except RuntimeError:
            return f"rank {self.rank}: the process that held the ranks together is gone, and with it rank 0", None
        gone = [rank for rank in others if before[rank]["beat"] == after[rank]["beat"]]
        late = [rank for rank in others if after[rank]["exchanges"] < self.exchanges]
        if gone:
            return "; ".join(f"{self._who(rank, after[rank])} is gone or stands still" for rank in gone), None
        if late:
            words = (
                f"{self._who(rank, after[rank])} did not come to exchange {self.exchanges} within {self.timeout:g} s "
                f"(parallel.timeout)"
                for rank in late
            )
            return "; ".join(words), None
        return "", None

    def _who(self, rank: int, seen: dict[str, Any]) -> str:
        return f"rank {rank} (process {seen['pid']} on {seen['host']})"

    def _seen(self, rank: int) -> dict[str, Any]:
        return json.loads(self._look.get(f"zofo/{rank}/seen"))

    def _beats(self) -> None:
        while not self._over.wait(BEAT):
            try:
                self._beat()
            except RuntimeError:
                return

    def _beat(self) -> None:
        who = {"pid": os.getpid(), "host": socket.gethostname(), "exchanges": self.exchanges, "beat": time.time()}
        self._store.set(f"zofo/{self.rank}/seen", json.dumps(who))
