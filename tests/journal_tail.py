"""Where a journal's whole records end and what follows them, written from docs/journal.md alone, without zofo."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib


def parts(raw: bytes) -> tuple[bytes, list[bytes]]:
    """(magic, header and its checksum; the records) of a file without damage."""
    at = 16 + struct.unpack_from("<I", raw, 8)[0]
    head, records = raw[:at], []
    while at < len(raw):
        end = at + 8 + struct.unpack_from("<I", raw, at)[0]
        records.append(raw[at:end])
        at = end
    return head, records


def in_format(number: int, head: bytes, records: list[bytes]) -> tuple[bytes, list[bytes]]:
    """Header and records of a whole journal as another format has them."""
    text = json.dumps({**json.loads(head[12:-4]), "format": number}).encode()
    before, sealed = zlib.crc32(text), []
    head = head[:8] + struct.pack("<I", len(text)) + text + struct.pack("<I", before)
    for record in records:
        before = zlib.crc32(record[:-4], before) if number == 3 else zlib.crc32(record[4:-4])
        sealed.append(record[:-4] + struct.pack("<I", before))
    return head, sealed


class Verdict:
    """Of a file: the number of its whole records, where they end, and what is behind: "", "torn" or "damage"."""

    def __init__(self, raw: bytes) -> None:
        self.raw, at = raw, 16 + struct.unpack_from("<I", raw, 8)[0]
        header = json.loads(raw[12 : at - 4])
        self.chained, self.seed = header["format"] == 3, header["seed"]
        self.number, self.end, self.behind = 0, at, ""
        last: tuple[int, int] | None = None  # step and outcome
        while self.end < len(raw):
            if not self._is_whole(self.end):
                self.behind = "torn" if self._torn(raw[self.end :]) else "damage"
                return
            length, step, _, outcome, count = struct.unpack_from("<IIdbH", raw, self.end)
            if not self.chained and outcome != 3:
                if not self._in_order(last, step, struct.unpack_from("<Q", raw, self.end + 19)[0] if count else None):
                    self.behind = "damage"
                    return
                last = step, outcome
            self.number, self.end = self.number + 1, self.end + 8 + length

    def _is_whole(self, at: int) -> bool:
        """Whether a record that ends in the file begins there, with the checksum that it should have."""
        if len(self.raw) - at < 23:
            return False
        (length,) = struct.unpack_from("<I", self.raw, at)
        end = at + 4 + length
        if length < 15 or end + 4 > len(self.raw):
            return False
        (before,) = struct.unpack_from("<I", self.raw, at - 4)
        own = zlib.crc32(self.raw[at:end], before) if self.chained else zlib.crc32(self.raw[at + 4 : end])
        return struct.unpack_from("<I", self.raw, end)[0] == own

    def _torn(self, rest: bytes) -> bool:
        if len(rest) < 23:
            return True
        length, (checksum,) = struct.unpack_from("<I", rest)[0], struct.unpack("<I", rest[-4:])
        if length + 8 <= len(rest) and rest[-4:] != bytes(4):
            return False
        (before,) = struct.unpack_from("<I", self.raw, self.end - 4)
        mended = struct.pack("<I", len(rest) - 8) + rest[4:-4]
        if checksum == (zlib.crc32(mended, before) if self.chained else zlib.crc32(rest[4:-4])):
            return False
        for at in range(self.end + 4, len(self.raw) - 22):
            length, _, _, outcome, count = struct.unpack_from("<IIdbH", self.raw, at)
            if (length == 15 + 12 * count or (outcome == 3 and count == 0)) and self._is_whole(at):
                return False
        return True

    def _in_order(self, last: tuple[int, int] | None, step: int, seed: int | None) -> bool:
        follows = last is None or step == last[0] + 1 or (step == last[0] and last[1] == 2)
        text = f"{self.seed}/z/{step}".encode()
        return follows and seed in (None, int.from_bytes(hashlib.sha256(text).digest()[:8], "little"))
