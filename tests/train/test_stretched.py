"""A run that goes on to another number of steps: what its schedules make of that is said, with both numbers."""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import read_rows
from zofo import finetune

ABLATION = {"name": "bilevel-ablations", "inner_steps": 1, "lr_s": 1e-2, "lr_theta": 1e-5}


def go(model: Path, rows: Path, out: Path, steps: int, method: dict[str, Any], kind: str, **more: Any) -> None:
    finetune(
        str(model),
        str(rows),
        method,
        output_dir=out,
        max_steps=steps,
        batch_size=4,
        eval_steps=4,
        save_steps=4,
        logging_steps=1,
        lr_scheduler_type=kind,
        **more,
    )


def resumed(
    model: Path, rows: Path, out: Path, caplog: pytest.LogCaptureFixture, method: dict[str, Any], kind: str, **more: Any
) -> list[str]:
    """The warnings of a run of 8 steps that goes on to 16 from its step 4."""
    to = more.pop("to", 16)
    go(model, rows, out, 8, method, kind, **more)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "zofo"):
        go(model, rows, out, to, method, kind, resume=str(out / "checkpoint-4"), **more)
    return [r.getMessage() for r in caplog.records if "max_steps" in r.getMessage()]


def rates(line: str) -> dict[str, tuple[float, float]]:
    found = re.findall(r"(\w+) (\S+) -> ([\d.e+-]+)", line.split("at the next step ")[1].split(";")[0])
    return {name: (float(one), float(other)) for name, one, other in found}


@pytest.mark.parametrize(
    ("kind", "then", "now"),
    [("linear", 0.5, 0.75), ("cosine", 0.5, 0.5 * (1 + math.cos(math.pi / 4)))],
)
@pytest.mark.parametrize("method", [{"name": "mezo", "lr": 1e-4}, {"name": "fo-peft", "lr": 1e-3}])
def test_both_rates_are_said_and_the_second_is_what_is_taken(
    method: dict[str, Any],
    kind: str,
    then: float,
    now: float,
    tmp_path: Path,
    tiny_model_dir: Path,
    sentiment_file: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (line,) = resumed(tiny_model_dir, sentiment_file, tmp_path / "out", caplog, method, kind)
    assert line.startswith("train.max_steps: the run had 8 and has 16 now")
    assert rates(line)["lr"] == pytest.approx((then * method["lr"], now * method["lr"]), rel=1e-2)
    steps = {row["step"]: row for row in read_rows(tmp_path / "out" / "metrics.jsonl") if row["event"] == "train"}
    taken = steps[5].get("lr_theta", steps[5].get("lr"))
    assert taken == pytest.approx(now * method["lr"])


@pytest.mark.parametrize(
    ("kind", "to", "more"),
    [
        ("constant", 16, {}),
        ("linear", 8, {}),
        ("constant", 16, {"warmup_steps": 6}),
        ("cosine", 16, {"warmup_steps": 6}),
    ],
)
def test_what_changes_nothing_at_the_next_step_is_silent(
    kind: str,
    to: int,
    more: dict[str, Any],
    tmp_path: Path,
    tiny_model_dir: Path,
    sentiment_file: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A constant rate; the same number of steps; a warm-up that is not over."""
    method = {"name": "mezo", "lr": 1e-4}
    assert resumed(tiny_model_dir, sentiment_file, tmp_path / "out", caplog, method, kind, to=to, **more) == []


def test_a_finished_run_that_goes_on_rises_from_nothing(
    tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, method = tmp_path / "out", {"name": "mezo", "lr": 1e-4}
    go(tiny_model_dir, sentiment_file, out, 8, method, "linear")
    with caplog.at_level(logging.WARNING, "zofo"):
        go(tiny_model_dir, sentiment_file, out, 16, method, "linear", resume="latest")
    (line,) = [r.getMessage() for r in caplog.records if "max_steps" in r.getMessage()]
    assert rates(line)["lr"] == pytest.approx((0.0, 5e-5))


def test_the_penaltys_schedule_is_one_too(
    tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """lambda goes from lam_start to lam over the run; 4 iterations of 2 updates, then 8: at iteration 2 of 0 to 3."""
    method = {**ABLATION, "lam_schedule": "linear", "lam_start": 1.0, "lam": 10.0}
    (line,) = resumed(tiny_model_dir, sentiment_file, tmp_path / "out", caplog, method, "constant")
    assert rates(line) == {"lam": (7.0, pytest.approx(1 + 9 * 2 / 7, rel=1e-2))}
    for folder, plain in (("constant", {"lam": 10.0}), ("other", {})):
        assert not resumed(tiny_model_dir, sentiment_file, tmp_path / folder, caplog, {**ABLATION, **plain}, "constant")
