"""Where p is s to the bit the penalty is 0 at every theta: its forwards are left out, and no number is another one.

The rival of each case is the way with all three terms of G.
"""

from __future__ import annotations

import json
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import read_rows
from tests.small_runs import SMALL
from tests.thinned import latin
from tests.tiny_bilevel import SEED, values, world
from tests.tiny_models import PAD
from zofo import finetune
from zofo.data.batch import collate
from zofo.methods import bilevel_ablations, bilevel_zofo
from zofo.methods._problem import Problem
from zofo.objectives import _loss
from zofo.zo.estimators import lozo, one_sided, spsa, subzero, svrg
from zofo.zo.journalled import Journalled
from zofo.zo.rules import adam, conservative

ESTIMATORS: dict[str, Any] = {
    "spsa": lambda: spsa.Estimator(spsa.Config(eps=1e-2)),
    "spsa-q3": lambda: spsa.Estimator(spsa.Config(eps=1e-2, q=3)),
    "spsa-inplace": lambda: spsa.Estimator(spsa.Config(eps=1e-2, shift="inplace")),
    "one-sided": lambda: one_sided.Estimator(one_sided.Config(eps=1e-2)),
    "lozo": lambda: lozo.Estimator(lozo.Config(eps=1e-2)),
    "subzero": lambda: subzero.Estimator(subzero.Config(eps=1e-2)),
}


def all_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bilevel_zofo.Penalised, "cancels", False)


def steps(
    estimator: Any = None, rule: Any = None, micro: int | None = None, dtype: Any = torch.float32, **settings: Any
) -> dict[str, Any]:
    """Two iterations on the tiny Llama: theta's digest, p, s, c and G of each, and what it cost."""
    w = world("options", micro=micro, dtype=dtype)
    problem: Problem = w.problem()
    problem.metric = problem.loss
    problem.streams = {name: cycle(list(stream)) for name, stream in problem.streams.items() if name != "train"}
    if estimator is not None:
        problem.estimator = estimator
    if rule is not None:
        problem.rule = Journalled(rule.Rule(rule.Config(), SEED), None)
    method = w.method(problem, **{"lr_theta": 1e-3, "lr_s": 0.1, "lr_p": 0.1, "inner_steps": 1, **settings})
    metrics = [method.step(k) for k in range(2)]
    adapters = {name: [t.tolist() for t in values(w.adapters.parameters(name)).values()] for name in ("p", "s")}
    return {
        "numbers": (w.theta.sha256(), adapters, metrics),
        "details": method.details,
        "meter": w.loss.meter.state_dict(),
    }


# 5 examples at once: apart, p and s together, all together; and in micro-batches that hold rows of two terms
BOUNDS = {"apart": 0, "two": 150, "all": 10_000}


@pytest.mark.parametrize(("estimator", "bound"), latin(list(ESTIMATORS), list(BOUNDS)))
def test_the_same_bits_from_fewer_forwards(estimator: str, bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_loss.SHARED_TOKENS, "cpu", BOUNDS[bound])
    ours = steps(ESTIMATORS[estimator](), p_start="s")
    all_terms(monkeypatch)
    rival = steps(ESTIMATORS[estimator](), p_start="s")
    assert ours["numbers"] == rival["numbers"]
    assert set(ours["details"]) == {"G_f"}
    assert ours["details"]["G_f"] == rival["details"]["G_f"]
    assert rival["details"]["G_p"] == rival["details"]["G_s"]
    if bound == "all":
        assert ours["meter"]["forwards"] == rival["meter"]["forwards"]
        assert ours["meter"]["tokens"] < rival["meter"]["tokens"]
    else:
        assert ours["meter"]["forwards"] < rival["meter"]["forwards"]


def test_two_forwards_in_place_of_six(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the lower step's one and the two of p's gradient."""
    monkeypatch.setitem(_loss.SHARED_TOKENS, "cpu", 0)
    assert steps(p_start="s")["meter"]["forwards"] == 2 * (1 + 2 + 2)
    all_terms(monkeypatch)
    assert steps(p_start="s")["meter"]["forwards"] == 2 * (1 + 2 + 6)


CASES: list[dict[str, Any]] = [
    {"micro": 1},
    {"micro": 2},
    {"micro": 3},
    {"micro": 4},
    {"dtype": torch.bfloat16},
    {"rule": conservative},
    {"rule": adam},
    {"p_steps": 3},
    {"s_start": "from_p"},
    {"lam_schedule": "linear", "lam_start": 0.0},
    {"upper_objective": "metric"},
]


@pytest.mark.parametrize(
    ("case", "bound"), latin(CASES, list(BOUNDS), label=lambda case, bound: f"{next(iter(case))}-{bound}")
)
def test_with_what_else_may_be_asked(case: dict[str, Any], bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_loss.SHARED_TOKENS, "cpu", BOUNDS[bound])
    ours = steps(p_start="s", **case)["numbers"]
    all_terms(monkeypatch)
    assert ours == steps(p_start="s", **case)["numbers"]


def test_svrg_whose_anchor_is_of_g(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> dict[str, Any]:
        return steps(svrg.Estimator(svrg.Config(eps=1e-2, anchor_batches=1)), p_start="s")

    ours = run()
    all_terms(monkeypatch)
    assert ours["numbers"] == run()["numbers"]


def test_it_is_the_weights_that_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """p = s at the start of Algorithm 2 without lower steps, and at rest; any other weight, and all terms count."""
    monkeypatch.setitem(_loss.SHARED_TOKENS, "cpu", 0)
    w = world("options", trained=False)
    method = w.method(inner_steps=0, lr_p=0.0)
    for k in range(2):
        method.step(k)
        assert set(method.details) == {"G_f"}
    next(iter(w.adapters.parameters("p").values())).data.view(-1)[-1] += 1e-6
    method = w.method(inner_steps=0, lr_p=0.0)
    before = w.loss.meter.forwards
    method.step(0)
    assert set(method.details) == {"G_f", "G_p", "G_s"}
    assert w.loss.meter.forwards - before == 2 + 6
    own = world("options").method(inner_steps=1, lr_s=0.1)
    own.step(0)
    assert set(own.details) == {"G_f", "G_p", "G_s"}


def test_a_z_of_its_own_for_each_term_leaves_none_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Along different z they do not cancel."""
    ours = steps(p_start="s", independent_z=True)
    all_terms(monkeypatch)
    rival = steps(p_start="s", independent_z=True)
    assert ours["numbers"] == rival["numbers"]
    assert ours["meter"] == rival["meter"]


def test_minus_zero_is_zero_as_with_a_penalty_of_zero() -> None:
    """Minus a metric of 0 is -0.0, and c of 0.0 - (-0.0) and of -0.0 - 0.0 have other bits."""
    w = world("options", trained=False)
    metric = w.loss.of(w.loss.objective)
    metric.each = lambda parts: [-0.0]  # pyright: ignore[reportAttributeAccessIssue]
    batch_f, batch_p = (collate(e, PAD) for e in (w.f[0], w.p[0]))
    G = bilevel_ablations.Penalised(w.loss, w.adapters, batch_f, batch_p, 10.0, metric)
    assert G.cancels
    assert str(G()) == "0.0"


def test_it_is_said_once_and_only_where_it_holds() -> None:
    def remarks(**settings: Any) -> tuple[str, ...]:
        return bilevel_ablations.Method(bilevel_ablations.Config(**settings)).remarks

    (line,) = remarks(p_start="s")
    assert "method.p_start=s" in line
    assert remarks() == remarks(p_start="s", lam=0.0) == remarks(p_start="s", independent_z=True) == ()
    assert remarks(p_start="s", lam=0.0, lam_start=1.0, lam_schedule="linear") == (line,)


def test_a_run_has_the_same_files(tiny_model_dir, sentiment_file, tmp_path, monkeypatch, capsys) -> None:
    """Journal, adapters, theta's digest, dev and test; metrics.jsonl but for the terms that nobody computed."""

    def run(name: str) -> Path:
        out = tmp_path / name
        method = {"name": "bilevel-ablations", "inner_steps": 1, "p_start": "s", "lr_theta": 1e-3}
        finetune(str(tiny_model_dir), str(sentiment_file), method, "lora", output_dir=out, **SMALL)
        return out

    ours = run("ours")
    assert capsys.readouterr().err.count("the penalty's terms cancel") == 1
    all_terms(monkeypatch)
    rival = run("rival")
    capsys.readouterr()

    def tensors(out: Path) -> dict[str, bytes]:
        files = [
            path for path in out.rglob("*") if path.suffix == ".safetensors" or path.name.startswith("predictions")
        ]
        return {str(path.relative_to(out)): path.read_bytes() for path in [*files, out / "journal.bin"]}

    assert tensors(ours) == tensors(rival)
    terms, counted = ("G_p", "G_s"), ("forwards", "tokens", "examples_seen")
    lines = [read_rows(out / "metrics.jsonl") for out in (ours, rival)]
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in lines[0]] == [
        {k: v for k, v in row.items() if k not in ("seconds", *terms)} for row in lines[1]
    ]
    infos = [json.loads((out / "run.json").read_text()) for out in (ours, rival)]
    for name in ("dev", "test", "best_step", "deployed", "steps", "backward_passes"):
        assert infos[0][name] == infos[1][name]
    assert all(infos[0][name] <= infos[1][name] for name in counted)
    assert infos[0]["tokens"] < infos[1]["tokens"]
