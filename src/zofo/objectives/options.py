"""options: the mean over examples of the cross-entropy over the options' mean log-probabilities."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from zofo.objectives import _base

if TYPE_CHECKING:
    from torch import Tensor

    from zofo.data.batch import Batch


class Objective(_base.Objective):
    """Cross-entropy of the right option under a softmax over the options' mean log-probabilities."""

    def __call__(self, logp: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        scores = _base.option_scores(logp, batch)
        all_options = _base.logsumexp(scores, batch.option_example, batch.examples)
        right = _base.logsumexp(scores.masked_fill(~batch.gold, -math.inf), batch.option_example, batch.examples)
        return all_options - right, right.new_ones(batch.examples)
