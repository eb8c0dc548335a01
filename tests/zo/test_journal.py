"""The journal: its bytes, what a crash leaves of it, and theta replayed from it."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.tiny_models import build, logits
from zofo.errors import NonFiniteError
from zofo.zo.direction import Direction
from zofo.zo.estimators import spsa
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.journal import FORMAT, Journal, JournalError, Outcome, Record, read_header, read_records
from zofo.zo.journalled import Journalled
from zofo.zo.keys import derive
from zofo.zo.point import Point
from zofo.zo.replay import replay
from zofo.zo.rules import sgd

HEADER = {"model": "tiny", "tensors": [], "law": "rademacher"}
RECORDS = [
    Record(0, ((2**64 - 1, float32(-0.1)),), 1e-6),
    Record(1, ((0, float32(3e38)), (1, 0.0), (2**63, -0.0)), 2.5e-7, Outcome.REVERSED),
    Record(2**32 - 1, (), 0.0, Outcome.SKIPPED),
]


def written(path: Path, records: list[Record] = RECORDS) -> list[int]:
    """Write the records. Returns the file's length after the header and after each record."""
    journal = Journal.create(path, HEADER)
    ends = [journal.position]
    for record in records:
        journal.append(record)
        ends.append(journal.position)
    journal.close()
    assert path.stat().st_size == ends[-1]
    return ends


def read(path: Path) -> list[Record]:
    journal = Journal.open(path)
    records = list(journal.records())
    journal.close()
    return records


# ------------------------------------------------------------------------------------------------------------- bytes


def test_round_trip(tmp_path: Path) -> None:
    written(tmp_path / "j")
    assert read(tmp_path / "j") == RECORDS
    header, start = read_header(tmp_path / "j")
    assert header == {**HEADER, "format": FORMAT}
    assert list(read_records(tmp_path / "j", start)) == RECORDS


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    step=st.integers(0, 2**32 - 1),
    terms=st.lists(st.tuples(st.integers(0, 2**64 - 1), st.floats(width=32, allow_nan=False)), max_size=5),
    rate=st.floats(0, 1),
    outcome=st.sampled_from(Outcome),
)
def test_any_record_round_trips(tmp_path: Path, step: int, terms: list, rate: float, outcome: Outcome) -> None:
    record = Record(step, tuple(terms), rate, outcome)
    written(tmp_path / "j", [record, record])
    assert read(tmp_path / "j") == [record, record]


def decode(raw: bytes) -> tuple[dict[str, Any], list[tuple]]:
    """From docs/journal.md alone."""
    assert raw[:8] == b"ZOFOJ\x00\r\n"
    (size,) = struct.unpack_from("<I", raw, 8)
    text, at = raw[12 : 12 + size], 12 + size
    assert struct.unpack_from("<I", raw, at)[0] == zlib.crc32(text)
    at, records, before = at + 4, [], zlib.crc32(text)
    while at < len(raw):
        length, step, rate, outcome, count = struct.unpack_from("<IIdbH", raw, at)
        body = raw[at + 4 : at + 4 + length]
        terms = [struct.unpack_from("<Qf", body, 15 + 12 * i) for i in range(count)]
        assert length == 15 + 12 * count
        before = zlib.crc32(raw[at : at + 4 + length], before)
        assert struct.unpack_from("<I", raw, at + 4 + length)[0] == before
        records.append((step, rate, outcome, terms))
        at += length + 8
    return json.loads(text), records


def test_documented_layout(tmp_path: Path) -> None:
    ends = written(tmp_path / "j")
    header, records = decode((tmp_path / "j").read_bytes())
    assert header == {**HEADER, "format": 3}
    assert records == [(r.step, r.rate, int(r.outcome), list(r.terms)) for r in RECORDS]
    assert ends[1] - ends[0] == 35  # "tens of bytes"
    assert [int(o) for o in (Outcome.REVERSED, Outcome.STAYED, Outcome.APPLIED, Outcome.SKIPPED)] == [-1, 0, 1, 2]


# ------------------------------------------------------------------------------------------------- crashes and damage


def test_a_torn_tail_is_cut_wherever_it_tore(tmp_path: Path) -> None:
    ends = written(tmp_path / "j")
    raw = (tmp_path / "j").read_bytes()
    for size in range(ends[-2], ends[-1]):
        path = tmp_path / f"torn-{size}"
        path.write_bytes(raw[:size])
        journal = Journal.open(path)
        assert (journal.position, path.stat().st_size) == (ends[-2], ends[-2])
        assert list(journal.records()) == RECORDS[:-1]
        journal.append(RECORDS[-1])  # and the journal goes on as if it had never torn
        journal.close()
        assert path.read_bytes() == raw


@pytest.mark.parametrize("tail", [bytes(4), bytes(8), bytes(4096), b"\xff" * 40, b"\x0f\0\0\0" + bytes(30)])
def test_a_tail_of_rubbish_is_cut(tmp_path: Path, tail: bytes) -> None:
    """Among them the zeros that some file systems leave at the end of a file after a loss of power."""
    ends = written(tmp_path / "j")
    with (tmp_path / "j").open("ab") as file:
        file.write(tail)
    assert read(tmp_path / "j") == RECORDS
    assert (tmp_path / "j").stat().st_size == ends[-1]


def test_a_flipped_bit_is_detected_at_every_byte(tmp_path: Path) -> None:
    ends = written(tmp_path / "j")
    raw = (tmp_path / "j").read_bytes()
    for at in range(ends[-1]):
        path = tmp_path / "flipped"
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 16]) + raw[at + 1 :])
        if at < ends[0]:
            with pytest.raises(JournalError):
                read_header(path)
            continue
        whole = sum(end <= at for end in ends) - 1  # records before the damage
        for stop in (None, ends[-1]):
            with pytest.raises(JournalError, match=f"record {whole} at byte {ends[whole]} is damaged"):
                list(read_records(path, ends[0], stop))
            with pytest.raises(JournalError, match=f"record {whole} at byte {ends[whole]} is damaged"):
                Journal.open(path, stop)
        assert list(read_records(path, ends[0], ends[whole])) == RECORDS[:whole]
        assert path.stat().st_size == ends[-1], "what is damaged is not cut"


def test_records_behind_a_checkpoint_are_cut(tmp_path: Path) -> None:
    for keep in range(len(RECORDS) + 1):
        ends = written(tmp_path / "j")
        assert list(read_records(tmp_path / "j", ends[0], ends[keep])) == RECORDS[:keep]
        journal = Journal.open(tmp_path / "j", ends[keep])
        assert journal.position == ends[keep]
        assert list(journal.records()) == RECORDS[:keep]
        for record in RECORDS[keep:]:
            journal.append(record)
        journal.close()
        assert read(tmp_path / "j") == RECORDS


def test_a_position_that_is_no_records_end(tmp_path: Path) -> None:
    ends = written(tmp_path / "j")
    for position in (ends[1] - 1, ends[1] + 1, ends[-1] + 1):
        before = (tmp_path / "j").read_bytes()
        with pytest.raises(JournalError, match=str(position)):
            Journal.open(tmp_path / "j", position)
        assert (tmp_path / "j").read_bytes() == before


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "j: empty, and the header alone"),
        (b"ZOF", "j: ends after 3 bytes, within its header"),
        (b"ZOFOJ\x00\r\n\x02\0", "j: ends after 10 bytes, within its header"),
        (b"PK\x03\x04 something else", "not a zofo journal"),
        (b"ZOFOJ\x00\r\n", "j: ends after 8 bytes, within its header"),
        (b"ZOFOJ\x00\r\n\x05\0\0\0{", "j: ends after 13 bytes, and its header alone has 21"),
        (b"ZOFOJ\x00\r\n\x05\0\0\0{}", "header is damaged"),  # the length is wrong
        (b"ZOFOJ\x00\r\n\x02\0\0\0{}\0\0\0\0", "header is damaged"),
        (b"ZOFOJ\x00\n\x02\0\0\0{}", "not a zofo journal"),  # line ends that a text transfer changed
    ],
)
def test_no_header(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "j").write_bytes(raw)
    with pytest.raises(JournalError, match=message):
        Journal.open(tmp_path / "j")


@pytest.mark.parametrize(
    "said",
    [[], 3, {}, {"format": []}, {"format": 3, "tensors": {}}, {"format": 3, "tensors": [{"name": "a"}]}],
)
def test_a_header_of_other_contents(said: Any, tmp_path: Path) -> None:
    """Its checksum is right: somebody has written it."""
    text = json.dumps(said).encode()
    raw = b"ZOFOJ\x00\r\n" + struct.pack("<I", len(text)) + text + struct.pack("<I", zlib.crc32(text))
    (tmp_path / "j").write_bytes(raw)
    with pytest.raises(JournalError, match=r"j: (journal format|the journal's header is damaged)"):
        Journal.open(tmp_path / "j")


def test_another_format(tmp_path: Path) -> None:
    text = json.dumps({"format": FORMAT + 1}).encode()
    raw = b"ZOFOJ\x00\r\n" + struct.pack("<I", len(text)) + text + struct.pack("<I", zlib.crc32(text))
    (tmp_path / "j").write_bytes(raw)
    with pytest.raises(JournalError, match=f"format {FORMAT + 1}, this zofo reads 1 to 3"):
        Journal.open(tmp_path / "j")


def test_a_write_cut_short_leaves_whole_records(tmp_path: Path) -> None:
    """A full disk takes a part of a record: the part is removed, and the error says so."""

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, raw: bytes) -> int:
            return self.file.write(raw[:7])

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    ends = written(tmp_path / "j")
    journal = Journal.open(tmp_path / "j")
    journal._file = Full(journal._file)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(OSError, match="no space left"):
        journal.append(RECORDS[0])
    journal.close()
    assert (tmp_path / "j").stat().st_size == ends[-1]
    assert read(tmp_path / "j") == RECORDS


# ------------------------------------------------------------------------------------------------------------- replay

RULES = [
    sgd.Config(),
    sgd.Config(normalize=True),
    sgd.Config(clip=0.5),
    sgd.Config(normalize=True, clip=0.9, memory=0.5),
]


def trained(path: Path, model: nn.Module, rule: sgd.Config, eps: float = 1e-2) -> Point:
    """Six steps of SPSA and the rule, one of them skipped because its coefficient is not finite."""
    theta, estimate = Point(model), spsa.Estimator(spsa.Config(eps=eps))
    journal = Journal.create(path, HEADER)
    update = Journalled(sgd.Rule(rule, seed=11), journal)
    for step in range(6):
        g = estimate(lambda: float(logits(model).float().square().mean()), theta, step, derive(11, "z", step))
        if step == 3:
            before = theta.sha256()
            with pytest.raises(NonFiniteError):
                update.update_(theta, ZOGrad(((float("nan"), g.terms[0][1]),), 0.0, 2), 1e-2, step)
            assert theta.sha256() == before
        else:
            assert update.update_(theta, g, 1e-2 / (step + 1), step) is Outcome.APPLIED
    journal.close()
    return theta


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rule", RULES)
def test_replay_gives_the_trained_theta_bit_for_bit(tmp_path: Path, rule: sgd.Config, dtype: torch.dtype) -> None:
    theta = trained(tmp_path / "j", build("llama", dtype), rule)
    start, again = Point(build("llama", dtype)), Point(build("llama", dtype))
    records = read(tmp_path / "j")
    assert [r.outcome is Outcome.SKIPPED for r in records] == [step == 3 for step in range(6)]
    assert replay(again, spsa.Estimator(spsa.Config()), sgd.Rule(rule, seed=11), records) == 6
    assert again.sha256() == theta.sha256()
    assert all(theta.sha256()[name] != digest for name, digest in start.sha256().items())


def test_replay_needs_the_rules_own_settings(tmp_path: Path) -> None:
    """Another clip, memory or seed gives another theta: the test above is not vacuous."""
    theta = trained(tmp_path / "j", build("llama", torch.bfloat16), RULES[-1])
    for rule in (sgd.Rule(RULES[0], 11), sgd.Rule(RULES[1], 11), sgd.Rule(RULES[2], 11), sgd.Rule(RULES[-1], 12)):
        other = Point(build("llama", torch.bfloat16))
        replay(other, spsa.Estimator(spsa.Config()), rule, read(tmp_path / "j"))
        assert other.sha256() != theta.sha256()


def test_replay_from_the_middle_with_the_rules_state(tmp_path: Path) -> None:
    """A snapshot of theta and of the rule's state stands for the records before it."""
    rule, records = RULES[-1], []
    theta = trained(tmp_path / "j", build("llama"), rule)
    records = read(tmp_path / "j")
    again, first, second = Point(build("llama")), sgd.Rule(rule, 11), sgd.Rule(rule, 11)
    replay(again, spsa.Estimator(spsa.Config()), first, records[:4])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    replay(again, spsa.Estimator(spsa.Config()), second, records[4:])
    assert again.sha256() == theta.sha256()


def test_an_update_without_a_direction_is_damage() -> None:
    with pytest.raises(JournalError, match=r"the update of step 7 has no direction; put back a copy"):
        replay(Point(build("llama")), spsa.Estimator(spsa.Config()), sgd.Rule(RULES[0], 0), [Record(7, (), 1e-6)])


def test_the_coefficient_in_the_journal_is_the_one_used() -> None:
    """c is fp32 before the update, so that storing it in 32 bits loses nothing; an overflow is seen as infinite."""
    g = spsa.Estimator(spsa.Config(eps=0.1))(iter([0.3, 0.1]).__next__, Point(nn.Linear(2, 2)), 0, 5)
    assert g.terms == ((float32(0.2 / 0.2), Direction(5)),)
    assert struct.unpack("<f", struct.pack("<f", g.terms[0][0]))[0] == g.terms[0][0]
    assert g.value == pytest.approx(0.2)
    assert float32(1e39) == float("inf")
    assert float32(-1e39) == float("-inf")
