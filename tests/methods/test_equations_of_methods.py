"""fo-ft, bilevel-fo, two-stage, mezo on an adapter, and the options of Bilevel ZOFO, each against its equation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.float64_llama import gradient, widen
from tests.tiny_bilevel import EPS, SEED, World, direction, moved, one_thread, world
from zofo import evaluate, finetune
from zofo.config import registry
from zofo.errors import InputError
from zofo.methods import bilevel_fo, bilevel_zofo, fo_ft, fo_peft, mezo, two_stage
from zofo.methods._problem import Problem
from zofo.zo.estimators import spsa
from zofo.zo.grad import float32
from zofo.zo.journal import read_header, read_records
from zofo.zo.kernels import reference
from zofo.zo.keys import derive, tensor_key
from zofo.zo.point import Point


@pytest.fixture(autouse=True)
def few_threads() -> Iterator[None]:
    with one_thread():
        yield


def ready(method: Any, problem: Problem) -> Any:
    method.setup(problem)
    return method


def values(tensors: Any) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in tensors.items()}


def leaves(tensors: Any) -> dict[str, Tensor]:
    return {name: value.requires_grad_(True) for name, value in widen(tensors).items()}


def same(one: Any, two: Any) -> bool:
    return all(torch.equal(one[name], two[name]) for name in two)


# ----------------------------------------------------------------------------------------------- first-order on theta


def test_fo_ft_descends_the_loss_of_every_weight() -> None:
    """Plain SGD shows the gradient: theta moves by lr times the float64 gradient, and nothing else does."""
    w = world("options")
    problem = w.problem()
    theta = leaves(w.theta)
    adapter = widen(w.adapters.parameters("p"))  # active while it rests: its part is in the loss
    want = dict(zip(theta, gradient(w.wide.loss(theta, adapter, w.f[0]), list(theta.values()))))
    before = values(w.theta)
    ready(fo_ft.Method(fo_ft.Config(lr=0.5, optimizer="sgd")), problem).step(0)
    for name, value in w.theta.items():
        scale = float(want[name].abs().max())
        torch.testing.assert_close((before[name] - value).double() / 0.5, want[name], rtol=1e-4, atol=1e-4 * scale)
        assert value.grad is None
        assert not value.requires_grad


def test_bilevel_fo_is_equation_6_with_the_sign_of_equation_5() -> None:
    w, lam, lr = world(), 7.0, 0.05
    problem = w.problem()
    problem.estimator = problem.rule = None
    theta, p, s = leaves(w.theta), leaves(w.adapters.parameters("p")), widen(w.adapters.parameters("s"))
    F = w.wide.loss
    G = F(theta, p, w.f[0]) + lam * (F(theta, p, w.p[0]) - F(theta, s, w.p[0]))
    grads = gradient(G, [*theta.values(), *p.values()])
    before = values(w.theta), values(w.adapters.parameters("p")), values(w.adapters.parameters("s"))
    config = bilevel_fo.Config(lam=lam, inner_steps=0, lr_p=lr, lr_theta=lr, optimizer="sgd", optimizer_theta="sgd")
    ready(bilevel_fo.Method(config), problem).step(0)
    after = {**w.theta, **w.adapters.parameters("p")}
    for (name, value), want, old in zip(after.items(), grads, [*before[0].values(), *before[1].values()]):
        found = (old - value.detach()).double() / lr
        torch.testing.assert_close(found, want, rtol=1e-3, atol=2e-4 * float(want.abs().max()), msg=name)
    assert same(values(w.adapters.parameters("s")), before[2])
    assert all(t.grad is None for t in (*w.theta.values(), *w.adapters.parameters("s").values()))


def test_bilevel_fo_moves_s_and_p_as_algorithm_2_does() -> None:
    """With lr_theta = 0 the two algorithms are one, bit for bit."""
    found = []
    for module in (bilevel_zofo, bilevel_fo):
        w = world()
        method = ready(module.Method(module.Config(inner_steps=2, lr_theta=0.0)), w.problem())
        method.step(0)
        found.append({**values(w.adapters.parameters("p")), **{"s" + k: v for k, v in w.adapters.state("s").items()}})
    assert same(*found)


# ------------------------------------------------------------------------------------------------------------ two-stage


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


# --------------------------------------------------------------------------------------------------- mezo on an adapter


def test_mezo_on_an_adapter_moves_that_adapter_alone() -> None:
    w = world()
    backbone, s = w.theta.sha256(), values(w.adapters.parameters("s"))
    tensors = w.adapters.parameters("p")
    problem = w.problem()
    problem.theta = Point(w.adapters.model, params=tensors)
    method = ready(mezo.Method(mezo.Config(lr=1e-2), with_adapter=True), problem)
    assert (method.theta_of, method.adapters_used, method.candidates) == ("adapter", ("p",), ("p",))
    theta = widen(w.theta)
    for k in range(2):
        before, seed = widen(tensors), derive(SEED, "z", k)
        z = {n: reference.signs(seed, tensor_key(n), 0, t.numel()).view(t.shape) for n, t in tensors.items()}
        plus, minus = (float(w.wide.loss(theta, moved(before, z, e), w.f[k])) for e in (EPS, -EPS))
        c = method.step(k)["c"]
        assert c == pytest.approx((plus - minus) / (2 * EPS), rel=3e-5, abs=1e-4)
        for name, value in tensors.items():
            assert torch.equal(value, before[name].float() + torch.tensor(float32(-1e-2 * c)) * z[name])
    assert w.theta.sha256() == backbone
    assert same(values(w.adapters.parameters("s")), s)


# -------------------------------------------------------------------------------------------- options of Bilevel ZOFO


def bilevel(w: World, problem: Problem | None = None, **settings: Any) -> bilevel_zofo.Method:
    return w.method(problem, **settings)


@pytest.mark.parametrize(
    ("kind", "expected"), [("linear", [2.0, 4.0, 6.0, 8.0]), ("geometric", [2.0, 3.1748, 5.0397, 8.0])]
)
def test_lambda_goes_from_lam_start_to_lam(kind: str, expected: list[float]) -> None:
    """4 iterations of 3 counted steps, the first at lam_start and the last at lam; the same when upper steps count."""
    for total, count in ((12, "all"), (13, "all"), (4, "outer")):
        problem = world().problem(total=total, count=count)
        method = bilevel(world(), problem, lam=8.0, lam_start=2.0, lam_schedule=kind, inner_steps=2)
        assert [method.lam(k) for k in range(4)] == pytest.approx(expected, rel=1e-4)
        assert method.lam(9) == 8.0


def test_what_counts() -> None:
    """`all`: T lower and one upper update an iteration; `outer`: one. Schedules go by it."""
    rates: list[int] = []

    def rate(value: float, step: int) -> float:
        rates.append(step)
        return value

    for count, expected in (("all", [3, 4, 5, 5]), ("outer", [1, 1, 1, 1])):
        rates.clear()
        bilevel(world(), world().problem(rate=rate, count=count), inner_steps=2).step(1)
        assert rates[:4] == expected


def test_s_starts_warm_at_p_or_anew() -> None:
    starts = {}
    for s_start in ("warm", "from_p", "reset"):
        w = world()
        initial = values(w.adapters.parameters("s"))
        method = bilevel(w, s_start=s_start, inner_steps=1, lr_s=0.1, lr_p=0.1, optimizer="adamw")
        method.step(0)
        p, s = values(w.adapters.parameters("p")), values(w.adapters.parameters("s"))
        assert method.opt_s.state_dict()
        method.start_s()
        starts[s_start] = values(w.adapters.parameters("s"))
        assert same(starts[s_start], {"warm": s, "from_p": p, "reset": initial}[s_start])
        assert bool(method.opt_s.state_dict()) == (s_start == "warm")
        assert not same(s, p)
        assert not same(s, initial)


def test_p_restarted_at_s_takes_its_step_from_there() -> None:
    """At p = s the penalty is 0, so G is F(theta, s; B_f) and p leaves s by one step of (8)."""
    w, lr = world(), 0.05
    method = bilevel(w, p_start="s", inner_steps=1, lr_s=0.3, lr_p=lr, lam=5.0, lr_theta=0.0)
    metrics = method.step(0)
    s = leaves(w.adapters.parameters("s"))
    theta = widen(w.theta)
    F = w.wide.loss
    z = direction(w.theta, 0)
    sides = [float(F(moved(theta, z, e), widen(s), w.f[0])) for e in (EPS, -EPS)]
    assert metrics["G"] == pytest.approx(sum(sides) / 2, rel=1e-5)
    assert metrics["c"] == pytest.approx((sides[0] - sides[1]) / (2 * EPS), rel=1e-3, abs=1e-3)
    want = dict(zip(s, gradient(F(theta, s, w.f[0]) + 5.0 * F(theta, s, w.p[1]), list(s.values()))))
    biggest = max(float(g.abs().max()) for g in want.values())
    for name, value in w.adapters.parameters("p").items():
        found = (s[name].detach() - value.detach().double()) / lr
        torch.testing.assert_close(found, want[name], rtol=1e-3, atol=2e-4 * biggest)


def test_more_steps_of_p_are_on_batches_of_their_own() -> None:
    """Two steps of p: the second at the new theta and p, on the next B_f and B_p; each is a counted upper update."""
    w, lr = world(), 0.05
    method = bilevel(w, p_steps=2, inner_steps=0, lr_p=lr, lam=5.0, lr_theta=1e-3)
    once = world()
    bilevel(once, inner_steps=0, lr_p=lr, lam=5.0, lr_theta=1e-3).step(0)
    method.step(0)
    assert same(values(w.theta), values(once.theta))
    p, theta, F = leaves(once.adapters.parameters("p")), widen(once.theta), w.wide.loss
    want = dict(zip(p, gradient(F(theta, p, w.f[1]) + 5.0 * F(theta, p, w.p[1]), list(p.values()))))
    biggest = max(float(g.abs().max()) for g in want.values())
    for name, value in w.adapters.parameters("p").items():
        found = (p[name].detach() - value.detach().double()) / lr
        torch.testing.assert_close(found, want[name], rtol=1e-3, atol=2e-4 * biggest)
    assert method.updates(3) == {"lower": 0, "upper": 6}


def test_tied_rates() -> None:
    """One zeta: p moves at theta's rate."""
    found = []
    choices: list[dict[str, Any]] = [{"tie_upper": True}, {"lr_p": 1e-3}]
    for settings in choices:
        w = world()
        bilevel(w, inner_steps=1, lr_theta=1e-3, **settings).step(0)
        found.append(values(w.adapters.parameters("p")))
    assert same(*found)


def test_independent_z_is_the_sum_of_three_estimates() -> None:
    """Each term of (9) with its own z: theta moves along three directions, whose coefficients are float64's."""
    w, lam, lr = world(), 7.0, 1e-3
    theta, p, s = widen(w.theta), widen(w.adapters.parameters("p")), widen(w.adapters.parameters("s"))
    F = w.wide.loss
    terms = (
        ("z", lambda at: F(at, p, w.f[0])),
        ("z/p", lambda at: lam * F(at, p, w.p[0])),
        ("z/s", lambda at: -lam * F(at, s, w.p[0])),
    )
    want = {name: torch.zeros_like(value) for name, value in theta.items()}
    for purpose, f in terms:
        seed = derive(SEED, purpose, 0)
        z = {n: reference.signs(seed, tensor_key(n), 0, t.numel()).view(t.shape) for n, t in theta.items()}
        c = float(f(moved(theta, z, EPS)) - f(moved(theta, z, -EPS))) / (2 * EPS)
        for name in want:
            want[name] -= lr * c * z[name]
    bilevel(w, independent_z=True, lam=lam, inner_steps=0, lr_theta=lr).step(0)
    for name, value in w.theta.items():
        torch.testing.assert_close(value.double() - theta[name], want[name], rtol=1e-3, atol=1e-6)


def test_apart_draws_s_anew() -> None:
    w = world(trained=False)
    method = bilevel(w, apart=True, s_start="reset")
    p, s = w.adapters.parameters("p"), w.adapters.parameters("s")
    assert any(not torch.equal(p[name], s[name]) for name in p)
    assert same(method.initial, values(s))
    again = world(trained=False)
    bilevel(again, apart=True)
    assert same(values(again.adapters.parameters("s")), values(s))


def test_deploy_fixes_the_adapter() -> None:
    for deploy, expected in (("best", ("s", "p")), ("p", ("p",)), ("s", ("s",))):
        method = bilevel_zofo.Method(bilevel_zofo.Config(deploy=deploy))  # pyright: ignore[reportArgumentType]
        assert method.deployable == expected
        assert method.candidates == ("s", "p")  # both are reported


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lam_schedule": "linear"}, "lam_start: needed"),
        ({"lam_start": 1.0}, "lam_start: has no effect"),
        ({"lam_schedule": "geometric", "lam_start": 0.0}, "cannot start or end at 0"),
        ({"tie_upper": True, "lr_p": 1e-3}, "lr_p: has no effect"),
        ({"upper_data": "dev", "upper_share": 0.5}, "upper_data: dev splits nothing"),
    ],
)
def test_options_that_contradict_each_other(settings: dict[str, Any], message: str) -> None:
    assert any(message in line for line in bilevel_zofo.Config(**settings).problems())


def test_an_adapter_that_draws_nothing_cannot_be_apart(tiny_model_dir, sentiment_file, tmp_path) -> None:
    with pytest.raises(InputError, match="apart"):
        finetune(
            str(tiny_model_dir), str(sentiment_file), {"name": "bilevel-zofo", "apart": True, "inner_steps": 1},
            "prompt", output_dir=tmp_path / "out", max_steps=4, batch_size=2,
        )  # fmt: skip


def test_eps_of_mezo_depends_on_what_it_moves() -> None:
    """SPEC 3.15: whole model 1e-3, prefix 1e-1, LoRA 1e-2; a given value stands."""
    from zofo.api.configure import resolve

    def eps(*overrides: str, adapter: str | None = None) -> float:
        base = {"model": "m", "task": "sst2", "method": "mezo", "train": {"output_dir": "x"}}
        return resolve(None, overrides, None, **base, adapter=adapter).estimator.eps

    assert [eps(), eps(adapter="prefix"), eps(adapter="lora"), eps(adapter="prompt")] == [1e-3, 1e-1, 1e-2, 1e-3]
    assert eps("estimator.eps=0.5", adapter="lora") == 0.5
    assert spsa.Config().eps == 1e-3


@pytest.mark.parametrize("adapter", registry.names("adapters"))
def test_mezo_on_every_adapter_trains_and_is_found_again(adapter, tiny_model_dir, sentiment_file, tmp_path) -> None:
    """The whole way: a run, its journal, its adapter's file, and the same numbers from the run's directory."""
    out = tmp_path / "out"
    run = finetune(
        str(tiny_model_dir), str(sentiment_file), "mezo", adapter, output_dir=out, max_steps=6, batch_size=4,
        eval_steps=3, overrides=["method.lr=1e-2"],
    )  # fmt: skip
    assert run.deployed == "p"
    assert run.info["parameters"]["theta"] == run.info["parameters"]["adapter"] > 0
    header, start = read_header(out / "journal.bin")
    assert header["theta"] == "adapter"
    assert len(list(read_records(out / "journal.bin", start))) == 6
    before = (out / "best-3" if run.info["best_step"] == 3 else out / "best-6") / "p" / "adapter_model.safetensors"
    assert before.is_file()
    assert evaluate(out) == pytest.approx(run.test, rel=1e-6)
    plain = evaluate(out, adapter="theta")
    assert plain["loss"] != run.test["loss"]


def test_an_adapter_of_a_preset_does_not_change_what_mezo_moves() -> None:
    """The preset's adapter was meant for its own method; one that is asked for beside mezo is used."""
    from zofo.api.configure import resolve

    base = {"model": "m", "task": "sst2", "train": {"output_dir": "x"}}
    whole = resolve(preset="quickstart", method="mezo", **base)
    assert whole.adapter is None
    assert whole.estimator.eps == 1e-3
    assert any("only if it is asked for" in note for note in whole.notes)
    asked = resolve(preset="quickstart", method="mezo", adapter="lora", **base)
    assert asked.names["adapter"] == "lora"
    assert asked.method.lr == 1e-4


def test_where_the_levels_data_comes_from(tiny_model_dir, write_jsonl, tmp_path) -> None:
    """upper_data=dev: D_f is the dev set and D_p all training rows. stratified: each level has both labels 1 : 2."""
    from zofo.api.configure import resolve
    from zofo.train.setup import build

    rows = [
        {"text": f"film {i}: a {'great' if i % 6 else 'bad'} one", "label": "no" if i % 6 else "yes"} for i in range(90)
    ]
    data = write_jsonl("rows.jsonl", rows)
    base: dict[str, Any] = {
        "model": str(tiny_model_dir),
        "task": {"name": str(data), "train_examples": 60, "dev_examples": 15},
    }

    def streams(**settings: Any) -> dict[str, list[Any]]:
        method = {"name": "bilevel-zofo", "inner_steps": 1, **settings}
        session = build(resolve(method=method, train={"output_dir": str(tmp_path / "out"), "batch_size": 4}, **base))
        return {name: [e.example.id for e in session.encoded[name]] for name in ("f", "p", "dev")}

    plain, dev, even = streams(), streams(upper_data="dev"), streams(stratified=True)
    assert len(plain["p"]) == pytest.approx(2 * len(plain["f"]), abs=2)
    assert sorted(dev["f"]) == sorted(dev["dev"])
    assert sorted(dev["p"]) == sorted(plain["f"] + plain["p"])
    assert sorted(even["f"] + even["p"]) == sorted(plain["f"] + plain["p"])
    rare = {f"rows.jsonl:{i + 1}" for i in range(0, 90, 6)}
    share = [len(rare.intersection(even[name])) / len(even[name]) for name in ("f", "p")]
    assert share[0] == pytest.approx(share[1], abs=1 / len(even["f"]))


@pytest.mark.parametrize("preset", ["paper", "paper-4.1", "authors"])
def test_the_papers_presets_run(preset: str, tiny_model_dir, sentiment_file, tmp_path, capsys) -> None:
    """One iteration of each, in bf16, with Adam on theta: finite numbers, and the same again from the run's files."""
    overrides = ["method.inner_steps=2", "train.batch_size=4", "train.eval_steps=3", "train.count=all"]
    run = finetune(
        str(tiny_model_dir), str(sentiment_file), output_dir=tmp_path / "out", preset=preset, max_steps=6,
        overrides=overrides,
    )  # fmt: skip
    assert "rule adam: 8 bytes a weight of theta" in capsys.readouterr().err
    assert all(map(math.isfinite, run.test.values()))
    assert evaluate(tmp_path / "out") == pytest.approx(run.test, rel=1e-6)
    if preset == "authors":
        assert run.deployed == "p"
        assert run.info["examples"]["f"] == run.info["examples"]["dev"]


def test_a_run_without_a_second_stage_is_refused(tiny_model_dir, sentiment_file, tmp_path) -> None:
    with pytest.raises(InputError, match=r"train\.max_steps: 10 is less than the 11 counted steps"):
        finetune(str(tiny_model_dir), str(sentiment_file), "two-stage", output_dir=tmp_path / "out", max_steps=10)


def test_stages_are_no_iterations_to_count(tiny_model_dir, sentiment_file, tmp_path) -> None:
    with pytest.raises(InputError, match=r"train\.count: outer counts iterations, and method two-stage has stages"):
        finetune(
            str(tiny_model_dir), str(sentiment_file), "two-stage", "lora", output_dir=tmp_path / "out", max_steps=22,
            count="outer",
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_counting_iterations_alone(tiny_model_dir, sentiment_file, tmp_path) -> None:
    """count=outer: max_steps, evaluations and checkpoints go by iterations; the numbers are those of count=all."""
    runs = []
    for count, steps, every in (("outer", 4, 2), ("all", 12, 6)):
        out = tmp_path / count
        run = finetune(
            str(tiny_model_dir), str(sentiment_file), {"name": "bilevel-zofo", "inner_steps": 2}, output_dir=out,
            max_steps=steps, eval_steps=every, save_steps=every, batch_size=4, count=count,
        )  # fmt: skip
        runs.append(run.info)
        assert [p.name for p in sorted(out.glob("checkpoint-*"))] == sorted(f"checkpoint-{n}" for n in (every, steps))
    assert runs[0]["steps"] == runs[1]["steps"] == {"lower": 8, "upper": 4}
    assert runs[0]["test"] == runs[1]["test"]
    assert runs[0]["best_step"] * 3 == runs[1]["best_step"]
