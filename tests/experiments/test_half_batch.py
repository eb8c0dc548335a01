"""Half-batch steps: probabilities that are known by hand, theta to the last bit, resuming, the tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from experiments.half_batch import run
from experiments.half_batch_plan import Plan
from experiments.half_batch_table import raises, share, tables
from experiments.half_batch_trial import Arm, Bench, Trial
from torch import Tensor, nn

from tests import tiny_models
from tests.conftest import ROOT, sentiment_rows, write_rows
from zofo.zo.direction import Direction
from zofo.zo.point import Point

SIZE = 64


@dataclass(frozen=True)
class Bowl:
    """A half whose loss is slope'w + bend |w|^2 / 2."""

    slope: Tensor
    bend: float = 0.0


class Weights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.linspace(-1, 1, SIZE, dtype=torch.float64).view(8, 8))


class Loss:
    """The part of zofo's Loss that a trial uses, on any model and any loss of it."""

    def __init__(self, model: nn.Module, of: Any) -> None:
        self.model, self.of = model, of

    @torch.no_grad()
    def __call__(self, batch: Any) -> float:
        return float(self.of(self.model, batch))

    def backward(self, batch: Any) -> float:
        value = self.of(self.model, batch)
        value.backward()
        return float(value.detach())


def bowl_loss(model: Weights, bowl: Bowl) -> Tensor:
    w = model.w.flatten() * 1.0
    return bowl.slope @ w + bowl.bend * w @ w / 2


def bowls(a: Bowl, b: Bowl, arms: Sequence[Arm], trials: int = 1, mode: str = "copy") -> list[dict[str, Any]]:
    model = Weights()
    bench = Bench(Point(model, mode=mode), Loss(model, bowl_loss), sorted({arm.band for arm in arms if arm.band}))
    return [Trial(bench, a, b, Direction(seed), 1e-3).run(arms) for seed in range(trials)]


def unit(at: slice) -> Tensor:
    slope = torch.zeros(SIZE, dtype=torch.float64)
    slope[at] = 1.0
    return slope


TINY = 1e-6
ZO, SGD = Arm("zo", "zo", [TINY]), Arm("sgd", "sgd", [TINY])


def test_a_tiny_step_never_raises_its_own_half_and_orthogonal_halves_agree_half_the_time() -> None:
    """The halves' slopes use other weights, so their signs along z are independent: 1 - arccos(0) / pi = 1 / 2."""
    trials = bowls(Bowl(unit(slice(0, 31))), Bowl(unit(slice(31, 62))), [ZO, SGD], 200)  # odd sums of signs: never 0
    assert all(not raises(trial, ZO, TINY, 0) and not raises(trial, SGD, TINY, 0) for trial in trials)
    assert all(trial["gradients"]["all"]["cos"] == 0 for trial in trials)
    raised = sum(raises(trial, ZO, TINY, 1) for trial in trials)
    assert 0.35 < raised / 200 < 0.65
    assert not any(raises(trial, SGD, TINY, 1) for trial in trials), "SGD moves no weight that the other half uses"


@pytest.mark.parametrize(("sign", "raised"), [(1.0, False), (-1.0, True)])
def test_halves_of_one_slope_or_of_opposite_ones(sign: float, raised: bool) -> None:
    slope = unit(slice(0, 31))
    for trial in bowls(Bowl(slope), Bowl(sign * slope), [ZO, SGD], 20):
        assert raises(trial, ZO, TINY, 1) == raises(trial, SGD, TINY, 1) == raised
        assert trial["gradients"]["all"]["cos"] == pytest.approx(sign)


def test_the_rate_at_which_a_quadratic_loss_begins_to_rise() -> None:
    """z'Hz = bend * size for signs, so ZO's step rises beyond 2 / (bend size), whatever z; SGD's beyond 2 / bend."""
    bend, half = 3.0, Bowl(torch.zeros(SIZE, dtype=torch.float64), 3.0)
    limit = 2 / (bend * SIZE)
    zo, sgd = Arm("zo", "zo", [0.9 * limit, 1.1 * limit]), Arm("sgd", "sgd", [1.8 / bend, 2.2 / bend])
    for trial in bowls(half, half, [zo, sgd], 20):
        assert trial["curvature"] == pytest.approx(bend * SIZE, rel=1e-6)
        for arm in (zo, sgd):
            assert [raises(trial, arm, rate, 0) for rate in arm.rates] == [False, True]


def test_lengths_and_predictions() -> None:
    """On a linear loss the prediction is exact; every band's step is as long as the step it is compared with."""
    slope = torch.arange(1.0, SIZE + 1, dtype=torch.float64)
    small, large = (Arm(f"sgd {b}", "sgd", [0.1], b) for b in ((0.0, 0.25), (0.75, 1.0)))
    arms = [Arm("zo", "zo", [0.1]), Arm("sgd", "sgd", [0.1]), small, large, Arm("long", "sgd", [0.1], None, "zo")]
    (trial,) = bowls(Bowl(slope), Bowl(slope), arms)
    steps = {step["arm"]: step for step in trial["steps"]}
    for step in steps.values():
        assert trial["before"][0] - step["after"][0] == pytest.approx(step["predicted"], rel=1e-6)
    assert steps["zo"]["norm"] == pytest.approx(0.1 * abs(trial["c"]) * SIZE**0.5)
    assert steps["sgd"]["norm"] == steps[small.name]["norm"] == steps[large.name]["norm"]
    assert steps["sgd"]["norm"] == pytest.approx(0.1 * float(slope.norm()))
    assert steps["long"]["norm"] == steps["zo"]["norm"]


def test_a_band_is_a_quarter_of_each_matrix_and_no_vector() -> None:
    model = tiny_models.build("llama-untied")
    bands = [(0.0, 0.25), (0.75, 1.0)]
    bench = Bench(Point(model), None, bands)
    for name, w in bench.start.items():
        small, large = (bench.masked(name, torch.ones_like(w), band) for band in bands)
        if w.ndim < 2:
            assert not small.any()
            assert not large.any()
        else:
            assert small.sum() == large.sum() == w.numel() // 4
            assert w[small.bool()].abs().max() <= w[large.bool()].abs().min()


@pytest.mark.parametrize("mode", ["layer", "copy"])
def test_theta_returns_to_its_last_bit(mode: str) -> None:
    model = tiny_models.build("llama")
    before = {name: p.clone() for name, p in model.named_parameters()}

    def of(model: nn.Module, ids: Tensor) -> Tensor:
        logits = model(input_ids=ids, use_cache=False).logits
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    arms = [Arm("zo", "zo", [1e-3, 10.0]), Arm("sgd", "sgd", [1e-3, 10.0]), Arm("s", "sgd", [1.0], (0.0, 0.25))]
    bench = Bench(Point(model, mode=mode), Loss(model, of), [(0.0, 0.25)])
    trial = Trial(bench, tiny_models.IDS[:1], tiny_models.IDS[1:], Direction(3), 1e-3).run(arms)
    assert all(step["after"] != trial["before"] for step in trial["steps"]), "every step moved the model"
    for name, p in model.named_parameters():
        assert torch.equal(p.view(torch.uint8), before[name].view(torch.uint8))
        assert p.grad is None
        assert not p.requires_grad
    next(model.parameters())[0] += 1e-7
    with pytest.raises(RuntimeError, match="did not return"):
        bench.check()


def test_arms_that_make_no_sense() -> None:
    for wrong in ({"kind": "adam"}, {"kind": "zo", "band": (0, 0.25)}, {"kind": "sgd", "norm_of": "adam"}):
        with pytest.raises(ValueError, match="arm x"):
            Arm.read("x", {"rates": [1.0], **wrong})
    with pytest.raises(ValueError, match="arm x: unknown norm"):
        Arm.read("x", {"kind": "sgd", "rates": [1.0], "norm": "zo"})


PLAN = """
part: 2
shared: {model.dtype: float32, estimator.shift: copy, task.train_examples: 40, task.dev_examples: 4,
  task.test_examples: 4, train.micro_batch_size: 2, train.threads: 1}
tasks: {movie-reviews: {half: 3, trials: 3, longest: 60}}
thetas: {pretrained: {steps: 0}, trained: {steps: 2, lr: 1.0e-3, batch_size: 4}}
arms:
  zo: {kind: zo, rates: [1.0e-7, 1.0e-3]}
  sgd: {kind: sgd, rates: [1.0e-6]}
  small: {kind: sgd, band: [0, .25], rates: [1.0e-6]}
"""


def test_a_plan_is_run_resumed_and_shown(tmp_path: Path, tiny_model_dir: Path) -> None:
    folder = tmp_path / "data" / "movie-reviews"
    folder.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        rows = [
            {"id": i, "text": f"{split} {row['text']}", "label": int(row["label"] == "great")}
            for i, row in enumerate(sentiment_rows(60))
        ]
        write_rows(folder / f"{split}.jsonl", rows)
    (tmp_path / "plan.yaml").write_text(PLAN)
    plan, said = Plan(tmp_path / "plan.yaml", tmp_path / "results"), []
    where = str(tiny_model_dir), [tmp_path / "elsewhere", tmp_path / "data"]

    run(plan, *where, minutes=0, say=said.append)
    assert "are over" in said[-1]
    assert "---|" in tables(plan)
    run(plan, *where, minutes=1e9, say=said.append)
    files = {file.name: file.read_bytes() for file in plan.results.iterdir()}
    assert len(files) == 4, "two parts of each theta"
    trials = [json.loads(files[f"movie-reviews-{theta}-0000.json"])["trials"] for theta in plan.data["thetas"]]
    assert trials[0][0]["before"] != trials[1][0]["before"]
    assert "| all | pretrained | zo | 1e-07 | 3 |" in tables(plan)
    assert "| movie-reviews | trained | small | 1e-06 | 3 |" in tables(plan, by_task=True)

    (plan.results / "movie-reviews-trained-0002.json").unlink()
    said.clear()
    run(plan, *where, minutes=1e9, say=said.append)
    assert len(said) == 1, "what was finished is not done again"
    again = {file.name: file.read_bytes() for file in plan.results.iterdir()}
    assert again.keys() == files.keys()
    assert _numbers(again) == _numbers(files)

    (plan.results / "movie-reviews-trained-0002.json").unlink()
    other = plan.results / "movie-reviews-trained-0000.json"
    other.write_text(other.read_text().replace('"sha256": "', '"sha256": "0'))
    with pytest.raises(RuntimeError, match="theta differs"):
        run(plan, *where, minutes=1e9, say=said.append)
    with pytest.raises(FileNotFoundError, match="no folder movie-reviews"):
        run(plan, str(tiny_model_dir), [tmp_path / "elsewhere"], minutes=1e9)


def _numbers(files: dict[str, bytes]) -> dict[str, Any]:
    return {name: json.loads(raw)["trials"] for name, raw in files.items()}


def test_shares_have_wilsons_interval() -> None:
    assert share([True, False, False, False]) == "0.25 (0.05 to 0.70)"
    assert share([False] * 10) == "0.00 (0.00 to 0.28)"


def test_the_plan_of_the_repository_is_readable() -> None:
    plan = Plan(ROOT / "experiments" / "half_batch_smollm2.yaml")
    assert len({part.name for part in plan.parts()}) == len(list(plan.parts()))
    assert yaml.safe_dump(plan.data["shared"])
