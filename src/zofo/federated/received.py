"""A client's copy of the server's journal: the same bytes, each checked behind the ones before it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from zofo.train.files import write_bytes
from zofo.zo.journal import Journal, JournalError, Outcome, Record, read_header

_U32 = struct.Struct("<I")


def begin(path: Path, raw: bytes) -> Journal:
    """The journal's first bytes: its header, and whatever records follow. Raises JournalError."""
    draft = path.with_name(f".{path.name}.new")
    write_bytes(draft, raw)
    try:
        header, start = read_header(draft)
    except JournalError as error:
        draft.unlink()
        raise JournalError(f"the server's journal: {error}") from error
    del header
    write_bytes(draft, raw[:start])
    draft.replace(path)
    return Journal.open(path)


def go_on(journal: Journal, start: int, raw: bytes) -> Iterator[Record]:
    """Append what is new of the server's bytes from `start` on; each record as it is written. Raises JournalError for
    bytes that are not the ones that follow, with the journal at its last right record."""
    new = raw[journal.position - start :]
    at = 0
    while at < len(new):
        record, length = _next(new, at)
        if record.pack(journal.crc) != new[at : at + length]:
            raise JournalError("the server's journal: a record is not the one that follows")
        journal.append(record)
        at += length
        yield record


def _next(raw: bytes, at: int) -> tuple[Record, int]:
    """(the record there, bytes of it)."""
    try:
        (length,) = _U32.unpack_from(raw, at)
        record = Record.unpack(raw[at + 4 : at + 4 + length])
    except (struct.error, ValueError) as error:
        raise JournalError(f"the server's journal: no whole record: {error}") from error
    if record.outcome is not Outcome.APPLIED or not record.terms:
        raise JournalError(f"the server's journal: a record with outcome {record.outcome.name}")
    return record, length + 8
