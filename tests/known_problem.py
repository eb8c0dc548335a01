"""A bilevel problem with a known solution: least squares on both levels, theta in R^4, p in R^3, in float64.

    F(theta, a; D) = mean over (x, y, t) of D of (x'a + y'theta - t)^2 / 2,   the same F on D_f and D_p

D_p's x span R^3, so the lower level is strongly convex: a*(theta) = A theta + b. The solutions of the bilevel problem
and of the penalised problem of any lam are linear systems. Problem, Method, estimator, rule, Point and Descent are
zofo's own; only the model, its loss and its two "adapters" are replaced. Used by methods/test_known_solution.py and by
docs/figures/toy_bilevel.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn

from zofo.methods import bilevel_fo, bilevel_zofo
from zofo.methods._problem import Problem
from zofo.zo.estimators import spsa
from zofo.zo.journalled import Journalled
from zofo.zo.point import Point
from zofo.zo.rules import sgd

THETA, ADAPTER, ROWS = 4, 3, 12
COUPLING = 0.15  # size of D_p's y: how strongly theta moves the lower solution


@dataclass(frozen=True)
class Data:
    """x [n, 3], y [n, 4], t [n]."""

    x: Tensor
    y: Tensor
    t: Tensor

    def loss(self, theta: Tensor, a: Tensor) -> Tensor:
        return (self.x @ a + self.y @ theta - self.t).square().mean() / 2


@dataclass(frozen=True)
class Toy:
    f: Data
    p: Data

    def lower(self, theta: Tensor) -> Tensor:
        """a*(theta), the minimiser of F(theta, .; D_p)."""
        return self._a @ theta + self._b

    @property
    def _hessian(self) -> Tensor:
        return self.p.x.T @ self.p.x / ROWS

    @property
    def _a(self) -> Tensor:
        return -torch.linalg.solve(self._hessian, self.p.x.T @ self.p.y / ROWS)

    @property
    def _b(self) -> Tensor:
        return torch.linalg.solve(self._hessian, self.p.x.T @ self.p.t / ROWS)

    @property
    def coupling(self) -> Tensor:
        """A'HA: the Hessian in theta of the penalty (p - A theta - b)' H (p - A theta - b) / 2."""
        return self._a.T @ self._hessian @ self._a

    def bilevel(self) -> Tensor:
        """theta* of: min over theta of F(theta, a*(theta); D_f)."""
        design = self.f.y + self.f.x @ self._a
        return torch.linalg.lstsq(design, (self.f.t - self.f.x @ self._b)[:, None]).solution[:, 0]

    def penalised(self, lam: float) -> tuple[Tensor, Tensor]:
        """(theta, p) of: min over theta, p, max over s of F(theta, p; D_f) + lam [F(theta, p; D_p) - F(theta, s; D_p)].

        With s = a*(theta) the bracket is (p - A theta - b)' H (p - A theta - b) / 2.
        """
        design = torch.cat([self.f.y, self.f.x], 1)
        gap = torch.cat([-self._a, torch.eye(ADAPTER, dtype=torch.float64)], 1)  # p - A theta
        matrix = design.T @ design / ROWS + lam * gap.T @ self._hessian @ gap
        right = design.T @ self.f.t / ROWS + lam * gap.T @ self._hessian @ self._b
        solution = torch.linalg.solve(matrix, right)
        return solution[:THETA], solution[THETA:]


def make(seed: int = 0) -> Toy:
    """Well conditioned: D_f's Hessian in (theta, p) is the identity, D_p's in p has eigenvalues 7, 10, 13."""
    generator = torch.Generator().manual_seed(seed)

    def columns(n: int) -> Tensor:
        return torch.linalg.qr(torch.randn(ROWS, n, generator=generator, dtype=torch.float64)).Q * ROWS**0.5

    def data(scale: Tensor, coupling: float) -> Data:
        both = columns(ADAPTER + THETA)
        y = both[:, ADAPTER:] if coupling == 1 else columns(THETA) * coupling
        return Data(both[:, :ADAPTER] * scale.sqrt(), y, torch.randn(ROWS, generator=generator, dtype=torch.float64))

    ones = torch.ones(ADAPTER, dtype=torch.float64)
    return Toy(data(ones, 1), data(torch.tensor([7.0, 10.0, 13.0], dtype=torch.float64), COUPLING))


# ----------------------------------------------------------------------------------------- what zofo's method is given


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(THETA, dtype=torch.float64))
        self.adapters = nn.ParameterDict({n: nn.Parameter(torch.zeros(ADAPTER, dtype=torch.float64)) for n in "ps"})
        self.active = "p"


class Adapters:
    """AdapterSet's part that a method uses."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        return {"a": self.model.adapters[name]}

    def equal(self, one: str, other: str) -> bool:
        return torch.equal(self.model.adapters[one], self.model.adapters[other])

    @contextmanager
    def active(self, name: str) -> Iterator[None]:
        before, self.model.active = self.model.active, name
        yield
        self.model.active = before


class Loss:
    """Loss's part that a method uses; a batch is a whole data set."""

    def __init__(self, model: Model) -> None:
        self.model = model

    @torch.no_grad()
    def each(self, parts: Sequence[tuple[Data, str]]) -> list[float]:
        theta = self.model.theta * 1.0  # one read of the shifted weight
        return [float(data.loss(theta, self.model.adapters[name])) for data, name in parts]

    def cuts(self, parts: Sequence[tuple[Data, str]]) -> bool:
        """There are no micro-batches."""
        del parts
        return False

    def first(self, parts: Sequence[tuple[Data, str]]) -> float:
        return self.each(parts[:1])[0]

    def backward(self, data: Data, scale: float = 1.0) -> float:
        value = data.loss(self.model.theta, self.model.adapters[self.model.active])
        (scale * value).backward()
        return float(value.detach())


@dataclass(frozen=True)
class Found:
    """Where a run ended."""

    theta: Tensor
    p: Tensor
    s: Tensor


class Run:
    """Algorithm 2, or 1, on the toy problem: zofo's method with plain SGD inside."""

    def __init__(self, toy: Toy, seed: int = 0) -> None:
        self.toy, self.seed, self.model, self.k = toy, seed, Model(), 0

    def method(self, lam: float, inner_steps: int = 6, module: Any = bilevel_zofo) -> Any:
        theta, adapters = Point(self.model, {"theta"}), Adapters(self.model)
        streams: dict[str, Any] = {"f": repeat(self.toy.f), "p": repeat(self.toy.p)}
        problem = Problem(theta, adapters, Loss(self.model), streams, self.seed)  # pyright: ignore[reportArgumentType]
        problem.estimator = spsa.Estimator(spsa.Config(eps=1e-2))
        problem.rule = Journalled(sgd.Rule(sgd.Config(), self.seed), None)
        curvature = 1 + lam * float(torch.linalg.eigvalsh(self.toy.coupling)[-1])  # of G in theta, p fixed
        rates: dict[str, Any] = {"lr_s": 0.08, "lr_p": 0.8 / (1 + 10 * lam), "lr_theta": 0.25 / curvature}
        if module is bilevel_fo:
            rates["optimizer_theta"] = "sgd"
        method = module.Method(module.Config(lam=lam, inner_steps=inner_steps, optimizer="sgd", **rates))
        method.setup(problem)
        return method

    def __call__(self, lam: float, steps: int, **settings: Any) -> Found:
        """Go on for `steps` upper steps with this lam, from where the run is."""
        method = self.method(lam, **settings)
        for _ in range(steps):
            method.step(self.k)
            self.k += 1
        p, s = (self.model.adapters[name].detach().clone() for name in "ps")
        return Found(self.model.theta.detach().clone(), p, s)
