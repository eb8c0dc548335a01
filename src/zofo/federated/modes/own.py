"""A z for each client: n directions a round, of which the estimate is the mean by rows.

theta <- theta - lr sum_i w_i c_i z_i, w_i = rows_i / sum of rows. Coefficients of different directions have no median:
against a client that lies there is `clip` alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from zofo.federated.messages import Answer
from zofo.federated.modes._base import Aggregate, Terms
from zofo.zo.grad import float32
from zofo.zo.keys import derive


class Mode:
    robust = False

    def seed(self, seed: int, round: int, slot: int, step: int, pool: int) -> int:
        del pool
        return derive(seed, "z/own", round, slot, step)

    def merge(self, answers: Sequence[Answer], seeds: Sequence[Sequence[int]], aggregate: Aggregate) -> Terms:
        del aggregate
        total = sum(answer.rows for answer in answers)
        return [
            (seed, float32(answer.rows / total * c))
            for answer, of_it in zip(answers, seeds, strict=True)
            for seed, c in zip(of_it, answer.c, strict=True)
        ]
