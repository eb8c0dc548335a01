"""A finished run's journal in each of its formats, for `zofo export`. A reader that shares no line with zofo's says
what is right (`journal_tail.py`): where the records that the run needs are whole, the export has the bytes of the one
from the file as it was; else it is refused.
"""

from __future__ import annotations

import json
import random
import struct
import zlib
from pathlib import Path
from typing import Any

from tests.fuzz.case import Case, Expected
from tests.fuzz.damage import spoil_bytes, spoil_value
from tests.fuzz.world import World, copied, quietly
from tests.journal_tail import Verdict, in_format, parts

COUNT = 120
RUNS = {
    "spsa": ["--method", "mezo"],
    "two terms": ["--method", "mezo", "estimator.q=2", "rule=adam"],
    "svrg": ["--method", "mezo", "estimator=svrg", "estimator.refresh=2"],
    "supports": ["--method", "mezo", "mask=magnitude", "mask.refresh=2"],
    "inplace": ["--method", "mezo", "estimator.shift=inplace"],
}


def make(world: World, folder: Path, rng: random.Random, number: int) -> Case:
    kind = list(RUNS)[number % (len(RUNS) - 1)]
    run = world.trained(f"journal-{kind.replace(' ', '-')}", *RUNS[kind])
    right = world.root / f"{run.name}-export"
    if not right.exists():
        quietly("export", str(run), str(right))
    spoilt = copied(run, folder)
    file, out = spoilt / "journal.bin", folder / "out"
    head, records = in_format(number // len(RUNS) % 3 + 1, *parts(file.read_bytes()))
    whole = head + b"".join(records)
    what, raw = _spoil(rng, head, records)
    file.write_bytes(raw)
    needed = json.loads((run / "run.json").read_text("utf-8"))["journal_position"]
    expect = _expected(whole, raw, needed, len(head))

    def same(shown: str) -> str:
        ours, theirs = (path / "model.safetensors" for path in (out, right))
        return "" if ours.read_bytes() == theirs.read_bytes() else "another theta, without a word"

    check = (lambda shown: "") if expect == "either" else same
    args = ["export", str(spoilt), str(out)]
    return Case(f"journal, {kind}: {what}", args, (str(file), "journal.bin", str(spoilt)), out, expect, check)


def _expected(whole: bytes, raw: bytes, needed: int, start: int) -> Expected:
    if raw[:start] != whole[:start]:  # another header: what it says may matter or not
        return "either"
    if raw[:needed] == whole[:needed]:
        return "accepted"
    return "refused" if Verdict(raw).end < needed else "either"


def _spoil(rng: random.Random, head: bytes, records: list[bytes]) -> tuple[str, bytes]:
    whole, body = head + b"".join(records), list(records)
    at, other = rng.randrange(len(records)), rng.randrange(len(records))
    place = rng.randrange(len(head), len(whole))
    kind = rng.randrange(12)
    if kind == 0:
        return spoil_bytes(rng, whole)
    if kind == 1:
        bit = 1 << rng.randrange(8)
        return f"a bit of byte {place}", whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :]
    if kind == 2:
        return f"cut at byte {place}", whole[:place]
    if kind == 3:
        return f"zeros from byte {place}", whole[:place] + bytes(len(whole) - place)
    if kind == 4:
        tail = rng.choice([bytes(rng.randrange(1, 60)), rng.randbytes(rng.randrange(1, 60)), records[at][:-3]])
        return f"{len(tail)} bytes behind its end", whole + tail
    if kind == 5:
        what, spoilt = _header(rng, head, body)
        return f"a header whose {what}", spoilt
    if kind == 6:
        body[at], body[other] = body[other], body[at]
        return f"records {at} and {other} exchanged", head + b"".join(body)
    if kind == 7:
        del body[at]
        return f"record {at} left out", head + b"".join(body)
    if kind == 8:
        body.insert(at, body[other])
        return f"record {other} again at {at}", head + b"".join(body)
    if kind == 9:
        body[at] = _field(rng, body[at])
        return f"a field of record {at}", head + b"".join(body)
    if kind == 10:
        body[at] = struct.pack("<I", rng.choice([0, 14, 15, 2**31, 2**32 - 1])) + body[at][4:]
        return f"the length of record {at}", head + b"".join(body)
    return f"from record {at} on again", whole + b"".join(records[at:])


def _header(rng: random.Random, head: bytes, records: list[bytes]) -> tuple[str, bytes]:
    """One value of the header another one, with the right checksum and, as they are chained, the records' too."""
    said: Any = json.loads(head[12:-4])
    if rng.random() < 0.3:
        what, said = f"format is {(value := rng.choice([0, 4, 99, -1, None, 'x', [], 2.0]))}", {**said, "format": value}
    else:
        what, said = spoil_value(rng, said)
    text = json.dumps(said).encode()
    new = head[:8] + struct.pack("<I", len(text)) + text + struct.pack("<I", zlib.crc32(text))
    number = said.get("format") if isinstance(said, dict) else None
    if number in (1, 2, 3) and isinstance(number, int):
        _, records = in_format(number, new, records)
    return what, new + b"".join(records)


def _field(rng: random.Random, record: bytes) -> bytes:
    """A record with another number in it, and its own checksum as formats 1 and 2 have it."""
    where, form = rng.choice([(4, "<I"), (8, "<d"), (16, "<b"), (17, "<H")])
    values = {
        "<I": [0, 1, 2**32 - 1],
        "<d": [float("nan"), float("inf"), -1.0, 0.0],
        "<b": [-128, 4, 127],
        "<H": [0, 2, 9],
    }
    packed = struct.pack(form, rng.choice(values[form]))
    body = (record[:where] + packed + record[where + len(packed) :])[4:-4]
    return record[:4] + body + struct.pack("<I", zlib.crc32(body))
