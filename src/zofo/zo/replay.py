"""theta from its journal: the updates done again, bit for bit, on the tensors they started from."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zofo.errors import InputError
from zofo.zo.grad import ZOGrad
from zofo.zo.journal import JournalError, Outcome, Record
from zofo.zo.point import Point
from zofo.zo.support import Support

if TYPE_CHECKING:
    from zofo.zo.estimators._base import Base as Estimator
    from zofo.zo.masks._base import Base as Mask
    from zofo.zo.rules._base import Base as Rule


def check_initial(theta: Point, header: dict[str, Any], path: Path, sums: Mapping[str, str] | None = None) -> None:
    """Raises InputError naming the first tensor of theta that is not the one the journal started from. sums: theta's
    `sha256`, where it is known."""
    recorded = {t["name"]: t for t in header.get("tensors", [])}
    if set(recorded) != set(theta):
        odd = sorted(set(recorded) ^ set(theta))[0]
        raise InputError(f"{path}: written for a model with other tensors (for one, {odd}); is it the same base model?")
    for name, digest in (theta.sha256() if sums is None else sums).items():
        if recorded[name]["sha256"] != digest:
            raise InputError(
                f"{path}: tensor {name} of the base model is not the one this run started from "
                f"(another revision or dtype?); the run needs {header['model']} in {recorded[name]['dtype']}"
            )


def replay(theta: Point, estimator: Estimator, rule: Rule, records: Iterable[Record]) -> int:
    """Do a journal's updates again, bit for bit; on a CPU many in one pass over theta, where they are sums of z.

    Returns their number. Estimator and rule must be as at their start.
    """
    count = 0
    with theta.waiting():
        for record in records:
            count += _again(theta, estimator, rule, record)
    return count


def _again(theta: Point, estimator: Estimator, rule: Rule, record: Record) -> int:
    """Returns the number of its updates, 0 or 1."""
    if record.outcome is Outcome.SUPPORT:
        restore_support(theta, estimator.mask, record)
        return 0
    terms = tuple((c, estimator.direction(theta, record.step, seed)) for seed, c in record.terms)
    estimator.passing(theta, record.step, record.terms)
    if theta.mode == "inplace":  # the drift of the run's own shifts is part of what happened to theta
        for _, z in terms:
            estimator.drift_(theta, z)
    if record.outcome is not Outcome.SKIPPED:
        if not terms:
            raise JournalError(
                f"journal.bin: the update of step {record.step} has no direction; put back a copy of the file"
            )
        rule.update_(theta, ZOGrad(terms, 0.0, 0), record.rate, record.step, outcome=record.outcome)
    return 1


def restore_support(theta: Point, mask: Mask, record: Record) -> None:
    """Give a mask the support that a record keeps. Raises JournalError where it holds none."""
    device = next(iter(theta.values())).device
    try:
        support = Support.unpack(record.payload, device)
    except (ValueError, LookupError, TypeError, AttributeError, struct.error, zlib.error) as error:
        raise JournalError(
            f"journal.bin: the support at step {record.step} is damaged; put back a copy of the file"
        ) from error
    mask.restore(record.step, support)
