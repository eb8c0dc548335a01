"""A step of meta-training: an upper step by hand in float64, steps that are not finite, options that contradict."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from tests.float64_llama import Wide, widen
from tests.six_tasks import meta_session, sampled, watch_batches
from tests.tensors_by_name import same, values
from tests.tiny_bilevel import moved
from zofo.data.tokenization import Encoded
from zofo.errors import InputError, NonFiniteError
from zofo.train.setup import Session
from zofo.zo.kernels import reference as kernels
from zofo.zo.keys import derive, tensor_key
from zofo.zo.point import Point


def float64_of(s: Session) -> Wide:
    """The same model and LoRA in float64."""
    config = transformers.AutoConfig.from_pretrained(s.config.model.name)
    return Wide(config, s.config.adapter.alpha / s.config.adapter.r, "lm")


def members_of(s: Session, name: str) -> dict[str, dict[str, Tensor]]:
    """p or s of each task in float64, by PEFT's names."""
    assert s.problem.adapters is not None
    tensors = widen(s.problem.adapters.parameters(name))
    members: dict[str, dict[str, Tensor]] = {task: {} for task in s.problem.tasks}
    for key, tensor in tensors.items():
        task, _, inner = key.partition(": ")
        members[task][inner] = tensor
    return members


def direction_of(s: Session, step: int) -> dict[str, Tensor]:
    """z of a step, whole, by the reference kernel."""
    seed = derive(s.problem.seed, "z", step)
    return {n: kernels.signs(seed, tensor_key(n), 0, t.numel()).view(t.shape) for n, t in s.problem.theta.items()}


ByTask = dict[str, dict[str, Tensor]]  # {task: its adapter's tensors}


def gradients_of(value: Tensor, of: ByTask) -> ByTask:
    flat = [t for task in of for t in of[task].values()]
    each = iter(torch.autograd.grad(value, flat, allow_unused=True, materialize_grads=True))
    return {task: {key: next(each) for key in of[task]} for task in of}


def leaves_of(of: ByTask) -> ByTask:
    return {task: {k: t.detach().requires_grad_(True) for k, t in tensors.items()} for task, tensors in of.items()}


def test_an_upper_step_in_float64(tiny_model_dir: Path, six_tasks: Path) -> None:
    """s_i of the sampled tasks by line 5, c by (9) with each example's own p_i and s_i, p_i by (8)."""
    lam, lr_s, lr_p, lr_theta, inner, eps = 7.0, 0.3, 0.05, 1e-3, 3, 1e-2
    method = {"lam": lam, "lr_s": lr_s, "lr_p": lr_p, "lr_theta": lr_theta, "inner_steps": inner, "optimizer": "sgd"}
    s = meta_session(tiny_model_dir, six_tasks, method, estimator={"name": "spsa", "eps": eps})
    adapters, theta, wide = s.problem.adapters, s.problem.theta, float64_of(s)
    assert adapters is not None
    generator = torch.Generator().manual_seed(4)
    for name in ("p", "s"):
        for tensor in adapters.parameters(name).values():
            tensor.data += 0.2 * torch.randn(tensor.shape, generator=generator)
    start = widen(theta)
    members = {name: members_of(s, name) for name in ("p", "s")}
    first_theta, first_p = values(theta), values(adapters.parameters("p"))
    seen = watch_batches(s)
    metrics = s.method.step(0)

    def F(at: dict[str, Tensor], examples: list[Encoded], of: ByTask) -> Tensor:
        nll, weight = torch.zeros((), dtype=torch.float64), 0
        for e in examples:
            tokens = len(e.rows[0].labels)
            nll, weight = nll + wide.loss(at, of[e.example.group], [e]) * tokens, weight + tokens
        return nll / weight

    f, p = seen["f"], seen["p"]
    assert (len(f), len(p)) == (1, inner + 1)
    chosen = set(sampled(s, 0))
    assert {e.example.group for batch in (*f, *p) for e in batch} <= chosen
    for t in range(inner):
        at = leaves_of(members["s"])
        g = gradients_of(F(start, p[t], at), at)
        members["s"] = {k: {n: v.detach() - lr_s * g[k][n] for n, v in tensors.items()} for k, tensors in at.items()}
    for key, value in adapters.parameters("s").items():
        task, _, name = key.partition(": ")
        torch.testing.assert_close(value.detach().double(), members["s"][task][name], rtol=1e-5, atol=2e-6)
    z = direction_of(s, 0)

    def G(at: dict[str, Tensor]) -> float:
        with torch.no_grad():
            lower = F(at, p[inner], members["p"]) - F(at, p[inner], members["s"])
            return float(F(at, f[0], members["p"]) + lam * lower)

    c = (G(moved(start, z, eps)) - G(moved(start, z, -eps))) / (2 * eps)
    assert metrics["c"] == pytest.approx(c, rel=2e-4, abs=1e-3)
    assert abs(c) > 0.05
    at = leaves_of(members["p"])
    g = gradients_of(F(start, f[0], at) + lam * F(start, p[inner], at), at)
    biggest = max(float(t.abs().max()) for tensors in g.values() for t in tensors.values())
    for key, value in adapters.parameters("p").items():
        task, _, name = key.partition(": ")
        gradient = (first_p[key] - value.detach()).double() / lr_p
        torch.testing.assert_close(gradient, g[task][name], rtol=1e-3, atol=2e-4 * biggest)
        if task not in chosen:
            assert torch.equal(value, first_p[key])
    factor = torch.tensor(float(torch.tensor(-lr_theta * metrics["c"], dtype=torch.float32)))
    for name, value in theta.items():
        assert torch.equal(value, first_theta[name] + factor * z[name])


@pytest.mark.parametrize("adapters", ["per-task", "shared"])
def test_a_lower_step_that_is_not_finite_is_skipped(adapters: str, tiny_model_dir: Path, six_tasks: Path) -> None:
    s = meta_session(tiny_model_dir, six_tasks, {"adapters": adapters}, train={"on_nonfinite": "skip"})
    a = s.problem.adapters
    assert a is not None
    state = {"bad": False}
    for tensor in a.parameters("s").values():
        tensor.register_hook(lambda g: g * float("inf") if state["bad"] else g)
    s.method.step(0)
    before, theta = values(a.parameters("s")), s.problem.theta.sha256()
    state["bad"] = True
    s.method.step(1)
    assert s.problem.refusals.total == 2
    assert same(values(a.parameters("s")), before)
    assert s.problem.theta.sha256() != theta  # the upper step is sound
    assert all(p.grad is None for n in "ps" for p in a.parameters(n).values())
    state["bad"] = False
    s.method.step(2)
    assert s.problem.refusals.total == 2


def test_an_upper_step_that_is_not_finite(tiny_model_dir: Path, six_tasks: Path) -> None:
    for policy in ("skip", "stop"):
        s = meta_session(tiny_model_dir, six_tasks, train={"on_nonfinite": policy})
        a = s.problem.adapters
        assert a is not None
        for tensor in a.parameters("p").values():
            tensor.register_hook(lambda g: g * float("nan"))
        before, theta = values(a.parameters("p")), s.problem.theta.sha256()
        if policy == "skip":
            s.method.step(0)
            assert s.problem.refusals.total == 1
        else:
            with pytest.raises(NonFiniteError):
                s.method.step(0)
        assert same(values(a.parameters("p")), before)
        assert s.problem.theta.sha256() == theta


def test_options_of_a_bank_that_contradict_each_other(tiny_model_dir: Path, six_tasks: Path) -> None:
    for method, message in (
        ({"deploy": "s"}, "adapters=shared"),
        ({"upper_data": "dev"}, "meta-bilevel-zofo has no departures"),
        ({"tasks_per_step": 0}, "tasks_per_step"),
        ({"deploy": "p"}, "deploy"),
        ({"adapters": "one"}, "adapters"),
    ):
        with pytest.raises(InputError, match=message):
            meta_session(tiny_model_dir, six_tasks, method)


def test_theta_is_the_only_point_with_a_bank(tiny_model_dir: Path, six_tasks: Path) -> None:
    """No adapter is merged into theta, and theta never gets a gradient."""
    s = meta_session(tiny_model_dir, six_tasks)
    assert isinstance(s.problem.theta, Point)
    s.method.step(0)
    assert all(t.grad is None and not t.requires_grad for t in s.problem.theta.values())
    assert not any("lora" in name for name in s.problem.theta)
