"""metric: minus the mean of the task's metric, which has no gradient: for zeroth-order steps alone (MeZO, section 3.3).

Of options it is the accuracy; of generated text what the task measures, so that a call generates: many forwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from zofo.objectives import _base

if TYPE_CHECKING:
    from torch import Tensor

    from zofo.data.batch import Batch
    from zofo.data.example import Example
    from zofo.models.scorer import Scorer


class Objective(_base.Objective):
    """-1 for each example whose likeliest option, by the mean of its tokens, is a right one; or minus `measure`.

    NaN where an option's score is NaN: what a model of NaN would choose is not known, and the update is refused.
    """

    encodes: ClassVar = ""
    differentiable: ClassVar = False

    def __init__(self, measure: Callable[[Sequence[Example]], Sequence[float]] | None = None) -> None:
        """measure: examples -> the metric of each, with the model as it stands and writes; None: of options."""
        self.measure = measure
        self.mixes = measure is None  # a text is written with one adapter

    def __call__(self, logp: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        scores = _base.option_scores(logp, batch)
        right = scores.masked_fill(~batch.gold, -math.inf)
        best, of_right = (
            scores.new_full((batch.examples,), -math.inf).scatter_reduce(0, batch.option_example, x, "amax")
            for x in (scores, right)
        )
        right_ones = ((of_right >= best) & (best > -math.inf)).float()
        unknown = scores.new_zeros(batch.examples).index_add(0, batch.option_example, scores.isnan().to(scores.dtype))
        return -right_ones.masked_fill(unknown > 0, math.nan), best.new_ones(batch.examples)

    def sums(self, scorer: Scorer, batch: Batch, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.measure is None:
            return super().sums(scorer, batch, **kwargs)
        import torch

        values = torch.tensor(self.measure([e.example for e in batch.source]), dtype=torch.float32)
        return -values, torch.ones_like(values)
