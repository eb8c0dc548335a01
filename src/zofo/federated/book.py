"""The server's directory, which is a run's: config.yaml, journal.bin, metrics.jsonl, run.json at the end. No torch."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from zofo.config.instantiate import make_method
from zofo.config.journal_header import header_of
from zofo.config.json_text import dumps
from zofo.errors import InputError, printable
from zofo.federated.settings import Settings
from zofo.train.ending import Ending
from zofo.train.files import naming
from zofo.train.lease import Lease
from zofo.train.run_dir import RunDir
from zofo.zo.journal import Journal, Outcome, Record, read_header, scan

KEPT = "federation"  # in the manifest: what the federation goes on with
MARK = "zofo| "  # before what people are told, which Flower's programs say among other things
FILE = "federation.yaml"  # beside the run, which is not its owner: the settings of who runs it here


class Book:
    """`with Book(settings, root) as book`. round: the next one; position: bytes of the journal; begun: whether there is
    one. Raises InputError where the directory holds something else, or the settings are not those of its journal."""

    def __init__(self, settings: Settings, root: Path) -> None:
        self.settings, self.root = settings, root
        self.journal: Journal | None = None
        self.base, self.round = b"", 0
        self._crc = {0: 0}  # of the journal's bytes up to each border
        self._stack = ExitStack()

    def __enter__(self) -> Book:
        lease = self._stack.enter_context(Lease(self.root))
        with ExitStack() as undo:
            undo.callback(self._stack.close)
            self.run = RunDir(self.root, lease.check)
            self._open()
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        if self.journal is not None:
            self.journal.sync()
            self.journal.close()
        self._stack.close()

    @property
    def begun(self) -> bool:
        return self.journal is not None

    @property
    def position(self) -> int:
        return 0 if self.journal is None else self.journal.position

    def read(self, start: int) -> bytes:
        """The journal's bytes from there on."""
        if self.journal is None:
            return b""
        with self.journal.path.open("rb") as file:
            file.seek(start)
            return file.read(self.journal.position - start)

    def stands(self, position: int, crc: int) -> bool:
        """Whether a client's copy of so many bytes, with this checksum, is the beginning of the journal."""
        return position in self._crc and self._crc[position] == crc

    def begin(self, listed: bytes, base: bytes, settings: Settings) -> bool:
        """The journal of these tensors, as a client lists them; False where the list is not that of the base model."""
        try:
            tensors = json.loads(listed)
            lines = sorted((tensor["name"], tensor["sha256"]) for tensor in tensors)
        except (ValueError, TypeError, KeyError):
            return False
        if hashlib.sha256("".join(f"{name} {one}\n" for name, one in lines).encode()).digest() != base:
            return False
        with naming(path := self.run.claim(self.run.journal)):
            self.journal = Journal.create(path, header_of(settings.run, tensors, "backbone"))
        self.base = base
        self._crc[self.journal.position] = self.journal.crc
        return True

    def append(self, record: Record) -> None:
        assert self.journal is not None
        with naming(self.journal.path):
            self.journal.append(record)
            self.journal.sync()  # what clients are told must outlive a loss of power here
        self._crc[self.journal.position] = self.journal.crc
        self.round = record.step + 1

    def log(self, event: str, round: int, **values: Any) -> None:
        with naming(self.run.metrics):
            self._metrics.write(dumps({"event": event, "step": round, **values}) + "\n")
            self._metrics.flush()

    def say(self, line: str) -> None:
        """For people, a line."""
        print(f"{MARK}{printable(line, 400)}", file=sys.stderr, flush=True)

    def finish(self, clients: Iterable[str]) -> None:
        """run.json: what makes it a run that can be opened, theta alone; and what all rounds took, of all processes
        that this server was. clients: who is there at the end."""
        lines = [json.loads(line) for line in self.run.metrics.read_text("utf-8").splitlines()]
        taken = {key: sum(line.get(key, 0) for line in lines) for key in ("bytes_down", "bytes_up", "late")}
        told = {"clients": sorted(clients), **taken}
        info = info_of(self.settings, self.round, self.round, self.position, self.base.hex(), "theta")
        info["federation"] = dataclasses.asdict(self.settings.federation) | told
        self.run.write_tree(self.run.best(self.round), lambda _: {})  # theta alone, which the journal is
        self.run.write_info(info)

    def _open(self) -> None:
        if self.run.ours() and self.run.journal.is_file():
            self._go_on()
        else:
            if foreign := self.run.foreign():
                raise InputError(f"{foreign[0]}: not this federation's, and in the way of its files; move it away")
            self.run.clear()
            self.run.begin({})
            self.run.manifest[KEPT] = self._kept()
            self.run.keep()
            config = self.settings.run
            self.run.write_config(dataclasses.replace(config, train=dataclasses.replace(config.train, output_dir=".")))
        self._metrics = self._stack.enter_context(self.run.claim(self.run.metrics).open("a", encoding="utf-8"))

    def _go_on(self) -> None:
        path = self.run.journal
        header, end = read_header(path)
        if faults := list(self._other()):
            raise InputError("\n".join(faults))
        lines = sorted((tensor["name"], tensor["sha256"]) for tensor in header["tensors"])
        self.base = hashlib.sha256("".join(f"{name} {one}\n" for name, one in lines).encode()).digest()
        with path.open("rb") as file:
            file.seek(end - 4)
            self._crc = {0: 0, end: int.from_bytes(file.read(4), "little")}  # the header's own checksum
        for record, border in scan(path):
            if record.outcome is Outcome.APPLIED:
                self.round = record.step + 1
            self._crc[border.offset] = border.crc
        self.journal = Journal.open(path)
        if (log := self.run.metrics).is_file():
            text = log.read_bytes()
            os.truncate(log, text.rfind(b"\n") + 1)  # a line that a kill cut

    def _kept(self) -> dict[str, Any]:
        simulated = {key: getattr(self.settings.simulation, key) for key in ("clients", "alpha")}
        return self.settings.alike() | {"simulate": simulated}

    def _other(self) -> Iterator[str]:
        """Settings in which this command is not the federation that the directory holds."""
        before, now = self.run.manifest.get(KEPT, {}), self._kept()
        for section in before:
            for key in sorted({*before[section], *now[section]}):
                there, here = before[section].get(key), now[section].get(key)
                if there != here:
                    yield f"{section}.{key}: the federation in {self.root} has {there!r}, this command {here!r}"


def info_of(
    settings: Settings, rounds: int, count: int, position: int, base_sha256: str, deployed: str
) -> dict[str, Any]:
    """run.json of server and clients. count: of the `best` that it names."""
    config, method = settings.run, make_method(settings.run)
    return {
        "zofo": importlib.metadata.version("zofo"),
        "format": 1,
        "method": config.names["method"],
        "adapter": None if deployed == "theta" else config.names.get("adapter"),
        "task": Path(config.task.title).stem,
        "model": config.model.name,
        "seed": config.train.seed,
        "steps": method.updates(rounds),
        "best_step": count,
        "journal_position": position,
        "dev": {},
        "test": {name: {} for name in dict.fromkeys((deployed, *(() if deployed == "theta" else method.candidates)))},
        "deployed": deployed,
        "tasks": None,
        "base_sha256": base_sha256,
        "federation": dataclasses.asdict(settings.federation),
        "config_hash": config.hash(),
        "outcome": Ending("finished", step=rounds, of=rounds).to_dict(),
    }
