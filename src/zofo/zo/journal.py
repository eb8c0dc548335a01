"""The journal: a zeroth-order fine-tune as the list of its updates, replayed bit for bit on the initial tensors.

File layout, little endian:

    8 bytes   magic "ZOFOJ\\x00\\r\\n"
    u32       length of the header, then the header (JSON, UTF-8), then u32 CRC-32 of the header
    records   u32 length of the body | body | u32 CRC-32 of length and body, which goes on from the one before it
    body      u32 step | f64 rate | i8 outcome | u16 number of terms | terms: u64 seed, f32 coefficient | payload

One update with one direction takes 35 bytes. A record with outcome SUPPORT is no update: its payload is the support of
the directions from its step on (`Support.pack`). The file only grows; a torn tail is cut when it is opened. The
checksums are a chain that begins with the header's, so a record fits behind its own predecessor alone: one that is
missing, doubled, swapped or another journal's is noticed at its place. In formats 1 and 2 each record has a CRC-32 of
its body alone; there the order of the steps, and the seeds that follow from them, are looked at.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from zofo.zo.header import fault
from zofo.zo.keys import derive

if TYPE_CHECKING:
    from zofo.zo.support import Support

MAGIC = b"ZOFOJ\x00\r\n"
FORMAT = 3
READS = (1, 2, 3)  # 1 had no supports, 1 and 2 no chain
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

    def pack(self, before: int | None) -> bytes:
        """With length and checksum. before: the checksum that this one goes on from; None: it stands alone."""
        head = _HEAD.pack(self.step, self.rate, int(self.outcome), len(self.terms))
        body = head + b"".join(_TERM.pack(*term) for term in self.terms) + self.payload
        return _U32.pack(len(body)) + body + _U32.pack(_checksum(body, before))

    @classmethod
    def unpack(cls, body: bytes) -> Record:
        step, rate, outcome, count = _HEAD.unpack_from(body)
        terms = tuple(_TERM.unpack_from(body, _HEAD.size + i * _TERM.size) for i in range(count))
        return cls(step, terms, rate, Outcome(outcome), bytes(body[_HEAD.size + count * _TERM.size :]))


@dataclass(frozen=True)
class Border:
    """Between two records. number: of the records before it; offset: in bytes; crc: the checksum that stands there."""

    number: int
    offset: int
    crc: int


class Journal:
    """An open journal file. `position`: behind its last whole record; `crc`: its checksum; `number`: of records."""

    def __init__(self, path: Path, header: dict[str, Any], end: Border) -> None:
        """end: where to go on; what lies behind it is cut: a torn tail, or records beyond a checkpoint."""
        self.path, self.header, self.position, self.crc = path, header, end.offset, end.crc
        self.number = end.number
        os.truncate(path, self.position)  # by its name, which an error then has
        self._file = path.open("r+b", buffering=0)
        self._file.seek(self.position)

    @classmethod
    def create(cls, path: Path, header: dict[str, Any]) -> Journal:
        """A new journal. header: see docs/journal.md; `format` is added here."""
        raw = json.dumps({"format": FORMAT, **header}, sort_keys=True).encode()
        path.write_bytes(MAGIC + _U32.pack(len(raw)) + raw + _U32.pack(zlib.crc32(raw)))
        return cls.open(path)

    @classmethod
    def open(cls, path: Path, position: int | None = None, crc: int | None = None) -> Journal:
        """Open for appending, in the file's own format; records behind `position` (a checkpoint's) and a torn tail go.
        crc: the checksum that ended there, by which another journal of the same length is known. Raises JournalError,
        with the file as it was, when the header or a record before the tail is damaged, or it ends before `position`.
        """
        header, end = _read_header(path)
        for _, border in scan(path, position):
            end = border
        if crc not in (None, end.crc):
            raise JournalError(f"{path}: up to byte {end.offset} it is another run's journal; put back this run's")
        return cls(path, header, end)

    def append(self, record: Record) -> None:
        """Write one record to the operating system at once; `sync` brings it to the disk."""
        raw = record.pack(self.crc if _chained(self.header) else None)
        self._write(raw)
        self.position += len(raw)
        self.number += 1
        (self.crc,) = _U32.unpack(raw[-_U32.size :])

    def _write(self, raw: bytes) -> None:
        if self._file.write(raw) != len(raw):  # a full disk may take a part: cut it, so that the file stays whole
            self._file.truncate(self.position)
            raise OSError(28, "no space left on device", str(self.path))

    def append_support(self, step: int, support: Support) -> None:
        """Write the support of the directions from this step on."""
        self.append(Record(step, (), 0.0, Outcome.SUPPORT, support.pack()))

    def records(self) -> Iterator[Record]:
        """All of them, up to `position`."""
        return (record for record, _ in scan(self.path, self.position))

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
    header, border = _read_header(path)
    return header, border.offset


def _read_header(path: Path) -> tuple[dict[str, Any], Border]:
    """(header, the border before the first record). Raises JournalError."""
    with path.open("rb") as file:
        if not MAGIC.startswith(begin := file.read(len(MAGIC))):
            raise JournalError(f"{path}: not a zofo journal")
        size = file.read(4)
        raw, crc = file.read(_U32.unpack(size)[0]) if len(size) == 4 else b"", file.read(4)
        if len(crc) != 4 or _U32.unpack(crc)[0] != zlib.crc32(raw):
            raise JournalError(f"{path}: {fault(begin, size, raw, crc)}; put back a copy of the file")
        header = json.loads(raw)
        if (number := header.get("format") if isinstance(header, dict) else None) not in list(READS):
            raise JournalError(f"{path}: journal format {number!r:.40}, this zofo reads 1 to {FORMAT}")
        if not _lists_tensors(header):
            raise JournalError(f"{path}: the journal's header is damaged, its tensors; put back a copy of the file")
        return header, Border(0, file.tell(), zlib.crc32(raw))


def _lists_tensors(header: dict[str, Any]) -> bool:
    tensors = header.get("tensors", [])
    listed = isinstance(tensors, list) and all(isinstance(tensor, dict) for tensor in tensors)
    return listed and all(isinstance(t.get(key), str) for t in tensors for key in ("name", "sha256", "dtype"))


def read_records(path: Path, start: int, stop: int | None = None) -> Iterator[Record]:
    """Whole records from byte `start` to byte `stop`, or to the first torn one. Those before `start` are checked too.

    Raises JournalError for a record before the tail that is damaged or not the one that was written there, and when the
    records do not reach `stop`: a shorter replay would give another theta without a word.
    """
    before = _read_header(path)[1].offset
    for record, border in scan(path, stop):
        if before >= start:
            yield record
        before = border.offset


def scan(path: Path, stop: int | None = None) -> Iterator[tuple[Record, Border]]:
    """As `read_records`: each with the border behind it."""
    header, border = _read_header(path)
    order = None if _chained(header) else _Order(header.get("seed"))
    with path.open("rb") as file:
        file.seek(border.offset)
        while border.offset != stop:
            read = _next(file, border if _chained(header) else None)
            if read is None:
                _check_tail(path, file, border, stop, _chained(header))
                return
            record, crc = read
            if order is not None and not order.fits(record):
                raise _damaged(path, border)
            border = Border(border.number + 1, file.tell(), crc)
            yield record, border


def _next(file: BinaryIO, border: Border | None) -> tuple[Record, int] | None:
    """(the record at the file's place, its checksum); None where there is no whole one. border: of a chain."""
    head = file.read(_U32.size)
    length = _U32.unpack(head)[0] if len(head) == _U32.size else 0
    # A tail of zeros, as a crash leaves it, would have the checksum of an empty body
    if not _HEAD.size <= length <= os.fstat(file.fileno()).st_size:
        return None
    body, crc = file.read(length), file.read(_U32.size)
    if len(crc) != _U32.size or _U32.unpack(crc)[0] != _checksum(body, border.crc if border else None):
        return None
    try:
        return Record.unpack(body), _U32.unpack(crc)[0]
    except (ValueError, struct.error):  # a right checksum of what no zofo writes
        return None


def _check_tail(path: Path, file: BinaryIO, border: Border, stop: int | None, chained: bool) -> None:
    """Where the whole records end: raises JournalError unless a crash can have left what follows."""
    file.seek(border.offset)
    rest = file.read()
    if not _torn(rest, border.crc if chained else None):
        raise _damaged(path, border)
    if stop is not None:
        raise JournalError(
            f"{path}: ends at byte {border.offset}, before record {border.number}, and its first {stop} bytes are "
            f"needed; put back a copy of the file"
        )


def _damaged(path: Path, border: Border) -> JournalError:
    return JournalError(
        f"{path}: record {border.number} at byte {border.offset} is damaged, or not the one that was written there; "
        f"put back a copy of the file"
    )


def _torn(rest: bytes, before: int | None) -> bool:
    """Whether a crash can have left this behind whole records: less than a record, or zeros up to the end, and nothing
    whole in it. before: the checksum that a chain has here; None: each stands alone."""
    least = 2 * _U32.size + _HEAD.size
    if len(rest) < least:
        return True
    if _U32.unpack_from(rest)[0] + 2 * _U32.size <= len(rest) and any(rest[-_U32.size :]):
        return False
    if _U32.unpack(rest[-_U32.size :])[0] == _checksum(rest[_U32.size : -_U32.size], before):  # its length is wrong
        return False
    return not any(_whole_at(rest, at, before is not None) for at in range(_U32.size, len(rest) - least + 1))


def _whole_at(rest: bytes, at: int, chained: bool) -> bool:
    """Whether a record begins there; one of a chain goes on from the checksum just before it."""
    (length,) = _U32.unpack_from(rest, at)
    end = at + _U32.size + length
    if length < _HEAD.size or end + _U32.size > len(rest):
        return False
    _, _, outcome, count = _HEAD.unpack_from(rest, at + _U32.size)
    if length != _HEAD.size + _TERM.size * count and (outcome, count) != (Outcome.SUPPORT, 0):
        return False
    before = _U32.unpack_from(rest, at - _U32.size)[0] if chained else None
    return _U32.unpack_from(rest, end)[0] == _checksum(rest[at + _U32.size : end], before)


def _chained(header: Mapping[str, Any]) -> bool:
    return header["format"] >= 3


def _checksum(body: bytes, before: int | None) -> int:
    """Of a record. before: the checksum that it goes on from; None: of its body alone, as in formats 1 and 2."""
    return zlib.crc32(body) if before is None else zlib.crc32(_U32.pack(len(body)) + body, before)


class _Order:
    """What is known of records that are no chain: steps follow one another, and a step's first seed follows from it."""

    def __init__(self, seed: int | None) -> None:
        """seed: the run's; None: not known."""
        self._seed = seed
        self._last: Record | None = None

    def fits(self, record: Record) -> bool:
        """Whether it can follow the record of the call before."""
        if record.outcome is Outcome.SUPPORT:
            return True
        last, self._last = self._last, record
        if last is not None:
            again = last.outcome is Outcome.SKIPPED and record.step == last.step  # an optimizer's step is tried again
            if record.step != last.step + 1 and not again:
                return False
        return self._seed is None or not record.terms or record.terms[0][0] == derive(self._seed, "z", record.step)
