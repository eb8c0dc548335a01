"""What a run came to, once all is saved: one that hardly trained has failed, and says so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from zofo.errors import RunError
from zofo.train.checks import trains_metric
from zofo.train.progress import Skips
from zofo.train.run_dir import RunDir
from zofo.train.setup import Session
from zofo.zo.journal import Outcome, read_header, read_records

_NO_UPDATE = (Outcome.SKIPPED, Outcome.SUPPORT)


def refuse_hardly_trained(
    session: Session, run: RunDir, updates: Mapping[str, int], skips: Skips, loss: float | None
) -> None:
    """Raises RunError where more than half of a level's updates were skipped, or changed nothing since c was 0.

    updates: by level, those that were skipped included. loss: what theta's last update lowers, where one was made now;
    of a loss that is 0 there is nothing left to lower.
    """
    if levels := skips.mostly(updates):
        policy = session.problem.refusals.policy
        raise RunError(
            f"{skips.words(updates, levels)}; {run.root} holds what the others came to, which is hardly trained: start "
            f"again with lower rates, or with train.on_nonfinite=stop in place of {policy}, to end at the first of them"
        )
    if not session.journals or trains_metric(session.config, session.method):  # a metric moves in steps
        return
    zeros, made = zero_updates(run.journal)
    if 2 * zeros > made and loss != 0:
        raise RunError(
            f"{zeros} of {made} updates of theta had a coefficient c of exactly 0, so they changed nothing: the shift "
            f"did not reach the loss; what {run.root} holds is hardly trained in theta: start again with a lower rate "
            f"where theta diverged, or with a larger estimator.eps, or with model.dtype=float32"
        )


def zero_updates(journal: Path) -> tuple[int, int]:
    """(updates whose coefficients are all 0, updates) of a journal; those that were skipped are neither."""
    made = [r for r in read_records(journal, read_header(journal)[1]) if r.outcome not in _NO_UPDATE]
    return sum(not any(c for _, c in record.terms) for record in made), len(made)
