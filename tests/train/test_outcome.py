"""A run that failed says so: its exit code is 1, it is saved, and whoever opens it later is told. Skips are in
test_halve.py; what the verbs say is in tests/api/test_standing.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.small_runs import METHODS, SMALL
from zofo import RunError, finetune
from zofo.cli.main import run as command_line
from zofo.zo.journalled import Journalled

RUINED = (
    r"are ruined, by an update too large: the largest weight of theta is \S+e\+\d\d, and was 1; .* with lower rates \("
)
LOST = r"are hardly trained in theta, since the shift did not reach the loss; .* with a larger estimator\.eps"


@pytest.mark.parametrize(
    ("method", "more", "words"),
    [
        ({"name": "mezo", "lr": 1e30}, [], RUINED),
        ({"name": "mezo"}, ["estimator.eps=1e-30"], LOST + r" \("),
        ({"name": "mezo"}, ["estimator.eps=1e-30", "model.dtype=bfloat16"], LOST + r" or model\.dtype=float32 \("),
        ({"name": "mezo"}, ["estimator.eps=1e-30", "adapter.name=lora"], LOST + r" \("),
        (METHODS["bilevel-zofo"], ["estimator.eps=1e-30"], LOST + r" \("),
    ],
    ids=["a rate too large", "a shift that is lost", "in bfloat16", "lost on an adapter", "bilevel"],
)
def test_coefficients_of_exactly_0(
    method: dict[str, Any],
    more: list[str],
    words: str,
    tmp_path: Path,
    tiny_model_dir: Path,
    sentiment_file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Finite weights that are far from any model, or shifts below their precision: told apart by the weights."""
    options: dict[str, Any] = {**SMALL, "max_steps": 16, "save_steps": 8}
    zeros = (
        r"^\d+ of \d+ updates of theta had a coefficient c of exactly 0, so they changed nothing; the weights in .* "
    )
    with pytest.raises(RunError, match=zeros + words):
        finetune(str(tiny_model_dir), str(sentiment_file), method, output_dir=tmp_path, overrides=more, **options)
    (warned,) = [
        line for line in capsys.readouterr().err.splitlines() if "c was exactly 0 three times in a row" in line
    ]
    assert ("an update was too large" in warned) == (words == RUINED), "while it trains, too"
    assert ("estimator.eps" in warned) == (words != RUINED)
    info = json.loads((tmp_path / "run.json").read_text())
    assert info["outcome"]["kind"] == "failed"
    assert "exactly 0" in info["outcome"]["reason"]
    assert command_line(["train", "--output-dir", str(tmp_path), "--resume", "latest"]) == 1, "nor has it when resumed"
    assert json.loads((tmp_path / "run.json").read_text())["outcome"] == info["outcome"]


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_losses_that_are_nan_since_the_weights_are_ruined(
    policy: str, tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path
) -> None:
    """Finite weights of an adapter, and a loss of NaN: nothing of it is worth keeping, and it is not called sound."""
    words = r"the largest weight of theta is \S+e\+\d\d, and was .* lower rates"
    with pytest.raises(RunError, match=words) as failed:
        finetune(
            *(str(tiny_model_dir), str(sentiment_file), {"name": "mezo", "lr": 1e30}),
            output_dir=tmp_path,
            overrides=["adapter.name=lora"],
            on_nonfinite=policy,
            **SMALL,
        )
    assert "are finite" not in str(failed.value)
    assert "hardly" not in str(failed.value)
    assert "end it with" not in str(failed.value)
    assert json.loads((tmp_path / "manifest.json").read_text())["outcome"]["kind"] == "failed"


def test_one_late_update_that_is_too_large_leaves_the_best_as_it_was(
    tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 16 updates the fifth ruins theta; dev chose step 4. What is deployed is sound, and said to be."""
    real = Journalled.update_

    def update_(self: Any, theta: Any, g: Any, lr: float, step: int, *more: Any) -> Any:
        return real(self, theta, g, 1e30 if step == 4 else lr, step, *more)

    monkeypatch.setattr(Journalled, "update_", update_)
    with pytest.raises(RunError, match=r"are those of the best evaluation, made before an update was too large \("):
        finetune(
            *(str(tiny_model_dir), str(sentiment_file), {"name": "mezo", "lr": 1e-4}),
            output_dir=tmp_path,
            **{**SMALL, "max_steps": 16},
        )
    info = json.loads((tmp_path / "run.json").read_text())
    assert info["best_step"] == 4
    assert info["outcome"]["weights"].startswith("those of the best evaluation")


@pytest.mark.parametrize("method", METHODS)
def test_what_came_to_its_end_says_so(method: str, tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path) -> None:
    run = finetune(str(tiny_model_dir), str(sentiment_file), METHODS[method], output_dir=tmp_path, **SMALL)
    assert run.info["outcome"] == {"kind": "finished", "step": 0 if method == "zero-shot" else 8, "of": 8}
    assert "outcome" not in json.loads((tmp_path / "manifest.json").read_text())
    assert "failed" not in (tmp_path / "README.md").read_text()


def test_a_metric_that_does_not_move_is_no_failure(tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path) -> None:
    """Minus the accuracy of a small batch is often the same on both sides."""
    finetune(
        *(str(tiny_model_dir), str(sentiment_file), "mezo"),
        output_dir=tmp_path,
        overrides=["task.objective=metric", "estimator.eps=1e-30"],
        **SMALL,
    )
