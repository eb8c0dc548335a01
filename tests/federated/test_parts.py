"""The parts that need no model: messages, aggregates, splits, settings, noise, and what the server imports."""

from __future__ import annotations

import math
import random
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.federation import fed_yaml
from tests.forked import run, zofo_main
from zofo.data.example import Example
from zofo.errors import InputError
from zofo.federated import aggregate, messages, modes
from zofo.federated.messages import Answer, Ask, Digest, End, Hello, Kind, MessageError, Score, Status, Tensors
from zofo.federated.privacy import epsilon, noised
from zofo.federated.settings import read
from zofo.federated.split import shares


def test_the_server_imports_no_torch() -> None:
    code = (
        "import sys, zofo.federated.server, zofo.federated.book, zofo.federated.faults; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


TOLD = [
    (Kind.HELLO, Hello(b"a" * 32, b"b" * 32, 7, 8, "Ärztin 3")),
    (Kind.TENSORS, Tensors(b"[]")),
    (Kind.ESTIMATE, Answer(8, 1234, (0.5, -2.0))),
    (Kind.EVALUATE, Score(1.5, 3.0, 4, 99)),
    (Kind.DIGEST, Digest(b"c" * 32, 5)),
    (Kind.END, End(5)),
]


@pytest.mark.parametrize(("kind", "told"), TOLD)
def test_what_is_told_is_read_as_it_was(kind: Kind, told: messages.Told) -> None:
    assert messages.read_reply(kind, messages.reply(told)) == told


def test_the_usual_answer_has_12_bytes_behind_its_status() -> None:
    assert len(messages.reply(Answer(8, 1234, (0.5,)))) == 1 + 12
    assert messages.reply(Status.BASE) == b"\x03"


@given(st.sampled_from(list(Kind)), st.binary(max_size=120))
def test_any_bytes_are_an_answer_or_refused(kind: Kind, raw: bytes) -> None:
    try:
        told = messages.read_reply(kind, raw)
    except MessageError:
        return
    assert isinstance(told, Status) or messages.reply(told) == raw


@given(st.binary(max_size=60))
def test_any_bytes_are_a_question_or_refused(raw: bytes) -> None:
    try:
        assert Ask.unpack(raw).pack() == raw
    except MessageError:
        return


@given(st.lists(st.tuples(st.floats(-1e3, 1e3, width=32), st.integers(1, 100)), min_size=1, max_size=9), st.randoms())
def test_no_aggregate_hangs_on_the_order_of_clients(pairs: list[tuple[float, int]], rng: random.Random) -> None:
    for name in ("mean", "median", "trimmed"):
        of = aggregate.of_name(name, 0.3)  # type: ignore[arg-type]
        mixed = rng.sample(pairs, len(pairs))
        one, other = ([c for c, _ in p] for p in (pairs, mixed))
        rows, again = ([float(n) for _, n in p] for p in (pairs, mixed))
        assert of(one, rows) == of(other, again)
        assert min(one) - 1e-3 <= of(one, rows) <= max(one) + 1e-3


def test_aggregates_by_hand() -> None:
    c, rows = [1.0, 2.0, 100.0, 3.0], [1.0, 1.0, 1.0, 5.0]
    assert aggregate.mean(c, rows) == struct.unpack("<f", struct.pack("<f", 118 / 8))[0]
    assert aggregate.median(c, rows) == 2.5
    assert aggregate.trimmed(c, rows, 0.25) == struct.unpack("<f", struct.pack("<f", 17 / 6))[0]  # 2 and 3
    assert aggregate.trimmed([5.0], [1.0], 0.49) == 5.0


@pytest.mark.parametrize("mode", modes.names())
def test_directions_of_a_mode(mode: str) -> None:
    of = modes.load(mode)
    seeds = [[of.seed(0, r, slot, h, 7) for slot in range(5)] for r in range(10) for h in range(2)]
    assert all(len(set(row)) == (1 if mode == "same" else len(set(row))) for row in seeds)
    count = len({seed for row in seeds for seed in row})
    assert count == {"same": 20, "own": 100}.get(mode, 7)
    assert of.seed(1, 0, 0, 0, 7) != of.seed(0, 0, 0, 0, 7)


def example(i: int, label: int) -> Example:
    return Example(str(i), "", ("a", "b"), (label,))


@pytest.mark.parametrize("alpha", [0.05, 1.0, None])
def test_every_row_has_one_owner(alpha: float | None) -> None:
    examples = [example(i, i % 3 == 0) for i in range(300)]
    dealt = shares(examples, 10, alpha, 3)
    assert sorted(e.id for share in dealt for e in share) == sorted(e.id for e in examples)
    assert all(dealt)
    assert dealt == shares(examples, 10, alpha, 3)


def test_a_smaller_alpha_is_more_skewed() -> None:
    examples = [example(i, i // 7 % 2) for i in range(1000)]

    def skew(alpha: float | None) -> float:
        dealt = shares(examples, 10, alpha, 0)
        counts = [Counter(e.gold for e in share) for share in dealt]
        return sum(max(c.values()) / c.total() for c in counts) / 10

    assert skew(None) == pytest.approx(0.5, abs=0.1)
    assert skew(0.05) > skew(1.0) > skew(1000.0) > 0.5


FAULTS = {
    "federation.mode=saem": 'unknown "saem"; did you mean "same"?',
    "federation.round=3": "did you mean",
    "federation.aggregate=median federation.mode=own": "different directions have no median",
    "federation.noise=1": "give clip",
    "federation.address=here": "expected host:port",
    "simulate.late={'9':1}": 'no client "9"',
    "method.name=fo-ft": "fo-ft has no federated form",
    "estimator.shift=inplace": "inplace writes theta",
    "rule.name=adam": "every client adds the same terms",
    "estimator.name=lozo": "keeps more than seeds",
    "mask.name=random": "no masks",
    "federation.local_steps=2 method.name=bilevel-zofo adapter.name=lora": "trained at theta itself",
    "task.typo=3": "unknown",
}


@pytest.mark.parametrize("given_", FAULTS)
def test_what_is_wrong_is_said(tiny_model_dir: Path, tmp_path: Path, given_: str) -> None:
    path = fed_yaml(tmp_path, tiny_model_dir)
    overrides = given_.split(" ") if "=" in given_ else [given_]
    text = path.read_text()
    if "bilevel" in given_:
        path.write_text(text.replace("  lr: 0.001\n", ""))
    with pytest.raises(InputError) as error:
        read(path, overrides)
    assert FAULTS[given_] in str(error.value)


def test_a_dry_run_says_who_has_what(tiny_model_dir: Path, tmp_path: Path) -> None:
    simulate = {"clients": 2, "alpha": 0.5}
    path = fed_yaml(tmp_path, tiny_model_dir, task={"dev_examples": 4}, simulate=simulate)
    done = run(zofo_main, "federated", "simulate", str(path), "--dry-run", "--output-dir", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "mode same, 6 rounds; an answer is 12 bytes; no noise" in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("client ")]) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("least", [1, 2])
def test_a_client_whose_rows_are_too_few_for_the_method_is_named_first(
    tiny_model_dir: Path, tmp_path: Path, least: int
) -> None:
    # the labels of this seed go to one client alone
    parts = {"simulate": {"clients": 2, "alpha": 0.001}, "federation": {"min_clients": least}}
    method = {"method": {"name": "bilevel-zofo"}, "adapter": {"name": "lora"}, "train": {"seed": 5}}
    path = fed_yaml(tmp_path, tiny_model_dir, 1, task={"dev_examples": 2}, **parts, **method)
    done = run(zofo_main, "federated", "simulate", str(path), "--dry-run")
    assert "takes no part: two levels need at least 2 training examples, got 1" in done.stderr
    assert done.returncode == (2 if least == 2 else 0), done.stderr
    assert ("federation.min_clients: 2" in done.stderr) == (least == 2)


def test_all_faults_are_said_at_once(tiny_model_dir: Path, tmp_path: Path) -> None:
    path = fed_yaml(tmp_path, tiny_model_dir)
    with pytest.raises(InputError) as error:
        read(path, ["federation.rounds=0", "simulate.alpha=-1", "train.batch_size=0"])
    for field in ("federation.rounds", "simulate.alpha", "train.batch_size"):
        assert field in str(error.value)


def test_a_file_reads_as_what_it_was_written_from(tiny_model_dir: Path, tmp_path: Path) -> None:
    one = read(fed_yaml(tmp_path, tiny_model_dir), ["federation.clip=2", "simulate.lost={'1': [2, 3]}"])
    (again := tmp_path / "again.yaml").write_text(one.to_yaml())
    other = read(again)
    assert (other.federation, other.simulation, other.shared()) == (one.federation, one.simulation, one.shared())


def test_noise_has_the_size_that_is_stated() -> None:
    drawn = [noised(1.0, 2.0, 0.5) - 1.0 for _ in range(4000)]
    assert math.sqrt(sum(x * x for x in drawn) / 4000) == pytest.approx(2.0, rel=0.1)
    assert noised(1.0, 2.0, 0.0) == 1.0


def test_epsilon_is_that_of_the_gaussian_mechanism() -> None:
    """Beside the exact curve of one Gaussian mechanism (Balle and Wang, arXiv 1805.06830, Theorem 8): Renyi accounting
    is above it, and not by much."""
    pytest.importorskip("dp_accounting", reason="needs zofo[flower]")

    def delta(eps: float, noise: float) -> float:
        def phi(x: float) -> float:
            return 0.5 * math.erfc(-x / math.sqrt(2))

        return phi(0.5 / noise - eps * noise) - math.exp(eps) * phi(-0.5 / noise - eps * noise)

    for answers in (1, 100):
        eps = epsilon(4.0 * math.sqrt(answers), 1e-5, answers)  # n answers with noise s sqrt(n) are one with s
        assert delta(eps, 4.0) < 1e-5
        assert delta(0.7 * eps, 4.0) > 1e-5
