"""One trial of `experiments.half_batch`: steps from one half of a batch, measured on both halves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from zofo.zo.direction import Direction
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.point import Point

Dense = dict[str, Tensor]
Band = tuple[float, float]


@dataclass(frozen=True)
class Arm:
    """A kind of step and its rates. band: only weights whose |theta| lies between these quantiles of their tensor.

    norm_of: take the direction from here and the step's norm from that kind's step at the same rate, on all weights.
    """

    name: str
    kind: str
    rates: list[float]
    band: Band | None = None
    norm_of: str | None = None

    @classmethod
    def read(cls, name: str, spec: Mapping[str, Any]) -> Arm:
        """From a plan, where a band is a list."""
        if unknown := spec.keys() - {"kind", "rates", "band", "norm_of"}:
            raise ValueError(f"arm {name}: unknown {', '.join(sorted(unknown))}")
        band = tuple(spec["band"]) if "band" in spec else None
        return cls(name, spec["kind"], spec["rates"], band, spec.get("norm_of"))

    def __post_init__(self) -> None:
        if self.kind not in ("zo", "sgd") or self.norm_of not in ("zo", "sgd", None):
            raise ValueError(f"arm {self.name}: kind and norm_of are zo or sgd")
        if self.kind == "zo" and (self.band or self.norm_of):  # a direction's mask goes into `Trial.zo`
            raise ValueError(f"arm {self.name}: a zo step moves all weights, at its own norm")


@dataclass
class Bench:
    """theta, and where it starts: every trial begins and ends there, bit for bit."""

    theta: Point
    loss: Any  # loss(batch) -> float, loss.backward(batch) adds to .grad
    bands: Sequence[Band] = ()
    start: Dense = field(init=False)
    limits: dict[Band, dict[str, tuple[float, float]]] = field(init=False)

    def __post_init__(self) -> None:
        self.start = {name: p.detach().clone() for name, p in self.theta.params.items()}
        self.limits = {band: {n: _limits(w, band) for n, w in self.start.items() if w.ndim > 1} for band in self.bands}

    def gradient(self, batch: Any) -> Dense:
        with self.theta.trainable():
            self.loss.backward(batch)
            return {n: p.grad if p.grad is not None else torch.zeros_like(p) for n, p in self.theta.params.items()}

    def masked(self, name: str, values: Tensor, band: Band | None) -> Tensor:
        """values, 0 where a weight at the start is outside the band. One-dimensional tensors are in no band."""
        if band is None:
            return values
        if name not in self.limits[band]:
            return torch.zeros_like(values)
        size, (low, high) = self.start[name].abs(), self.limits[band][name]
        return values * ((size > low) & (size <= high))

    @contextmanager
    def stepped(self, grad: Dense, scale: float, band: Band | None = None) -> Iterator[None]:
        """theta is start - scale * grad inside."""
        try:
            with torch.no_grad():
                for name, p in self.theta.params.items():
                    torch.sub(self.start[name], self.masked(name, grad[name], band), alpha=scale, out=p)
            yield
        finally:
            with torch.no_grad():
                for name, p in self.theta.params.items():
                    p.copy_(self.start[name])

    def check(self) -> None:
        """Raises RuntimeError if theta is not what it was, to the last bit."""
        moved = [name for name, p in self.theta.params.items() if not torch.equal(_bits(p), _bits(self.start[name]))]
        if moved:
            raise RuntimeError(f"theta did not return to its start: {', '.join(moved)}")


def _bits(x: Tensor) -> Tensor:
    return x.detach().contiguous().view(-1).view(torch.uint8)


def _limits(w: Tensor, band: Band) -> tuple[float, float]:
    """|w| of the band is above the first and not above the second number."""
    size = w.abs().flatten()
    low, high = (round(q * size.numel()) for q in band)
    return (float(size.kthvalue(low).values) if low else -1.0), float(size.kthvalue(high).values)


@dataclass
class Trial:
    """All steps from one half a, measured on both halves. The estimate and the gradient serve all rates."""

    bench: Bench
    a: Any
    b: Any
    z: Direction
    eps: float

    def run(self, arms: Sequence[Arm]) -> dict[str, Any]:
        before = self._both()
        plus, minus = self.bench.theta.sides(lambda: self.bench.loss(self.a), self.z, self.eps, "nearest")
        self.c = float32((plus - minus) / (2 * self.eps))
        self.grad = self.bench.gradient(self.a)
        self.gradients = self._compare()
        steps = [self._step(arm, rate) for arm in arms for rate in arm.rates]
        self.bench.check()
        # z'Hz from three values on the line; a quadratic loss rises at rates beyond 2 / z'Hz, whatever c is
        curvature = (plus + minus - 2 * before[0]) / self.eps**2
        estimate = {"before": before, "plus": plus, "minus": minus, "c": self.c, "curvature": curvature}
        return {**estimate, "gradients": self.gradients, "steps": steps}

    def _both(self) -> list[float]:
        return [self.bench.loss(self.a), self.bench.loss(self.b)]

    def _compare(self) -> dict[str, dict[str, float]]:
        """Norms and inner product of the halves' gradients, on all weights and in each band."""
        other, by_band = self.bench.gradient(self.b), {}
        for band in (None, *self.bench.bands):
            dots = torch.zeros(3, dtype=torch.float64)
            for name, g in self.grad.items():
                g = self.bench.masked(name, g, band).flatten()
                h = self.bench.masked(name, other[name], band).flatten()
                dots += torch.stack([g @ g, h @ h, g @ h]).double()
            a, b, ab = dots.tolist()
            by_band[_label(band)] = {"norm_a": a**0.5, "norm_b": b**0.5, "dot": ab, "cos": ab / (a * b) ** 0.5}
        return by_band

    def _step(self, arm: Arm, rate: float) -> dict[str, Any]:
        """Both losses after the step, its norm, and the decrease on a that the gradient (ZO: c) predicts."""
        whole, within = (self.gradients[_label(band)]["norm_a"] for band in (None, arm.band))
        norms = {"zo": rate * abs(self.c) * self.bench.theta.size**0.5, "sgd": rate * whole}
        if arm.kind == "zo":
            after, norm, predicted = self.zo(rate), norms["zo"], rate * self.c**2
        else:
            norm = norms[arm.norm_of or "sgd"]
            scale = norm / within
            with self.bench.stepped(self.grad, scale, arm.band):
                after = self._both()
            predicted = scale * within**2
        return {"arm": arm.name, "rate": rate, "norm": norm, "predicted": predicted, "after": after}

    def zo(self, rate: float) -> list[float]:
        g = ZOGrad(((self.c, self.z),), 0.0, 2)
        with self.bench.theta.shifted(g, -rate, "nearest"):
            return self._both()


def _label(band: Band | None) -> str:
    return "all" if band is None else f"{band[0]:g}-{band[1]:g}"


def train(theta: Point, loss: Any, batches: Sequence[Any], lr: float) -> list[float]:
    """First-order steps of theta (AdamW, as fo-ft), one a batch: the cheapest way to a trained theta."""
    losses = []
    with theta.trainable():
        optimizer = torch.optim.AdamW(list(theta.params.values()), lr=lr, weight_decay=0.0, fused=True)
        for batch in batches:
            losses.append(loss.backward(batch))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return losses
