"""The prediction of `zofo memory` beside the same count in real steps: SmolLM2-135M, and every kind of method."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, write_rows
from tests.footprints import configuration, same
from zofo.api.configure import resolve
from zofo.api.memory.fits import CPU
from zofo.api.memory.footprint import Footprint, Rows, measure, predict

pytestmark = pytest.mark.slow

CACHE = ROOT / ".cache" / "quickstart"
MODEL, DATA = CACHE / "smollm2-135m-instruct", CACHE / "movie-reviews"
PROMISED = 0.1  # of what is measured, in total and in every phase
METHODS = ["fo-peft", "mezo", "bilevel-zofo"]


def both(method: str, batch_size: int, rows: Rows | None) -> tuple[Footprint, Footprint]:
    for path in (MODEL, DATA):
        if not path.is_dir():
            pytest.skip(f"needs {path.relative_to(CACHE.parents[1])}, which `zofo quickstart` fetches")
    task: dict[str, Any] = {"name": "movie-reviews", "data": str(DATA)}
    train = {"output_dir": "unused", "batch_size": batch_size}
    config = resolve(model={"name": str(MODEL), "dtype": "float32"}, task=task, method=method, train=train)
    return predict(config, rows), measure(config, rows)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("batch_size", "rows"), [(8, None), (16, Rows(64))], ids=["longest of data", "16 x 64"])
def test_smollm2(method: str, batch_size: int, rows: Rows | None) -> None:
    predicted, measured = both(method, batch_size, rows)
    assert predicted.peak.phase == measured.peak.phase
    assert predicted.peak.total == pytest.approx(measured.peak.total, rel=PROMISED)
    for one, other in zip(predicted.peaks, measured.peaks, strict=True):
        assert one.phase == other.phase
        over = other.total - other.parts["weights"]  # the weights alone are most of it: they must not hide the rest
        assert one.total - one.parts["weights"] == pytest.approx(over, rel=PROMISED)
        for part, size in other.parts.items():
            assert one.parts[part] == pytest.approx(size, rel=PROMISED, abs=2**20), (one.phase, part)
    assert measured.peak.parts["weights"] == pytest.approx(134_515_008 * 4, rel=1e-4), "tied, counted once"


CHILD = """
import resource, sys
from zofo.cli.main import run
code = run(sys.argv[1:])
print("PEAK", code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.parametrize("method", ["mezo", "fo-peft", "fo-ft"])
def test_what_fits_beside_a_real_run(method: str, tmp_path: Path) -> None:
    """The peak of the whole process of `zofo train`, loading included (docs/memory.md)."""
    if not MODEL.is_dir():
        pytest.skip(f"needs {MODEL.relative_to(CACHE.parents[1])}, which `zofo quickstart` fetches")
    chosen = random.Random(1)
    words = ["good", "bad", "film", "plot", "slow", "fine", "actor", "scene", "dull", "warm"]
    texts = [" ".join(chosen.choices(words, k=60)) + f" {i}" for i in range(120)]
    rows = write_rows(tmp_path / "r.jsonl", [{"text": t, "label": ("no", "yes")[i % 2]} for i, t in enumerate(texts)])
    settings = ["task.train_examples=32", "task.dev_examples=16", "task.test_examples=16", "train.batch_size=16"]
    settings += ["train.eval_batch_size=16", "train.max_steps=3", "model.dtype=float32", "model.device=cpu"]
    config = configuration(MODEL, rows, *settings, method=method, adapter="lora" if method == "fo-peft" else None)
    needed = CPU.needs(predict(config))
    fixed = ["--model", str(MODEL), "--task", str(rows), "--method", method, "--output-dir", str(tmp_path / "out")]
    command = [sys.executable, "-c", CHILD, "train", *fixed, *settings, "train.threads=1"]
    child = subprocess.run(command, capture_output=True, text=True, check=True, timeout=900)
    code, peak = map(int, child.stdout.splitlines()[-1].split()[1:])
    assert code == 0, child.stderr[-800:]
    assert 0.75 < needed / peak < 1.35, (needed >> 20, peak >> 20)


CASES = [
    ("zero-shot", None, []),
    ("mezo", None, []),
    ("mezo", "lora", ["model.dtype=bfloat16"]),
    ("two-stage", "lora", ["train.micro_batch_size=2"]),
    ("bilevel-zofo", "prefix", []),
    ("bilevel-zofo", "dept", ["method.optimizer=sgd"]),
    ("bilevel-fo", "ia3", []),
    ("bilevel-zofo", "lora", ["method.inner_steps=2", "rule.name=adam"]),
]


@pytest.mark.parametrize(("method", "adapter", "overrides"), CASES)
def test_every_method(
    tiny_model_dir: Path, sentiment_file: Path, method: str, adapter: str | None, overrides: list[str]
) -> None:
    config = configuration(tiny_model_dir, sentiment_file, *overrides, method=method, adapter=adapter)
    same(predict(config), measure(config))
