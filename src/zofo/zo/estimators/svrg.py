"""ZO-SVRG: an estimate that an anchor's makes less noisy (Liu et al., NeurIPS 2018; MeZO-SVRG, arXiv 2404.08080).

| symbol | field | default | place |
|---|---|---|---|
| q, steps between two anchors | refresh | 20 | ours |
| batches of the anchor's estimate | anchor_batches | 8 | all data there |
| epsilon | eps | 1e-3 | as in `spsa` |

Every `refresh` steps theta is copied, theta~ (the anchor), and its gradient estimated on `anchor_batches` further
batches, a direction each: g~ = mean_j c~_j z~_j. A step on batch B along z gives

    g = [c_B(theta; z) - c_B(theta~; z)] z + g~,    E g = grad f_B(theta) - grad f_B(theta~) + grad f(theta~)

as far as `spsa` is unbiased: what the batch adds to the gradient at both points cancels. 4 q evaluations a step, and
2 anchor_batches at each anchor. The anchor is kept in the memory of the host (`anchor=memory`) or in a file (`disk`),
theta's bytes once; g~ is its seeds and coefficients, which every record of the journal repeats.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from zofo.zo.direction import Direction
from zofo.zo.estimators import _base
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.keys import derive
from zofo.zo.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from torch import Tensor

    from zofo.zo.point import Point


@dataclass(frozen=True)
class Config(_base.Config):
    refresh: int = field(default=20, metadata={"help": "steps between two anchors", "ge": 1})
    anchor_batches: int = field(default=8, metadata={"help": "batches of the anchor's own estimate", "ge": 1})
    anchor: Literal["memory", "disk"] = field(
        default="memory", metadata={"help": "where the copy of theta is: the host's memory, or a temporary file"}
    )

    anchored: ClassVar[bool] = True

    def further(self, start: int, stop: int) -> int:
        anchors = (stop - 1) // self.refresh - start // self.refresh + 1 if stop > start else 0
        return anchors * self.anchor_batches

    def problems(self) -> list[str]:
        if self.shift == "inplace":
            return ["shift: svrg shifts its anchor too, which mode inplace cannot; use layer or copy"]
        return super().problems()

    def faults(self, parts: Mapping[str, Any]) -> list[str]:
        if parts.get("mask") is not None and parts["mask"].renewed:
            return ["estimator.name: svrg keeps an anchor's estimate, which another mask cuts; use one without refresh"]
        return []


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


class Estimator(_base.Base):
    """State: the anchor, theta's bytes once, on the host; and g~."""

    keeps: ClassVar = "for the anchor, on the host"
    config: Config

    def __init__(self, config: Config, seed: int = 0, mask: Any = None, ranks: Ranks = ALONE) -> None:
        super().__init__(config, seed, mask, ranks)
        self.anchor: dict[str, Tensor] = {}
        self.since: int | None = None  # the step at which it was taken
        self.anchor_terms: tuple[tuple[int, float], ...] = ()
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __call__(self, f: Callable[[], float], theta: Point, step: int, seed: int) -> ZOGrad:
        """f must have `further()`: the same objective on the next batch of its stream. Raises TypeError without it."""
        eps, q, rounding = self.config.eps, self.config.q, self.config.rounding
        forwards = 0
        if self._due(step):
            self.take(theta, step)
            forwards += self._estimate_anchor(f, theta, step, seed)
        terms, value = [], 0.0

        def both(z: Direction) -> tuple[float, ...]:
            here = theta.sides(f, z, eps, rounding)
            with theta.anchored(self.anchor):
                return *here, *theta.sides(f, z, eps, rounding)

        directions = self.directions(theta, step, seed)
        for z, (plus, minus, *there) in zip(directions, self.evaluated(directions, both, width=4)):
            c = (plus - minus) - (there[0] - there[1])
            terms.append((float32(c / (2 * eps) / q), z))
            value += (plus + minus) / 2
        known = tuple((c, self.direction(theta, step, one)) for one, c in self.anchor_terms)
        return ZOGrad((*terms, *known), value / q, forwards + 4 * q)

    def _due(self, step: int) -> bool:
        return self.since is None or step // self.config.refresh != self.since // self.config.refresh

    def _estimate_anchor(self, f: Any, theta: Point, step: int, seed: int) -> int:
        if getattr(f, "further", None) is None:
            raise TypeError("svrg estimates its anchor on further batches: the objective needs a method further()")
        batches, eps, terms = self.config.anchor_batches, self.config.eps, []
        directions = [self.direction(theta, step, derive(seed, "anchor", j)) for j in range(batches)]
        drawn = {z.seed: f.further() for z in directions}  # by each rank all: the streams go on from the same place
        sides = self.evaluated(directions, lambda z: theta.sides(drawn[z.seed], z, eps, self.config.rounding), width=2)
        for z, (plus, minus) in zip(directions, sides):
            terms.append((z.seed, float32((plus - minus) / (2 * eps) / batches)))
        self._keep(tuple(terms))
        return 2 * batches

    def _keep(self, terms: tuple[tuple[int, float], ...]) -> None:
        """The anchor's own estimate; one that is not finite is good for this step's refusal alone."""
        self.anchor_terms = terms
        if not all(math.isfinite(c) for _, c in terms):
            self.since = None

    def take(self, theta: Point, step: int) -> None:
        """Copy theta, as the anchor from this step on."""
        import torch

        self.since = step
        for name, tensor in theta.items():
            if name not in self.anchor:
                self.anchor[name] = (
                    torch.empty(tensor.shape, dtype=tensor.dtype) if self._in_memory else self._file(tensor)
                )
            self.anchor[name].copy_(tensor)

    @property
    def _in_memory(self) -> bool:
        return self.config.anchor == "memory"

    def _file(self, like: Tensor) -> Tensor:
        """Memory that a file stands for: the system writes it out and reads it as it is used."""
        import torch

        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="zofo-anchor-")
        path = Path(self._folder.name) / str(len(self.anchor))
        size = like.numel()
        path.write_bytes(b"")
        return torch.from_file(str(path), shared=True, size=max(1, size), dtype=like.dtype)[:size].view(like.shape)

    def passing(self, theta: Point, step: int, terms: tuple[tuple[int, float], ...]) -> None:
        if self._due(step):
            self.take(theta, step)
        self._keep(terms[self.config.q :])

    def fits(self, theta: Point) -> None:
        """After a loading. Raises ValueError for another model's anchor."""
        if self.since is not None and _shapes(self.anchor) != _shapes(theta):
            raise ValueError("the anchor of svrg is of another model")

    def host_bytes(self, theta: Point) -> float:
        return float(theta.nbytes)

    def state_dict(self) -> dict[str, Any]:
        """The anchor's own tensors, not copies."""
        return {"since": self.since, "terms": [list(term) for term in self.anchor_terms], "anchor": dict(self.anchor)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.since = state["since"]
        self.anchor_terms = tuple((int(seed), float(c)) for seed, c in state["terms"])
        for name, tensor in state["anchor"].items():
            if name not in self.anchor:
                self.anchor[name] = tensor.clone() if self._in_memory else self._file(tensor)
            self.anchor[name].copy_(tensor)
