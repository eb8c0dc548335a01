"""A journal whose header cannot be read: it was cut, or its bytes are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from zofo.zo.journal import Journal, JournalError, read_header


def test_a_header_that_was_cut_at_any_byte_is_told_from_wrong_bytes(tmp_path: Path) -> None:
    """And one with a bit flipped, or zeroed, is not called cut, but where it is the length that was flipped."""
    Journal.create(path := tmp_path / "j", {"seed": 3, "tensors": []}).close()
    raw = path.read_bytes()
    for size in range(len(raw)):
        path.write_bytes(raw[:size])
        words = "empty" if not size else f"ends after {size} bytes, "
        with pytest.raises(JournalError, match=rf"j: {words}.*; put back a copy"):
            read_header(path)
    for at in range(len(raw)):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        with pytest.raises(JournalError, match="not a zofo journal" if at < 8 else "header is damaged"):
            read_header(path)
