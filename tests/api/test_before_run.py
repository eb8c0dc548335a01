"""The memory that is there, and the line before a run that will not fit."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.footprints import configuration
from zofo.api.finetune import train
from zofo.api.memory import before_run
from zofo.api.memory.before_run import warn_if_it_will_not_fit
from zofo.api.memory.fits import CPU
from zofo.api.memory.footprint import predict
from zofo.api.memory.hollow import settings_of
from zofo.config.resolve import Config
from zofo.data import Example
from zofo.models import room
from zofo.train.progress import gib

# ---- the memory that is there


def group(root: Path, path: str, **files: str) -> None:
    (root / path).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / path / name.replace("__", ".")).write_text(text)


def test_limits_of_containers(tmp_path: Path) -> None:
    two, one, none = tmp_path / "v2", tmp_path / "v1", tmp_path / "none"
    for root, line in ((two, "0::/a/b\n"), (one, "3:cpu:/x\n5:memory,other:/job\n")):
        group(root, "proc/self", cgroup=line)
    stat = "anon 5\ninactive_file 4000\n"
    group(two, "sys/fs/cgroup/a", memory__max="100000", memory__current="30000", memory__stat=stat)
    group(two, "sys/fs/cgroup/a/b", memory__max="max", memory__current="30000", memory__stat=stat)
    there = room.of_machine(two)
    assert (there.free, there.total) == (74_000, 100_000), "the limit of a group above counts, and file cache is free"
    assert "container" in there.what
    files = {"memory__limit_in_bytes": "9000", "memory__usage_in_bytes": "8000"}
    group(one, "sys/fs/cgroup/memory", **files, memory__stat="total_inactive_file 500\n")  # its own group is the top
    assert room.of_machine(one).free == 1500
    group(one, "sys/fs/cgroup/memory", memory__limit_in_bytes=str(2**63 - 4096))
    for root in (one, none):
        there = room.of_machine(root)
        assert there.total > 2**30, "no limit"
        assert there.what == "of memory"
    assert room.of("mps") is None


# ---- before a run


def near(config: Config, free: int, seconds: float = 600) -> str | None:
    return before_run.line(config, room.Room(free, free, "of memory"), seconds)


def of_run(model: Path, rows: Path, *overrides: str, **sections: Any) -> Config:
    few = ["task.train_examples=8", "task.dev_examples=4", "task.test_examples=4", "train.batch_size=8"]
    return configuration(model, rows, *few, *overrides, **sections)


def need(config: Config) -> int:
    return CPU.needs(predict(config)) - CPU.base


@pytest.mark.slow
def test_the_nearest_settings_fit_when_asked_again(tiny_model_dir: Path, sentiment_file: Path) -> None:
    config = of_run(tiny_model_dir, sentiment_file, method="fo-peft", adapter="lora")
    whole = need(config)
    assert near(config, whole) is None
    line = near(config, int(0.7 * whole))
    assert line is not None
    assert line.startswith("this run needs about ")
    settings = [
        part.split(" (")[0].split() for part in line.split("are free: ")[1].split(" would fit")[0].split(", or ")
    ]
    assert settings[0][0].startswith(("train.eval_batch_size=", "train.micro_batch_size="))
    before = dataclasses.asdict(config.train)
    for way in settings:
        method = "mezo" if "method=mezo" in way else "fo-peft"
        changes = [text for text in way if not text.startswith("method=")]
        other = of_run(tiny_model_dir, sentiment_file, *changes, method=method)
        assert need(other) <= int(0.7 * whole), way
    assert before == dataclasses.asdict(config.train)
    assert "no setting that was tried makes it fit" in (near(config, 1, 0) or ""), "time is up"


@pytest.mark.slow
def test_a_setting_is_asked_about_with_its_two_longest_micro_batches(
    tiny_model_dir: Path, sentiment_file: Path
) -> None:
    """What the advice asks takes what all micro-batches take."""
    config = of_run(tiny_model_dir, sentiment_file, "train.micro_batch_size=2", method="fo-peft", adapter="lora")
    few = before_run._two_micro_batches(config)
    assert (few.train.batch_size, few.train.micro_batch_size) == (4, 2)
    assert need(few) == pytest.approx(need(config), abs=16 * 1024), "but for numbers a row"


def test_of_many_rows_the_longest_are_tokenized() -> None:
    rows = [Example(str(i), "w " * (i % 40), ("a", "b"), (0,)) for i in range(before_run.KEPT * 4)]
    kept = before_run._longest(rows)
    assert len(kept) == before_run.KEPT
    assert min(len(e.prompt) for e in kept) == 2 * 29
    assert [int(e.id) for e in kept] == sorted(int(e.id) for e in kept)
    assert before_run._longest(kept) is kept


def test_a_run_that_surely_fits_is_not_predicted(
    tiny_model_dir: Path, sentiment_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = of_run(tiny_model_dir, sentiment_file, method="bilevel-zofo", adapter="lora")
    monkeypatch.setattr(before_run, "_asked", lambda *_: "predicted")
    assert warn_if_it_will_not_fit(config, room.Room(16 * 2**30, 2**40, "of memory")) is None
    assert warn_if_it_will_not_fit(config, room.Room(2**29, 2**40, "of memory")) == "predicted"


@pytest.mark.parametrize(
    "method", ["fo-ft", *(pytest.param(method, marks=pytest.mark.slow) for method in ("mezo", "bilevel-zofo"))]
)
def test_the_bound_is_above_the_prediction(method: str, tiny_model_dir: Path, sentiment_file: Path) -> None:
    config = of_run(tiny_model_dir, sentiment_file, method=method)
    settings, _ = settings_of(config.model)
    rows = before_run._rows(config, settings, before_run.Once())
    assert before_run._at_most(config, settings, 4, *rows) - 2**30 > predict(config).peak.total


@pytest.mark.parametrize(
    ("family", "estimator"),
    [
        ("llama", "svrg"),
        ("llama", "subzero"),
        ("mixtral", "spsa"),
        pytest.param("mixtral", "svrg", marks=pytest.mark.slow),
    ],
)
def test_the_bound_of_anchors_factors_and_experts(
    family: str, estimator: str, family_dir: Any, sentiment_file: Path
) -> None:
    """Else each such run, however small, would wait for a prediction."""
    config = of_run(family_dir(family), sentiment_file, f"estimator={estimator}", method="mezo")
    settings, _ = settings_of(config.model)
    rows = before_run._rows(config, settings, before_run.Once())
    bound = before_run._at_most(config, settings, 4, *rows)
    assert predict(config).peak.total < bound - 2**30 < before_run.UNKNOWN / 2


def test_experts_that_are_not_counted_have_no_bound(
    family_dir: Any, sentiment_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = of_run(family_dir("mixtral"), sentiment_file, method="mezo")
    settings, _ = settings_of(config.model)
    monkeypatch.setattr(type(settings), "to_dict", lambda self: {"expert_layers": [1, 3]})
    assert before_run._at_most(config, settings, 4, 8, 1, 1) == before_run.UNKNOWN


def test_the_line(tiny_model_dir: Path, sentiment_file: Path) -> None:
    config = of_run(tiny_model_dir, sentiment_file, method="mezo")
    needed = need(config)
    assert near(config, needed) is None
    line = near(config, needed - 1, 0)
    assert line is not None
    assert line.startswith(f"this run needs about {gib(needed)} in the ")
    assert f"and {gib(needed - 1)} of memory are free: no setting that was tried makes it fit" in line


@pytest.mark.slow
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_run_under_a_small_limit_says_the_line_and_goes_on(
    dry_run: bool,
    tiny_model_dir: Path,
    sentiment_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    root = tmp_path / "root"
    group(root, "proc/self", cgroup="0::/\n")
    group(root, "sys/fs/cgroup", memory__max="200000", memory__current="1000", memory__stat="inactive_file 0\n")
    inside = room.of_machine(root)
    monkeypatch.setattr(before_run, "of", lambda device: inside)
    monkeypatch.setattr(before_run, "SECONDS", 0)
    out = tmp_path / "run"
    overrides = (f"train.output_dir={out}", "train.max_steps=1")
    config = of_run(tiny_model_dir, sentiment_file, *overrides, method="mezo")
    with caplog.at_level(logging.WARNING, "zofo"):
        train(config, dry_run)
    (line,) = [record.getMessage() for record in caplog.records if "this run needs about" in record.getMessage()]
    assert "of the container's limit are free" in line
    assert (out / "run.json").exists() is not dry_run


def test_what_is_wrong_with_a_run_is_said_by_the_run(tmp_path: Path, sentiment_file: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    assert warn_if_it_will_not_fit(of_run(tmp_path, sentiment_file, method="mezo"), room.Room(1, 1, "")) is None
