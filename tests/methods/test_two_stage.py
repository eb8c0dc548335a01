"""two-stage: fo-peft, then mezo, with the border where Bilevel ZOFO's counts have it."""

from __future__ import annotations

import pytest
import torch

from tests.float64_llama import widen
from tests.tiny_bilevel import EPS, direction, moved, ready, same, values, world
from zofo import finetune
from zofo.errors import InputError
from zofo.methods import fo_peft, two_stage
from zofo.zo.grad import float32


def test_two_stage_is_fo_peft_then_mezo() -> None:
    w, rival = world(), world()
    w.f, rival.f = [w.f[0], w.f[1], *w.p[:4]], [rival.f[0], rival.f[1], *rival.p[:4]]
    problem = w.problem(total=6)
    method = ready(two_stage.Method(two_stage.Config(inner_steps=2, lr=1e-2, lr_theta=1e-3)), problem)
    first = ready(fo_peft.Method(fo_peft.Config(lr=1e-2)), rival.problem())
    start = w.theta.sha256()
    for k in range(4):
        assert method.step(k)["loss"] == first.step(k)["loss"]
    assert same(w.adapters.state("p"), rival.adapters.state("p"))
    assert w.theta.sha256() == start
    resting = values(w.adapters.parameters("p"))
    for k in range(4, 6):
        before, z = widen(w.theta), direction(w.theta, k)
        p = widen(w.adapters.parameters("p"))
        plus, minus = (float(w.wide.loss(moved(before, z, e), p, w.f[k])) for e in (EPS, -EPS))
        c = method.step(k)["c"]
        assert c == pytest.approx((plus - minus) / (2 * EPS), rel=3e-5, abs=1e-4)
        for name, value in w.theta.items():
            assert torch.equal(value, before[name].float() + torch.tensor(float32(-1e-3 * c)) * z[name])
    assert same(values(w.adapters.parameters("p")), resting)
    assert method.updates(3) == {"lower": 3, "upper": 0}
    assert method.updates(6) == {"lower": 4, "upper": 2}


@pytest.mark.parametrize(("total", "first"), [(11, 10), (165, 150), (100, 91), (330, 300)])
def test_two_stage_counts_as_bilevel_zofo_does(total: int, first: int) -> None:
    method = ready(two_stage.Method(two_stage.Config()), world().problem(total=total))
    assert method.first == first
    assert total // 11 == total - first


def test_two_stage_keeps_its_border_when_a_run_is_made_longer() -> None:
    method = ready(two_stage.Method(two_stage.Config()), world().problem(total=110))
    state = method.state_dict()
    longer = ready(two_stage.Method(two_stage.Config()), world().problem(total=220))
    longer.load_state_dict(state)
    assert longer.first == 100


def test_a_run_without_a_second_stage_is_refused(tiny_model_dir, sentiment_file, tmp_path) -> None:
    with pytest.raises(InputError, match=r"train\.max_steps: 10 is less than the 11 counted steps"):
        finetune(str(tiny_model_dir), str(sentiment_file), "two-stage", output_dir=tmp_path / "out", max_steps=10)


def test_stages_are_no_iterations_to_count(tiny_model_dir, sentiment_file, tmp_path) -> None:
    with pytest.raises(InputError, match=r"train\.count: outer counts iterations, and method two-stage has stages"):
        finetune(
            str(tiny_model_dir),
            str(sentiment_file),
            "two-stage",
            "lora",
            output_dir=tmp_path / "out",
            max_steps=22,
            count="outer",
        )
    assert not (tmp_path / "out").exists()
