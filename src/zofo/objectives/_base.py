"""What objectives share: sums and weights of each example, from the log-probabilities of its labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import torch
from torch import Tensor

from zofo.data.batch import Batch
from zofo.models.scorer import Scorer


class Objective(Protocol):
    """Per-example sums and weights, so that any split or union of batches has the loss sum(sums) / sum(weights)."""

    differentiable: bool
    mixes: bool  # whether rows of one batch may be computed with different adapters

    def sums(self, scorer: Scorer, batch: Batch, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """(sums [E], weights [E]), both fp32, of a batch on the model's device. kwargs: of the model's forward."""
        ...

    def __call__(self, logp: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The same from the log-probability of each label token, logp fp32 [N], where that is all it takes."""
        ...


class Likelihood(ABC):
    """An objective of the labels' log-probabilities alone: one forward of the model."""

    differentiable = True
    mixes = True

    def sums(self, scorer: Scorer, batch: Batch, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return self(scorer.head.logprobs(scorer.model, batch, **kwargs), batch)

    @abstractmethod
    def __call__(self, logp: Tensor, batch: Batch) -> tuple[Tensor, Tensor]: ...


def option_scores(logp: Tensor, batch: Batch, mean: bool = True) -> Tensor:
    """[O] mean (or summed) log-probability of each option's tokens."""
    n_options = batch.gold.numel()
    total = logp.new_zeros(n_options).index_add(0, batch.option, logp)
    if not mean:
        return total
    return total / torch.bincount(batch.option, minlength=n_options).clamp(min=1)


def _logsumexp(x: Tensor, group: Tensor, groups: int) -> Tensor:
    """[groups] log sum exp of x within each group."""
    peak = x.detach().new_full((groups,), -torch.inf).scatter_reduce(0, group, x.detach(), "amax")
    total = x.new_zeros(groups).index_add(0, group, torch.exp(x - peak[group]))
    return total.log() + peak
