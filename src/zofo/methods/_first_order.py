"""First-order descent on an adapter or on theta: torch's AdamW or SGD, with a run's checks and state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from zofo.errors import NonFiniteError
from zofo.zo.ranks import ALONE, Ranks

Kind = Literal["adamw", "sgd"]


class Descent:
    """AdamW without weight decay (appendix B.1.4) or plain SGD, on named parameters whose `.grad` somebody filled."""

    def __init__(
        self,
        params: Mapping[str, Tensor],
        kind: Kind = "adamw",
        max_grad_norm: float | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """ranks: those that each fill `.grad` with the gradient of their slice of a batch."""
        self.ranks, self._summed = ranks, False
        self.params, self.max_grad_norm = dict(params), max_grad_norm
        values = list(self.params.values())
        if kind == "adamw":
            # fused updates every tensor in one call and needs no temporaries
            self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(values, weight_decay=0.0, fused=True)
        else:
            self.optimizer = torch.optim.SGD(values, lr=0.0, fused=True)

    def step(self, lr: float) -> float:
        """One update at rate lr, then the gradients are dropped. Returns the gradients' norm before clipping.

        Raises NonFiniteError as `check` does.
        """
        norm = self.check()
        if self.max_grad_norm is not None:
            grads = [p for p in self.params.values() if p.grad is not None]
            nn.utils.clip_grads_with_norm_(grads, self.max_grad_norm, torch.tensor(norm))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.drop()
        return norm

    def check(self) -> float:
        """The norm of the gradients. Raises NonFiniteError, before anything moves, when it is not finite."""
        self._sum()
        norm = float(nn.utils.get_total_norm([p.grad for p in self.params.values() if p.grad is not None]))
        if not math.isfinite(norm):
            raise NonFiniteError(f"the norm of the gradient is {norm}")
        return norm

    def _sum(self) -> None:
        """The gradients of all ranks, once: before the norm, so that all have one, and clip alike. A tensor that no
        rank has a gradient of has none still: AdamW would move it."""
        if self._summed or self.ranks.alone:
            return
        params = list(self.params.values())
        has = self.ranks.highest([float(param.grad is not None) for param in params])
        for param, known in zip(params, has, strict=True):
            if known and param.grad is None:
                param.grad = torch.zeros_like(param)
        self.ranks.sum_([param.grad for param in params if param.grad is not None])
        self._summed = True

    def drop(self) -> None:
        """Forget the gradients."""
        self._summed = False
        self.optimizer.zero_grad(set_to_none=True)

    def forget(self) -> None:
        """Start anew: moments and step counts go."""
        self.optimizer.state.clear()

    @property
    def nbytes(self) -> int:
        """Bytes of a gradient and of the optimizer's moments, once a step was taken."""
        moments = 2 if isinstance(self.optimizer, torch.optim.AdamW) else 0
        return (1 + moments) * sum(p.numel() * p.element_size() for p in self.params.values())

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """{parameter name: {"exp_avg": tensor, ...}}"""
        state = self.optimizer.state
        return {name: dict(state[param]) for name, param in self.params.items() if param in state}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Raises ValueError for what AdamW would read beyond its end. A parameter not trained yet has no state."""
        keys = {"step", "exp_avg", "exp_avg_sq"} if isinstance(self.optimizer, torch.optim.AdamW) else None
        for name, values in state.items():
            if keys is not None and set(values) != keys:
                raise ValueError(f"the moments of {name} are {', '.join(values) or 'none'}, expected {', '.join(keys)}")
            for key, value in values.items():
                shape = torch.Size() if key == "step" else self.params[name].shape
                if value.shape != shape or value.dtype not in (self.params[name].dtype, torch.float32):
                    raise ValueError(f"{key} of {name} is {value.dtype} {list(value.shape)}, expected {list(shape)}")
        for name, values in state.items():
            param = self.params[name]
            self.optimizer.state[param] = {
                key: value.to(value.device if key == "step" else param.device) for key, value in values.items()
            }
