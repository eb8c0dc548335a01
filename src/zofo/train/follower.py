"""The files of a run as a rank sees them that does not write them: it reads what rank 0 wrote, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zofo.config.resolve import Config
from zofo.train.record import Metrics, MetricsLog
from zofo.train.run_dir import RunDir
from zofo.train.trees import Write
from zofo.zo.journal import Border, Journal


class FollowedDir(RunDir):
    """A run's directory of which nothing is written. The manifest is read anew, as rank 0 has it."""

    @property
    def manifest(self) -> dict[str, Any]:
        self._manifest = None
        return super().manifest

    def clear(self) -> None: ...

    def sweep(self) -> None: ...

    def begin(self, inputs: Mapping[str, Any]) -> None: ...

    def keep(self) -> None: ...

    def claim(self, path: Path) -> Path:
        return path

    def set_aside(self, count: int, used: Path | None) -> list[str]:
        return []

    def drop_superseded(self) -> None: ...

    def write(self, name: str, text: str) -> None: ...

    def write_config(self, config: Config) -> None: ...

    def write_info(self, info: Mapping[str, Any]) -> None: ...

    def write_readme(self, text: str) -> None: ...

    def write_tree(self, directory: Path, write: Write) -> None: ...

    def forget(self, directory: Path) -> None: ...


class FollowedJournal(Journal):
    """The records of a run whose file rank 0 writes: where the journal stands, and its checksum."""

    def __init__(self, path: Path, header: dict[str, Any], end: Border) -> None:
        self.path, self.header = path, header
        self.position, self.crc, self.number = end.offset, end.crc, end.number

    def _write(self, raw: bytes) -> None: ...

    def sync(self) -> None: ...

    def close(self) -> None: ...


def metrics_log(run: RunDir, position: int | None, leads: bool) -> Metrics:
    """metrics.jsonl, which rank 0 writes, from a checkpoint's place in it on."""
    return MetricsLog(run.claim(run.metrics), position) if leads else NoMetrics()


class NoMetrics(Metrics):
    """metrics.jsonl of a rank that does not write it."""

    def write(self, event: str, step: int, **values: Any) -> None: ...

    def sync(self) -> int:
        return 0

    def close(self) -> None: ...
