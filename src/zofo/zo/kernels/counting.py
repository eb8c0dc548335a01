"""Counts of bit patterns, compiled. In a file of its own, as `compiled` says why."""

from __future__ import annotations

import numpy as np

from zofo.zo.kernels.jit import njit


@njit(nogil=True)
def count(patterns, head, out):
    """Count the 16 bits behind the sign of each fp32 pattern; or (head >= 0) its lower 15 where those 16 are `head`."""
    for i in range(patterns.size):
        size = patterns[i] & np.int32(0x7FFFFFFF)
        upper = size >> np.int32(15)
        if head < 0:
            out[upper] += 1
        elif upper == head:
            out[size & np.int32(0x7FFF)] += 1
