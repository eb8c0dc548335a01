"""A z for each local step of each client, out of a pool of K that never grows: FedKSeed (Qin et al., arXiv 2312.06353).

As `own`, but the seeds are K: whoever joins late could do with K sums in place of a journal of all rounds. Here the
journal is sent all the same, since sums taken in another order have other last bits, and theta would be another one.
"""

from __future__ import annotations

from zofo.federated.modes import own
from zofo.zo.keys import derive


class Mode(own.Mode):
    def seed(self, seed: int, round: int, slot: int, step: int, pool: int) -> int:
        return derive(seed, "z/pool", derive(seed, "z/pick", round, slot, step) % pool)
