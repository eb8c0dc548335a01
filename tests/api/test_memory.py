"""Memory: the count of what is alive, and a prediction without weights beside the same count of real steps."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.footprints import configuration, same
from zofo import InputError
from zofo.api.memory.footprint import Rows, measure, predict
from zofo.api.memory.live import Live

# ---- the count


def test_a_storage_counts_once_and_until_it_is_freed() -> None:
    with Live(vocabulary=7) as live, live.during("a"):
        x = torch.zeros(1000)
        y = x.view(10, 100)[2:5]
        x += 1
        del x
        with live.during("b", "scratch"):
            z = torch.empty(100, dtype=torch.bfloat16)
        del y
        with live.during("c"):
            w = torch.zeros(10, 7)
    assert live.peaks["a"].total == 4000, "the view keeps all of it, and takes nothing"
    assert (live.peaks["b"].total, live.peaks["b"].parts["scratch"]) == (4200, 200)
    assert {part: n for part, n in live.peaks["c"].parts.items() if n} == {"scratch": 200, "logits": 280}
    del z, w


def test_what_a_backward_pass_keeps() -> None:
    """d / dx exp(x): exp's result is kept, and beside it the gradient that comes and the one that goes."""
    x = torch.zeros(1000, requires_grad=True)
    live = Live(vocabulary=7)
    live.claim([x], "weights")
    with live:
        with live.during("forward"):
            y = x.exp()
        with live.during("backward"):
            y.backward(torch.ones(1000))
    assert live.peaks["forward"].total == 2 * 4000
    assert live.peaks["backward"].total == 4 * 4000


# ---- predicted beside measured

CASES = [
    ("fo-peft", "lora", []),
    ("mezo", None, ["rule.name=adam"]),
    ("mezo", None, ["rule.rounding=split", "model.dtype=bfloat16"]),
    ("mezo", None, ["estimator.shift=copy"]),
    ("fo-peft", "lora", ["train.gradient_checkpointing=true"]),
    ("bilevel-zofo", "lora", []),
    ("fo-ft", None, []),
]


# One that has all parts in every run of the suite
@pytest.mark.parametrize(
    ("method", "adapter", "overrides"),
    [case if case[0] == "bilevel-zofo" else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_prediction_on_the_data(
    tiny_model_dir: Path, sentiment_file: Path, method: str, adapter: str | None, overrides: list[str]
) -> None:
    config = configuration(tiny_model_dir, sentiment_file, *overrides, method=method, adapter=adapter)
    same(predict(config), measure(config))


def test_prediction_on_made_up_rows(tiny_opt_dir: Path) -> None:
    config, rows = configuration(tiny_opt_dir, "sst2", method="mezo"), Rows(24, options=2, answer=3)
    predicted = predict(config, rows)
    same(predicted, measure(config, rows))
    assert predicted.batches == {"train": (4, 8, 24), "evaluation": (4, 8, 24)}


def test_parts_by_hand(tiny_model_dir: Path, tiny_llama_untied_dir: Path) -> None:
    """AdamW on theta: a gradient and two moments a weight (and a step count a tensor); tied weights count once."""
    sizes = []
    for folder in (tiny_model_dir, tiny_llama_untied_dir):
        footprint = predict(configuration(folder, "sst2", method="fo-ft"), Rows(24))
        (update,) = (peak for peak in footprint.peaks if peak.phase == "first-order update, theta")
        weights = update.parts["weights"]
        assert update.parts["gradients"] == pytest.approx(weights, rel=0.01)  # buffers have none
        assert update.parts["moments"] == pytest.approx(2 * weights, rel=0.01)
        sizes.append(weights)
    assert sizes[1] - sizes[0] == 4 * 400 * 32, "the head of its own: vocabulary times width"


# ---- what a prediction leaves alone


def test_no_weights_are_read_and_nothing_is_drawn(tiny_model_dir: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_model_dir / "config.json", tmp_path)
    config = configuration(tmp_path, "sst2", method="mezo")
    before = torch.get_rng_state()
    small, large = (predict(config, Rows(length)).peak.total for length in (16, 64))
    assert small < large
    assert torch.equal(before, torch.get_rng_state())


def test_a_run_after_a_prediction_is_untouched(tiny_model_dir: Path) -> None:
    """What a prediction replaces is put back, after an error too."""
    from torch import nn

    from zofo.zo import kernels

    before = kernels._backend, nn.Module._apply
    with pytest.raises(InputError, match="--length: 500 is more than the 128 tokens"):
        predict(configuration(tiny_model_dir, "sst2", method="mezo"), Rows(500))
    assert (kernels._backend, nn.Module._apply) == before


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    config = configuration(tmp_path, "sst2", method="mezo")
    with pytest.raises(InputError, match=r"has no config\.json"):
        predict(config, Rows(8))
    (tmp_path / "config.json").write_text('{"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}')
    with pytest.raises(InputError, match="encoder-decoder"):
        predict(config, Rows(8))
