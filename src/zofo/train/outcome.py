"""What a run came to: at its end, where one that hardly trained, or ruined its weights, has failed; or before it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from zofo.errors import OutOfMemory, ZofoError, printable
from zofo.train.checks import trains_metric
from zofo.train.ending import Ending
from zofo.train.progress import Skips
from zofo.train.run_dir import RunDir
from zofo.train.setup import Session
from zofo.train.weights import blown_up
from zofo.zo.journal import Outcome, read_header, read_records

_NO_UPDATE = (Outcome.SKIPPED, Outcome.SUPPORT)
LOWER = "start again with lower rates"
ANEW = " (--overwrite, or another --output-dir)"


@dataclass(frozen=True)
class Sizes:
    """The largest weights (`weights.largest`) before training, when it ended, and of what is deployed."""

    before: Mapping[str, float]
    last: Mapping[str, float]
    deployed: Mapping[str, float]


def outcome_of(
    session: Session, journal: Path, updates: Mapping[str, int], skips: Skips, loss: float | None, sizes: Sizes
) -> Ending:
    """Of a run at its end. It failed where more than half of a level's updates were skipped, or changed nothing since c
    was 0.

    updates: by level, those that were skipped included. loss: what theta's last update lowers, where one was made now;
    of a loss that is 0 there is nothing left to lower.
    """
    ended = blown_up(sizes.before, sizes.last)
    if levels := skips.mostly(updates):
        every = all(session.problem.refusals.skipped[level] == updates.get(level) for level in levels)
        weights = "what they were before them" if every else "hardly trained, by the others"
        policy = session.problem.refusals.policy
        fix = f"{LOWER}, or with train.on_nonfinite=stop in place of {policy}, to end at the first"
        return _failed(skips.words(updates, levels), weights, fix, ended, sizes)
    if not session.journals or trains_metric(session.config, session.method):  # a metric moves in steps
        return Ending("finished")
    zeros, made = zero_updates(journal)
    if 2 * zeros <= made or loss == 0:
        return Ending("finished")
    fix = "start again with a larger estimator.eps"
    fix += " or model.dtype=float32" if session.loaded.dtype.itemsize == 2 else ""
    return _failed(
        f"{zeros} of {made} updates of theta had a coefficient c of exactly 0, so they changed nothing",
        "hardly trained in theta, since the shift did not reach the loss",
        fix,
        ended,
        sizes,
    )


def _failed(reason: str, weights: str, fix: str, ended: str, sizes: Sizes) -> Ending:
    """weights, fix: where no weight was blown up. ended: the words for what was when training ended, "" for none."""
    if blown := blown_up(sizes.before, sizes.deployed):
        return Ending("failed", reason, f"ruined, by an update too large: {blown}", LOWER + ANEW)
    if ended:
        what = f"those of the best evaluation, made before an update was too large ({ended})"
        return Ending("failed", reason, what, LOWER + ANEW)
    return Ending("failed", reason, weights, fix + ANEW)


def zero_updates(journal: Path) -> tuple[int, int]:
    """(updates whose coefficients are all 0, updates) of a journal; those that were skipped are neither."""
    made = [r for r in read_records(journal, read_header(journal)[1]) if r.outcome not in _NO_UPDATE]
    return sum(not any(c for _, c in record.terms) for record in made), len(made)


def stopped_by(error: BaseException, step: int, of: int, trained: bool) -> Ending:
    """Of a run that `error` ended before its end. trained: all but the test set was done."""
    if isinstance(error, KeyboardInterrupt):
        return Ending("interrupted", "before the test set was measured" if trained else "", step=step, of=of)
    text = " ".join(str(error).split())
    if not isinstance(error, (ZofoError, OSError)):
        text = f"{type(error).__name__}: {text}"
    text = text.removeprefix(f"step {step}: ")
    if isinstance(error, OutOfMemory):
        text = text.removesuffix(f" at step {step}")
    return Ending("failed", printable(text.partition("; ")[0], 300), step=step, of=of)


def note(run: RunDir, ending: Ending | None) -> None:
    """In the run's manifest: how it ended before its end, or None where it goes on. A disk that is full, or a directory
    that is another's by now, takes none, and what ended the run is what is said."""
    before = run.manifest.get("outcome")
    after = None if ending is None else ending.to_dict()
    if not run.manifest or before == after:
        return
    run.manifest.pop("outcome", None)
    if after is not None:
        run.manifest["outcome"] = after
    with suppress(OSError, ZofoError):
        run.keep()
