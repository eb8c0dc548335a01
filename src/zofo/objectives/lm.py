"""lm: -log p of the right answer's tokens, summed, over the answer tokens of the whole batch.

Of several right answers the first is meant, where it is trained and where it is evaluated: both are one F.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from zofo.objectives import _base

if TYPE_CHECKING:
    from torch import Tensor

    from zofo.data.batch import Batch


class Objective(_base.Objective):
    """Negative log-likelihood of the (first) right answer's tokens, its end among them where it is written."""

    encodes: ClassVar = "gold"
    ends: ClassVar = True

    def __call__(self, logp: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        meant = batch.first[batch.option]
        example = batch.option_example[batch.option]
        zeros = logp.new_zeros(batch.examples)
        sums = zeros.index_add(0, example, -logp.masked_fill(~meant, 0.0))  # another answer's NaN is not this one's
        return sums, zeros.index_add(0, example, meant.to(logp.dtype))
