"""The journal: a zeroth-order fine-tune as the list of its updates, replayed bit for bit on the initial tensors.

File layout, little endian:

    8 bytes   magic "ZOFOJ\\x00\\r\\n"
    u32       length of the header, then the header (JSON, UTF-8), then u32 CRC-32 of the header
    records   u32 length of the body | body | u32 CRC-32 of the body
    body      u32 step | f64 rate | i8 outcome | u16 number of terms | terms: u64 seed, f32 coefficient | payload

One update with one direction takes 35 bytes. A record with outcome SUPPORT is no update: its payload is the support of
the directions from its step on (`Support.pack`). The file only grows; a torn tail is cut when it is opened.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zofo.zo.support import Support

MAGIC = b"ZOFOJ\x00\r\n"
FORMAT = 2
READS = (1, 2)  # 1 had no supports
_HEAD = struct.Struct("<IdbH")
_TERM = struct.Struct("<Qf")
_U32 = struct.Struct("<I")


class JournalError(ValueError):
    """The file is no journal, or does not belong to this model."""


class Outcome(IntEnum):
    """What a rule did: moved against the estimate, stayed, moved along it (conservative), or never tried (skipped).

    SUPPORT: no update, a support.
    """

    REVERSED = -1
    STAYED = 0
    APPLIED = 1
    SKIPPED = 2
    SUPPORT = 3


@dataclass(frozen=True)
class Record:
    """One update of theta: the estimate's terms (seed, fp32 coefficient), the rate, and what the rule made of it."""

    step: int
    terms: tuple[tuple[int, float], ...]
    rate: float
    outcome: Outcome = Outcome.APPLIED
    payload: bytes = b""

    def pack(self) -> bytes:
        head = _HEAD.pack(self.step, self.rate, int(self.outcome), len(self.terms))
        body = head + b"".join(_TERM.pack(*term) for term in self.terms) + self.payload
        return _U32.pack(len(body)) + body + _U32.pack(zlib.crc32(body))

    @classmethod
    def unpack(cls, body: bytes) -> Record:
        step, rate, outcome, count = _HEAD.unpack_from(body)
        terms = tuple(_TERM.unpack_from(body, _HEAD.size + i * _TERM.size) for i in range(count))
        return cls(step, terms, rate, Outcome(outcome), bytes(body[_HEAD.size + count * _TERM.size :]))


class Journal:
    """An open journal file. `position` is the offset behind its last whole record."""

    def __init__(self, path: Path, header: dict[str, Any], start: int, position: int) -> None:
        self.path, self.header, self.start, self.position = path, header, start, position
        self._file = path.open("r+b", buffering=0)
        self._file.truncate(position)  # a torn tail, or records beyond a checkpoint
        self._file.seek(position)

    @classmethod
    def create(cls, path: Path, header: dict[str, Any]) -> Journal:
        """A new journal. header: see docs/journal.md; `format` is added here."""
        raw = json.dumps({"format": FORMAT, **header}, sort_keys=True).encode()
        path.write_bytes(MAGIC + _U32.pack(len(raw)) + raw + _U32.pack(zlib.crc32(raw)))
        return cls.open(path)

    @classmethod
    def open(cls, path: Path, position: int | None = None) -> Journal:
        """Open for appending; records behind `position` (a checkpoint's) and a torn tail are cut.

        Raises JournalError when the header is damaged, or when the file ends before `position`.
        """
        header, start = read_header(path)
        end = start
        for _, stop in _scan(path, start):
            if end == position:
                break
            end = stop
        if position is not None and end != position:
            raise JournalError(f"{path}: ends at byte {end}, but the checkpoint needs its first {position} bytes")
        return cls(path, header, start, end)

    def append(self, record: Record) -> None:
        """Write one record to the operating system at once; `sync` brings it to the disk."""
        raw = record.pack()
        written = self._file.write(raw)
        if written != len(raw):  # a full disk may take a part: cut it, so that the file stays whole
            self._file.truncate(self.position)
            raise OSError(28, "no space left on device", str(self.path))
        self.position += len(raw)

    def append_support(self, step: int, support: Support) -> None:
        """Write the support of the directions from this step on."""
        self.append(Record(step, (), 0.0, Outcome.SUPPORT, support.pack()))

    def records(self, start: int | None = None, stop: int | None = None) -> Iterator[Record]:
        """The records between two byte positions (default: all)."""
        return read_records(self.path, self.start if start is None else start, self.position if stop is None else stop)

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class Records:
    """Where a run's updates and supports are written: nowhere, until its journal is open."""

    def __init__(self) -> None:
        self.journal: Journal | None = None

    def open(self, journal: Journal) -> None:
        """From now on records go into this journal."""
        self.journal = journal

    def append(self, record: Record) -> None:
        if self.journal is not None:
            self.journal.append(record)

    def append_support(self, step: int, support: Support) -> None:
        """The support of the directions from this step on."""
        if self.journal is not None:
            self.journal.append_support(step, support)


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """(header, offset of the first record). Raises JournalError."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise JournalError(f"{path}: not a zofo journal")
        size = file.read(4)
        raw = file.read(_U32.unpack(size)[0]) if len(size) == 4 else b""
        crc = file.read(4)
        if len(crc) != 4 or _U32.unpack(crc)[0] != zlib.crc32(raw):
            raise JournalError(f"{path}: the journal's header is damaged")
        header = json.loads(raw)
        if header.get("format") not in READS:
            raise JournalError(f"{path}: journal format {header.get('format')}, this zofo reads 1 and 2")
        return header, file.tell()


def read_records(path: Path, start: int, stop: int | None = None) -> Iterator[Record]:
    """Whole records from byte `start` to byte `stop`, or to the first torn one.

    Raises JournalError when they do not reach `stop`: a shorter replay would give another theta without a word.
    """
    end = start
    for record, after in _scan(path, start):
        if end == stop:
            break
        yield record
        end = after
    if stop is not None and end != stop:
        raise JournalError(f"{path}: damaged behind byte {end}, its first {stop} bytes are needed")


def _scan(path: Path, start: int) -> Iterator[tuple[Record, int]]:
    whole = path.stat().st_size
    with path.open("rb") as file:
        file.seek(start)
        while len(size := file.read(4)) == 4:
            length = _U32.unpack(size)[0]
            body = file.read(length) if length <= whole else b""
            crc = file.read(4)
            if len(body) != length or len(crc) != 4 or _U32.unpack(crc)[0] != zlib.crc32(body):
                return
            if length < _HEAD.size:  # a tail of zeros, as a crash leaves it, has the checksum of an empty body
                return
            yield Record.unpack(body), file.tell()
