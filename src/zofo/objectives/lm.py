"""lm: -log p of the right answer's tokens, summed, over the answer tokens of the whole batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from zofo.objectives import _base

if TYPE_CHECKING:
    from torch import Tensor

    from zofo.data.batch import Batch


class Objective(_base.Objective):
    """Negative log-likelihood of the right answer's tokens, its end among them where it is written."""

    encodes: ClassVar = "gold"
    ends: ClassVar = True

    def __call__(self, logp: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        gold = batch.gold[batch.option].to(logp.dtype)
        example = batch.option_example[batch.option]
        zeros = logp.new_zeros(batch.examples)
        return zeros.index_add(0, example, -logp * gold), zeros.index_add(0, example, gold)
