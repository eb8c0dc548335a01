"""options: the mean over examples of the cross-entropy over the options' mean log-probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from zofo.data.batch import Batch
from zofo.objectives._base import Likelihood, _logsumexp, option_scores


class Options(Likelihood):
    """Cross-entropy of the right option under a softmax over the options' mean log-probabilities."""

    def __call__(self, logp: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        scores = option_scores(logp, batch)
        all_options = _logsumexp(scores, batch.option_example, batch.examples)
        right = _logsumexp(scores.masked_fill(~batch.gold, -torch.inf), batch.option_example, batch.examples)
        return all_options - right, torch.ones_like(right)
