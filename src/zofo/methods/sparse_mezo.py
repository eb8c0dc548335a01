"""Sparse MeZO: MeZO on the small weights of each matrix (Liu et al., NeurIPS 2025, arXiv 2402.15751, Algorithm 1).

It is `mezo` with a mask, `magnitude` by default; every other method that moves theta by zeroth-order updates takes
the same section `mask`, so that `bilevel-zofo` with one is Bilevel ZOFO over Sparse MeZO.

| symbol | field | default | place |
|---|---|---|---|
| eta | lr | 2e-6 | grid 1e-6 to 5e-6; rebuttal Q3: 2e-6 to 3e-6 are best |
| h_i | mask.sparsity | 0.75 | Figure 4 |
| epsilon | estimator.eps | 1e-3 | that of MeZO |
"""

from __future__ import annotations

from dataclasses import dataclass, field

from zofo.methods import mezo

defaults = mezo.defaults


@dataclass(frozen=True)
class Config(mezo.Config):
    lr: float = field(default=2e-6, metadata={"help": "rate of theta", "paper": "grid 1e-6 to 5e-6", "ge": 0})


class Method(mezo.Method):
    """theta <- theta - lr [F(theta + eps m z) - F(theta - eps m z)] / (2 eps) m z, m the mask of theta."""

    needs = frozenset({"estimator", "rule", "mask"})
    optional = frozenset({"adapter"})
