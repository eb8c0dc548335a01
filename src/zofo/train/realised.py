"""In bf16 and fp16: which share of the wanted shift survives the rounding, per tensor (docs/tour.md, 2)."""

from __future__ import annotations

from zofo.train.setup import Session


def realised_shares(session: Session, k: int) -> dict[str, float] | None:
    """{tensor: share} of the estimate before step k; None where nothing is rounded, or nothing has been estimated."""
    problem = session.problem
    if problem.estimator is None or session.loaded.dtype.itemsize != 2:
        return None
    from zofo.zo.diagnostics import realised

    cfg = problem.estimator.config
    z = problem.estimator.glimpse(problem.theta, max(0, k - 1), problem.key("z", k))
    if z is None:  # the mask is still to be made, by a step: theta does not move before it
        return None
    return realised(problem.theta, z, cfg.eps, cfg.rounding)
