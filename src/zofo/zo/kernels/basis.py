"""Gram and Schmidt in a fixed order of operations, compiled. In a file of its own, as `compiled` says why."""

from __future__ import annotations

import math

from zofo.zo.kernels.jit import njit


@njit(nogil=True)
def _dot(a, b):
    """Products and sums in double precision, first to last: without fast-math nothing is fused or moved."""
    total = 0.0
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@njit(nogil=True)
def gram_schmidt(rows):
    """rows [r, m] double: made orthonormal in place, each against those before it, twice (once loses digits)."""
    for j in range(rows.shape[0]):
        for _ in range(2):
            for k in range(j):
                dot = _dot(rows[k], rows[j])
                for i in range(rows.shape[1]):
                    rows[j, i] = rows[j, i] - dot * rows[k, i]
        size = math.sqrt(_dot(rows[j], rows[j]))
        for i in range(rows.shape[1]):
            rows[j, i] = rows[j, i] / size
