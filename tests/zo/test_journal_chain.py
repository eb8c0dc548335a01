"""A journal's records are a chain: one that is missing, doubled, swapped, foreign or changed is noticed there."""

from __future__ import annotations

import contextlib
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.conftest import ROOT
from tests.journal_tail import Verdict, in_format, parts
from zofo import ZerothOrder
from zofo.api.optimizer import replay
from zofo.errors import NonFiniteError
from zofo.zo.journal import Journal, JournalError, Outcome, Record, read_header, read_records

STEPS = 6
Parts = tuple[bytes, list[bytes]]


def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))


def journal_of(path: Path, seed: int = 7, lr: float = 1e-2) -> Parts:
    """Of a run with supports, several terms a record, and a step that is not finite and is made again."""
    model = net()
    opt = ZerothOrder(
        model, lr=lr, seed=seed, journal=path, estimator={"name": "spsa", "q": 2},
        mask={"name": "magnitude", "refresh": 3},
    )  # fmt: skip
    for call in range(STEPS + 1):
        with pytest.raises(NonFiniteError) if call == 2 else contextlib.nullcontext():
            opt.step(lambda: float("nan") if call == 2 else model(torch.ones(3, 6)).square().sum())  # noqa: B023
    return parts(path.read_bytes())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return journal_of(tmp_path_factory.mktemp("run") / "j")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """The same with another seed."""
    return journal_of(tmp_path_factory.mktemp("other") / "j", seed=8)


@pytest.fixture(scope="module")
def old() -> Parts:
    """Of a run of an older version, in format 2."""
    with tarfile.open(ROOT / "tests/fixtures/runs_of_c5ac1e8.tar.xz") as archive:
        file = archive.extractfile("./runs/mezo/journal.bin")
        assert file is not None
        return parts(file.read())


def offset(whole: Parts, number: int) -> int:
    return len(whole[0]) + sum(map(len, whole[1][:number]))


def put(path: Path, head: bytes, records: list[bytes]) -> Path:
    path.write_bytes(head + b"".join(records))
    return path


def refused(path: Path, whole: Parts, number: int) -> None:
    """Opening, reading and replaying name the record, and leave the file as it is."""
    raw, start = path.read_bytes(), len(whole[0])
    words = f"record {number} at byte {offset(whole, number)} is damaged, or not the one that was written"
    for stop in (None, len(raw)):
        with pytest.raises(JournalError, match=words):
            Journal.open(path, stop)
        with pytest.raises(JournalError, match=words):
            list(read_records(path, start, stop))
    if read_header(path)[0]["model"] == "a torch module":
        with pytest.raises(JournalError, match=words):
            replay(net(), path)
    assert path.read_bytes() == raw
    assert len(list(read_records(path, start, offset(whole, number)))) == number, "what is before it can still be used"


def faults(whole: Parts, other: list[bytes]) -> Iterator[tuple[str, list[bytes], int]]:
    """(what was done, the records then, the record that is refused)"""
    records = whole[1]
    for i, record in enumerate(records):
        before, after = records[:i], records[i + 1 :]
        if after:
            yield f"{i} removed", [*before, *after], i
            yield f"{i} swapped", [*before, after[0], record, *after[1:]], i
        yield f"{i} doubled", [*before, record, record, *after], i + 1
        yield f"{i} of another run", [*before, other[i], *after], i
        for at in range(len(record)):
            flipped = record[:at] + bytes([record[at] ^ 1 << (at + i) % 8]) + record[at + 1 :]
            yield f"{i} flipped at {at}", [*before, flipped, *after], i


def test_whatever_is_done_to_a_record_is_refused_by_its_number(run: Parts, other: Parts, tmp_path: Path) -> None:
    outcomes = {record.outcome for record in read_records(put(tmp_path / "whole", *run), len(run[0]))}
    assert outcomes == {Outcome.APPLIED, Outcome.SKIPPED, Outcome.SUPPORT}
    for _, records, number in faults(run, other[1]):
        refused(put(tmp_path / "j", run[0], records), run, number)


def test_the_last_record_is_missed_by_whoever_knows_the_length(run: Parts, tmp_path: Path) -> None:
    last = len(run[1]) - 1
    path = put(tmp_path / "j", run[0], run[1][:-1])
    for read in (Journal.open, lambda path, stop: list(read_records(path, len(run[0]), stop))):
        with pytest.raises(JournalError, match=f"ends at byte {offset(run, last)}, before record {last}"):
            read(path, offset(run, last + 1))
    Journal.open(path).close()


def test_another_runs_header_or_records_from_any_place_on(run: Parts, other: Parts, tmp_path: Path) -> None:
    refused(put(tmp_path / "j", other[0], run[1]), (other[0], run[1]), 0)
    for i in range(len(run[1])):
        refused(put(tmp_path / "j", run[0], run[1][:i] + other[1][i:]), run, i)


def test_a_run_with_the_same_header_is_another_run(run: Parts, tmp_path: Path) -> None:
    """Seed and settings are the same, the rate is not: its first record fits the header, and the next one does not."""
    slower = journal_of(tmp_path / "slower", lr=1e-3)
    assert slower[0] == run[0]
    applied = 1  # record 0 is the support, which is the same
    assert slower[1][0] == run[1][0]
    for i in range(applied, len(run[1]) - 1):
        mixed = put(tmp_path / "j", run[0], [*run[1][:i], slower[1][i], *run[1][i + 1 :]])
        refused(mixed, run, i if i > applied else i + 1)


def test_records_moved_far_and_cut_out_in_blocks(run: Parts, tmp_path: Path) -> None:
    records, draw = run[1], random.Random(0)
    for _ in range(60):
        order = list(range(len(records)))
        draw.shuffle(order)
        first = next((i for i, j in enumerate(order) if i != j), None)
        if first is not None:
            refused(put(tmp_path / "j", run[0], [records[j] for j in order]), run, first)
    for i in range(len(records)):
        for j in range(i + 2, len(records)):
            refused(put(tmp_path / "j", run[0], records[:i] + records[j:]), run, i)


@pytest.mark.parametrize("number", [1, 2])
def test_what_older_formats_notice(number: int, old: Parts, tmp_path: Path) -> None:
    """As docs/journal.md says. The older run's own journal, and one whose records are of another seed."""
    whole = in_format(number, *old)
    foreign = in_format(number, *journal_of(tmp_path / "other", seed=9))[1][1:]
    foreign = [record for record in foreign if record[16] == Outcome.APPLIED]
    others = [foreign[i % len(foreign)] for i in range(len(whole[1]))]
    for what, records, expected in faults(whole, others):
        path = put(tmp_path / "j", whole[0], records)
        if what == "0 removed":
            assert len(list(read_records(path, len(whole[0])))) == len(records)  # not noticed, and the page says so
        else:  # any step may be the first
            refused(path, whole, 1 if what == "0 swapped" else expected)


@pytest.mark.parametrize("number", [1, 2])
def test_older_formats_go_on_as_what_they_are(number: int, old: Parts, tmp_path: Path) -> None:
    whole = in_format(number, *old)
    path = put(tmp_path / "j", whole[0], whole[1][:5])
    journal = Journal.open(path)
    for record in read_records(put(tmp_path / "whole", *whole), offset(whole, 5)):
        journal.append(record)
    journal.close()
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()
    assert read_header(path)[0]["format"] == number


def test_a_chain_goes_on_from_every_position(run: Parts, tmp_path: Path) -> None:
    whole = put(tmp_path / "whole", *run)
    for number in range(len(run[1]) + 1):
        path = put(tmp_path / "j", *run)
        journal = Journal.open(path, offset(run, number))
        for record in read_records(whole, offset(run, number)):
            journal.append(record)
        journal.close()
        assert path.read_bytes() == whole.read_bytes()


def test_what_a_checkpoint_does_not_need_may_be_damaged(run: Parts, tmp_path: Path) -> None:
    """What lies behind its position is cut, whatever it is."""
    records = [*run[1][:3], run[1][5], b"\x01" * 50]
    path = put(tmp_path / "j", run[0], records)
    Journal.open(path, offset(run, 3)).close()
    assert path.read_bytes() == run[0] + b"".join(run[1][:3])


def crashes(whole: Parts) -> Iterator[bytes]:
    """The last record cut anywhere, and the same with zeros behind, as far as the record went or further."""
    raw, last = whole[0] + b"".join(whole[1]), offset(whole, len(whole[1]) - 1)
    for size in range(last, len(raw)):
        yield raw[:size]
        yield raw[:size] + bytes(4096)
        if size <= len(raw) - 4:
            yield raw[:size] + bytes(len(raw) - size)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_what_a_crash_leaves_is_cut(number: int, run: Parts, tmp_path: Path) -> None:
    whole = in_format(number, *run)
    for raw in crashes(whole):
        (tmp_path / "j").write_bytes(raw)
        Journal.open(tmp_path / "j").close()
        assert (tmp_path / "j").read_bytes() == whole[0] + b"".join(whole[1][:-1])


def spoilt(raw: bytes, start: int, draw: random.Random) -> bytes:
    """One or two of: a byte changed, bytes zeroed, cut out, doubled, or written behind; or the end cut off."""
    for _ in range(draw.choice([1, 1, 2])):
        one, two = sorted(draw.randrange(start, len(raw)) for _ in "12")
        kind = draw.randrange(6)
        middle = [
            bytes([raw[one] ^ 1 << draw.randrange(8)]) + raw[one + 1 : two],
            bytes(two - one),
            b"",
            raw[one:two] * 2,
        ]
        raw = raw[:one] + middle[kind] + raw[max(two, one + 1 if kind == 0 else 0) :] if kind < 4 else raw
        raw = raw + draw.randbytes(draw.randrange(60)) if kind == 4 else raw[:two] if kind == 5 else raw
        if len(raw) <= start:
            return raw + b"\x00"
    return raw


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_page_is_enough_to_know_torn_from_damaged(number: int, run: Parts, tmp_path: Path) -> None:
    """A judge written from docs/journal.md alone says the same of 600 spoilt files."""
    head, records = in_format(number, *run)
    draw, path, seen = random.Random(number), tmp_path / "j", set()
    for _ in range(600):
        raw = spoilt(head + b"".join(records), len(head), draw)
        path.write_bytes(raw)
        verdict = Verdict(raw)
        seen.add(verdict.behind)
        if verdict.behind == "damage":
            with pytest.raises(JournalError, match=f"record {verdict.number} at byte {verdict.end} "):
                Journal.open(path)
            assert path.read_bytes() == raw
        else:
            Journal.open(path).close()
            assert path.stat().st_size == verdict.end
    assert {"torn", "damage"} <= seen


def test_a_length_that_leads_beyond_the_end_is_no_torn_tail(tmp_path: Path) -> None:
    """The records behind it are still found, were it a million bytes of a support."""
    journal = Journal.create(tmp_path / "j", {"seed": 0})
    support = Record(0, (), 0.0, Outcome.SUPPORT, random.Random(0).randbytes(2**20))
    for record in (Record(0, ((1, 0.5),), 1e-3), support, Record(1, ((2, 0.5),), 1e-3)):
        journal.append(record)
    journal.close()
    head, records = parts((tmp_path / "j").read_bytes())
    wrong = [records[0][:3] + b"\x01" + records[0][4:], *records[1:]]
    refused_at = len(head)
    put(tmp_path / "j", head, wrong)
    with pytest.raises(JournalError, match=f"record 0 at byte {refused_at} is damaged"):
        Journal.open(tmp_path / "j")
    torn = [*records[:1], records[1][: 2**20]]
    Journal.open(put(tmp_path / "j", head, torn)).close()
    assert (tmp_path / "j").stat().st_size == len(head) + len(records[0])
