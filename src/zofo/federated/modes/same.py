"""One z for all clients: MeZO on the union of their batches, each answering (c, rows).

theta <- theta - lr c z, c the mean of the clients' c by rows, or a median or trimmed mean of them. With several local
steps each client walks its own way along the same directions, and the mean of their models is what the server's terms
give: DeComFL's update (Li et al., arXiv 2405.15861, Algorithm 1), which has the estimator `one-sided` and q directions.
"""

from __future__ import annotations

from collections.abc import Sequence

from zofo.federated.messages import Answer
from zofo.federated.modes._base import Aggregate, Terms
from zofo.zo.keys import derive


class Mode:
    robust = True

    def seed(self, seed: int, round: int, slot: int, step: int, pool: int) -> int:
        """That of a run of one process, so that a federation of one client has its journal."""
        del slot, pool
        return derive(seed, "z", round) if step == 0 else derive(seed, "z", round, step)

    def merge(self, answers: Sequence[Answer], seeds: Sequence[Sequence[int]], aggregate: Aggregate) -> Terms:
        rows = [float(answer.rows) for answer in answers]
        columns = zip(*(answer.c for answer in answers), strict=True)
        return [(seed, aggregate(column, rows)) for seed, column in zip(seeds[0], columns, strict=True)]
