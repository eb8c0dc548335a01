"""The laws of a direction's entries: their names, and the table of the Gaussian one (docs/journal.md)."""

from __future__ import annotations

import hashlib
import struct
from functools import cache
from statistics import NormalDist

RADEMACHER, GAUSSIAN, SPHERE = "rademacher", "gaussian", "sphere"
LAWS = (RADEMACHER, GAUSSIAN, SPHERE)
GROUP_BITS = 4096

TABLE_SIZE = 4096
TABLE_ONE = 4096  # the integer that stands for z = 1
TABLE_SCALE = 4096.6525  # 2^12, and 0.016 % to give the finite table a second moment of 1
TABLE_SHA256 = "0378f2a49541fd9c2d44d397eb50085a84b97eb781c138b192ae9852c227dcb1"


@cache
def gaussian_table() -> tuple[int, ...]:
    """The 4096 integers q of the Gaussian law, ascending: an entry is z = q 2^-12, each with probability 2^-12.

    q_i is the quantile in the middle of the i-th of 4096 equally likely cells, rescaled: the nearest integer to
    TABLE_SCALE times the normal quantile of (i + 1/2) / 4096. No product is within 0.001 of a tie, so the last bits of
    a platform's logarithm cannot change an entry; the hash is compared all the same.
    Odd (mean 0 exactly); second moment 1 + 1.0e-7; fourth 2.9915 (a normal's is 3); the largest entry is 3.669, so
    the tails beyond it are cut. Raises RuntimeError where the platform gives another table.
    """
    upper = [round(TABLE_SCALE * NormalDist().inv_cdf((2 * i + 1) / (2 * TABLE_SIZE))) for i in range(2048, TABLE_SIZE)]
    table = (*(-q for q in reversed(upper)), *upper)
    if hashlib.sha256(struct.pack(f"<{TABLE_SIZE}h", *table)).hexdigest() != TABLE_SHA256:
        raise RuntimeError("statistics.NormalDist gives other quantiles on this platform: use the law rademacher")
    return table
