"""What objectives share: a sum and a weight for each example, so that any union of batches has its own mean."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from zofo.data.batch import Batch
    from zofo.models.scorer import Scorer


class Objective(ABC):
    """F of a set of examples is sum(sums) / sum(weights), whatever batches it is cut into.

    encodes: which answers of a training example are computed: its right one ("gold"), all its "options", or those of
    the task's own objective, beside which this one stands ("").
    ends: whether the end of a written answer is learnt and scored with it.
    differentiable: whether first-order steps can descend it.
    mixes: whether rows of one batch may be computed with different adapters.
    """

    encodes: ClassVar[Literal["gold", "options", ""]] = "options"
    ends: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True
    mixes: bool = True

    @abstractmethod
    def __call__(self, logp: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """(sums [E], weights [E]), both fp32. logp: fp32 [N], the log-probability of each label of the batch.

        The weights hang on the batch alone and not on logp, so that they are known before any forward.
        """

    def sums(self, scorer: Scorer, batch: Batch, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The same of a batch on the model's device, computed: one forward. kwargs: of the model's forward."""
        return self(scorer.logprobs(batch, **kwargs), batch)


def option_scores(logp: Tensor, batch: Batch, mean: bool = True) -> Tensor:
    """[O] mean (or summed) log-probability of each option's tokens."""
    n_options = batch.gold.numel()
    total = logp.new_zeros(n_options).index_add(0, batch.option, logp)
    if not mean:
        return total
    return total / batch.option.bincount(minlength=n_options).clamp(min=1)


def logsumexp(x: Tensor, group: Tensor, groups: int) -> Tensor:
    """[groups] log sum exp of x within each group. x: [O], group: [O] the group of each."""
    peak = x.detach().new_full((groups,), -math.inf).scatter_reduce(0, group, x.detach(), "amax")
    total = x.new_zeros(groups).index_add(0, group, (x - peak[group]).exp())
    return total.log() + peak
