"""Several processes make the run of one: the same journal, byte for byte, where its micro-batches are their slices."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.forked import run, zofo_main
from tests.in_ranks import in_ranks
from zofo.config import registry
from zofo.zo.journal import read_header, read_records

BATCH = 6
MEZO = ["--method", "mezo", "method.lr=1e-4"]
BILEVEL = ["--method", "bilevel-zofo", "method.inner_steps=1", "method.lr_theta=1e-4", "adapter.r=2", "estimator.q=2"]
Start = Callable[..., list[str]]


@pytest.fixture
def start(tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path) -> Start:
    """The command of a run, by its name and settings."""

    def arguments(name: str, *more: str) -> list[str]:
        fixed = ["train", "--model", str(tiny_model_dir), "--task", str(sentiment_file), "train.threads=1"]
        cadence = ["--max-steps", "6", "train.eval_steps=3", "train.save_steps=3", f"train.batch_size={BATCH}"]
        return [*fixed, *cadence, "--output-dir", str(tmp_path / name), *more]

    return arguments


def both(
    start: Start, root: Path, size: int, settings: list[str], parallel: list[str], slices: int
) -> tuple[Path, Path]:
    """A run in one process, whose micro-batches are so many slices of a batch, and the same run in several."""
    batch = next((int(text.partition("=")[2]) for text in settings if text.startswith("train.batch_size")), BATCH)
    micro = f"train.micro_batch_size={math.ceil(batch / slices)}"
    alone = run(zofo_main, *start("one", *settings, *([micro] if slices > 1 else [])))
    assert alone.returncode == 0, alone.stderr
    for each in in_ranks(size, *start("many", *settings, *parallel)):
        assert each.returncode == 0, each.stderr
    return root / "one", root / "many"


def info(run_dir: Path) -> dict[str, object]:
    """run.json without what hangs on the clock, on the machine and on how many made it."""
    content = json.loads((run_dir / "run.json").read_text("utf-8"))
    for key in (
        "seconds",
        "seconds_per_step",
        "peak_bytes",
        "phases",
        "world_size",
        "ranks",
        "environment",
        "config_hash",
    ):
        content.pop(key, None)
    return content


POSSIBLE = {
    **{f"estimator {name}": (2, [f"estimator={name}"]) for name in registry.names("estimators")},
    **{f"rule {name}": (3, [f"rule={name}"]) for name in registry.names("rules")},
    **{f"mask {name}": (2, [f"mask={name}"]) for name in registry.names("masks")},
    "four ranks, bf16": (4, ["model.dtype=bfloat16"]),
    "a sphere": (2, ["estimator.law=sphere"]),
    "in place": (2, ["estimator.shift=inplace"]),
    "fewer examples than ranks": (4, ["train.batch_size=3"]),
}


# Of each folder what differs most: further batches, two kinds of evaluations, a mask of gradients; the rest is slow
USUAL = {"estimator svrg", "estimator one-sided", "rule conservative", "mask sensitivity", *list(POSSIBLE)[-4:]}


@pytest.mark.parametrize("kind", [pytest.param(k, marks=() if k in USUAL else pytest.mark.slow) for k in POSSIBLE])
def test_the_journal_of_one_process(kind: str, start: Start, tmp_path: Path) -> None:
    """Slices of one batch: of pure zeroth-order training not a byte is another."""
    size, settings = POSSIBLE[kind]
    one, many = both(start, tmp_path, size, [*MEZO, *settings], [], slices=size)
    assert (one / "journal.bin").read_bytes() == (many / "journal.bin").read_bytes()
    assert info(one) == info(many)
    assert (one / "eval/predictions-theta.jsonl").read_bytes() == (many / "eval/predictions-theta.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("size", "settings"),
    [(2, ["estimator.q=4"]), (4, ["estimator.q=4"]), (2, ["estimator.q=3", "estimator=svrg", "estimator.refresh=2"])],
)
def test_directions_are_shared(size: int, settings: list[str], start: Start, tmp_path: Path) -> None:
    """2 ranks of query; 2 x 2; three directions for two ranks, and an anchor: the numbers of one process."""
    one, many = both(start, tmp_path, size, [*MEZO, *settings], ["parallel.query=2"], slices=size // 2)
    assert (one / "journal.bin").read_bytes() == (many / "journal.bin").read_bytes()
    assert info(one) == info(many)


def test_first_order_steps_of_two_ranks(start: Start, tmp_path: Path) -> None:
    """Two halves of a gradient have one sum, whoever adds them: the adapter's bytes are those of one process."""
    settings = ["--method", "fo-peft", "train.max_grad_norm=0.1", "adapter.r=2"]
    one, many = both(start, tmp_path, 2, settings, [], slices=2)
    last = "checkpoint-6/p/adapter_model.safetensors"
    assert (one / last).read_bytes() == (many / last).read_bytes()
    assert (one / "checkpoint-6/state.safetensors").read_bytes() == (
        many / "checkpoint-6/state.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("parallel", [[], ["parallel.query=2"]])
def test_bilevel(parallel: list[str], start: Start, tmp_path: Path) -> None:
    one, many = both(start, tmp_path, 2, BILEVEL, parallel, slices=1)
    pairs = zip(records(one / "journal.bin"), records(many / "journal.bin"), strict=True)
    for mine, theirs in pairs:
        assert [seed for seed, _ in mine] == [seed for seed, _ in theirs]
        for (_, c), (_, d) in zip(mine, theirs, strict=True):
            assert c == pytest.approx(d, rel=1e-3, abs=1e-6)


def records(path: Path) -> list[tuple[tuple[int, float], ...]]:
    return [record.terms for record in read_records(path, read_header(path)[1])]
