"""lm: the sum of -log p over the answer tokens, divided by the answer tokens of the batch."""

from __future__ import annotations

from torch import Tensor

from zofo.data.batch import Batch
from zofo.objectives._base import Likelihood


class LM(Likelihood):
    """Negative log-likelihood of the right answer's tokens."""

    def __call__(self, logp: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        gold = batch.gold[batch.option].to(logp.dtype)
        example = batch.option_example[batch.option]
        zeros = logp.new_zeros(batch.examples)
        return zeros.index_add(0, example, -logp * gold), zeros.index_add(0, example, gold)
