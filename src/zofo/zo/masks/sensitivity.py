"""SensZOQ's mask: the weights whose gradient is largest, chosen once (Guo et al., arXiv 2406.02913).

| symbol | field | default | place |
|---|---|---|---|
| share of sensitive weights | density | 0.01 | 0.1 % there; 1 % was best of 0.1, 1 and 10 % in Sparse MeZO's rebuttal |
| sensitivity | computed | mean of g^2 | the diagonal of the empirical Fisher matrix |

Before the first step the mean over `batches` training batches of the squared gradient of F is taken, first-order, one
tensor's gradient at a time; it needs 4 bytes a weight of host memory while it is made. The weights that move are stored
as numbers, 4 bytes each, and written to the journal. A step then costs what moves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from zofo.errors import InputError
from zofo.zo.masks._base import Base, Share, scale_of
from zofo.zo.masks.magnitude import rank
from zofo.zo.support import Indices, Support, narrowed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from zofo.zo.point import Point


@dataclass(frozen=True)
class Config(Share):
    batches: int = field(default=8, metadata={"help": "training batches whose gradients are squared", "ge": 1})
    scope: Literal["tensor", "all"] = field(
        default="tensor", metadata={"help": "the share is taken of each tensor, or of all weights together"}
    )

    usual: ClassVar[float] = 0.01
    by_gradients: ClassVar[bool] = True


class Mask(Base):
    """State: the indices, 4 bytes for each weight that moves."""

    config: Config

    @property
    def state_share(self) -> float:
        return self.config.moving

    def make(self, theta: Point, step: int) -> Support:
        if self.gradients is None:
            raise InputError("mask.name: sensitivity needs gradients of the loss, and there are none to take")
        scores = squared_gradients(theta, self.gradients(self.config.batches))
        return Support(
            largest(scores, self.config.moving, self.config.scope, theta),
            scale_of(self.config.rescale, self.config.moving),
        )


def squared_gradients(theta: Point, backwards: Iterable[Callable[[], object]]) -> dict[str, Tensor]:
    """{name: sum of g^2 over the calls, fp32, on the CPU}. Each call adds F's gradient to `.grad` of theta's tensors.

    A tensor's gradient is squared and freed as soon as the backward pass has it.
    """
    import torch

    scores = {name: torch.zeros(t.shape, dtype=torch.float32) for name, t in theta.items()}

    def square(name: str) -> Callable[[Tensor], None]:
        def hook(param: Tensor) -> None:
            assert param.grad is not None
            scores[name] += param.grad.float().square().cpu()
            param.grad = None

        return hook

    with theta.trainable():
        hooks = [t.register_post_accumulate_grad_hook(square(name)) for name, t in theta.items()]
        try:
            for backward in backwards:
                backward()
        finally:
            for hook in hooks:
                hook.remove()
    return scores


def largest(scores: dict[str, Tensor], share: float, scope: str, theta: Point) -> dict[str, Indices]:
    """The weights with the largest scores, of each tensor or of all; of equal scores the first ones."""
    import torch

    from zofo.zo.quantile import smallest

    chosen = {}
    groups = [list(scores)] if scope == "all" else [[name] for name in scores]
    for names in groups:
        size = sum(scores[name].numel() for name in names)
        keep = max(1, rank(share, size))
        least, most = smallest([scores[name] for name in names], [size - keep + 1, size])
        if not math.isfinite(most):
            raise InputError(f"mask.name: sensitivity: the gradient of {names[0]} is not finite")
        room = keep - sum(int((scores[name] > least).sum()) for name in names)  # for those equal to the least
        for name in names:
            flat = scores[name].view(-1)
            equal = torch.nonzero(flat == least).view(-1)[:room]
            room -= len(equal)
            at = torch.cat((torch.nonzero(flat > least).view(-1), equal)).sort().values
            if len(at):
                chosen[name] = Indices(narrowed(at).to(theta[name].device))
    return chosen
