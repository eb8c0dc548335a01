"""A tiny Llama with LoRAs p and s, batches, and the same in float64: what the tests of the equations work on."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from tests.float64_llama import Wide, widen
from tests.tiny_models import PAD, VOCAB, build, config, cpu_loss
from zofo.data import Example
from zofo.data.batch import collate
from zofo.data.tokenization import Encoded, Row
from zofo.methods import bilevel_ablations, bilevel_zofo
from zofo.methods._problem import Problem
from zofo.models.adapters import lora
from zofo.models.adapters._set import AdapterSet
from zofo.objectives._loss import Loss
from zofo.zo.estimators import spsa
from zofo.zo.journalled import Journalled
from zofo.zo.kernels import reference
from zofo.zo.keys import derive, tensor_key
from zofo.zo.point import Point
from zofo.zo.rules import sgd

EPS, SEED = 1e-2, 3
R, ALPHA = 4, 8


def examples(objective: str, n: int, seed: int) -> list[Encoded]:
    """Prompts of 2 to 7 random tokens; lm: one answer of 1 to 4 tokens; options: 2 or 3 of unequal lengths."""
    rng, encoded = random.Random(seed), []
    for i in range(n):
        prompt = [rng.randrange(3, VOCAB) for _ in range(rng.randrange(2, 8))]
        count = 1 if objective == "lm" else rng.choice([2, 3])
        rows = []
        for option in range(count):
            answer = [rng.randrange(3, VOCAB) for _ in range(rng.randrange(1, 5))]
            labels = tuple((len(prompt) - 1 + t, token, option) for t, token in enumerate(answer))
            rows.append(Row((*prompt, *answer[:-1]), labels))
        encoded.append(Encoded(Example(f"x/{i}", "", ("",) * count, (0,)), tuple(rows), (rng.randrange(count),), count))
    return encoded


@contextmanager
def one_thread() -> Iterator[None]:
    """The matrices are so small that a second thread only waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class World:
    """A tiny Llama with LoRAs p and s (both away from zero, and different), batches, and the same in float64."""

    model: Any
    theta: Point
    adapters: AdapterSet
    loss: Loss
    f: list[list[Encoded]]  # the batches of D_f and D_p, in the order in which they will be drawn
    p: list[list[Encoded]]
    wide: Wide

    def problem(self, **kwargs: Any) -> Problem:
        streams = {name: iter([collate(e, PAD) for e in getattr(self, name)]) for name in ("f", "p")}
        streams["train"] = streams["f"]
        problem = Problem(self.theta, self.adapters, self.loss, streams, SEED, **kwargs)
        problem.estimator = spsa.Estimator(spsa.Config(eps=EPS))
        problem.rule = Journalled(sgd.Rule(sgd.Config(), SEED), None)
        return problem

    def method(self, problem: Problem | None = None, **settings: Any) -> Any:
        """Bilevel ZOFO, set up; where a setting is a departure from Algorithm 2, its ablations."""
        algorithm_2 = {field.name for field in fields(bilevel_zofo.Config)}
        module: Any = bilevel_zofo if settings.keys() <= algorithm_2 else bilevel_ablations
        method = module.Method(module.Config(**{"optimizer": "sgd", **settings}))
        method.setup(problem or self.problem())
        return method


def lively(model: Any) -> Any:
    """Matrices of a trained model's size (0.12), so that p, s and a shift by eps all matter."""
    for param in model.parameters():
        if param.ndim > 1:
            param.mul_(6)
    return model


def world(
    objective: str = "lm",
    trained: bool = True,
    micro: int | None = None,
    family: str = "llama",
    dtype: torch.dtype = torch.float32,
) -> World:
    model = lively(build(family)).to(dtype)
    theta = Point(model)
    adapters = lora.Adapter(lora.Config(r=R, alpha=ALPHA)).build(model, ("p", "s"), SEED)
    generator = torch.Generator().manual_seed(4)
    for name in ("p", "s") if trained else ():
        for tensor in adapters.parameters(name).values():
            tensor.data += 0.2 * torch.randn(tensor.shape, generator=generator)
    loss = cpu_loss(model, objective, adapters, micro)
    batches = [examples(objective, 5, 10 * i) for i in range(8)]
    wide = Wide(config(family), ALPHA / R, objective)
    return World(model, theta, adapters, loss, batches[:2], batches[2:], wide)


def ready(method: Any, problem: Problem) -> Any:
    method.setup(problem)
    return method


def values(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies, as the tensors are now."""
    return {name: value.detach().clone() for name, value in tensors.items()}


def leaves(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """float64 copies that have gradients."""
    return {name: value.requires_grad_(True) for name, value in widen(tensors).items()}


def same(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in two)


def direction(theta: Point, step: int) -> dict[str, Tensor]:
    """z of a step, whole, by the reference kernel."""
    seed = derive(SEED, "z", step)
    return {n: reference.signs(seed, tensor_key(n), 0, t.numel()).view(t.shape) for n, t in theta.items()}


def moved(theta: dict[str, Tensor], z: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    return {name: value + scale * z[name] for name, value in theta.items()}
