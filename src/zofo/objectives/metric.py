"""metric: minus the mean of the task's metric, which has no gradient: for zeroth-order parts alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zofo.data.batch import Batch
from zofo.models.scorer import Scorer
from zofo.objectives._base import Likelihood, option_scores

if TYPE_CHECKING:
    from zofo.data.example import Example


class NegativeAccuracy(Likelihood):
    """-1 for each example whose likeliest option, by the mean of its tokens, is a right one (MeZO, section 3.3)."""

    differentiable = False

    def __call__(self, logp: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        scores = option_scores(logp, batch)
        right = scores.masked_fill(~batch.gold, -torch.inf)
        best, of_right = (
            scores.new_full((batch.examples,), -torch.inf).scatter_reduce(0, batch.option_example, x, "amax")
            for x in (scores, right)
        )
        return -(of_right >= best).float(), torch.ones_like(best)


class NegativeMetric:
    """Minus a metric of what the model writes (MeZO, section 3.3: F1). Generates, so that a call costs many forwards.

    measure: examples -> the metric of each, with the model as it stands.
    """

    differentiable = False
    mixes = False

    def __init__(self, measure: Callable[[Sequence[Example]], Sequence[float]]) -> None:
        self.measure = measure

    def sums(self, scorer: Scorer, batch: Batch, **kwargs: Any) -> tuple[Tensor, Tensor]:
        values = torch.tensor(self.measure([e.example for e in batch.source]), dtype=torch.float32)
        return -values, torch.ones_like(values)

    def __call__(self, logp: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        raise TypeError("a metric of generated text is no function of the labels' log-probabilities")
