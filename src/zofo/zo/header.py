"""Of a journal's header that cannot be read: whether the file was cut in it, or its bytes are wrong."""

from __future__ import annotations

import json


def fault(begin: bytes, size: bytes, raw: bytes, crc: bytes) -> str:
    """In words. begin: up to 8 bytes, the magic's; size, crc: up to 4; raw: up to as many as size says."""
    there = len(begin) + len(size) + len(raw) + len(crc)
    fixed = 8 + 4 + 4  # magic, length, checksum
    if not there:
        return "empty, and the header alone of a journal has more than that"
    if len(size) < 4:
        return f"ends after {there} bytes, within its header"
    length = int.from_bytes(size, "little")
    whole = fixed + length
    if there == whole or (len(raw) < length and _is_json(raw)):  # the second: it is the length that is wrong
        return "the journal's header is damaged"
    return f"ends after {there} bytes, and its header alone has {whole}"


def _is_json(raw: bytes) -> bool:
    try:
        json.JSONDecoder().raw_decode(raw.decode("utf-8", "replace"))
    except ValueError:
        return False
    return True
