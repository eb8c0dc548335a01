"""NaN, infinity, overflow at each place of a step; estimates that leave theta alone; what mode inplace drifts by.

    python -m reliability.numbers --minutes 20 --out results/numbers.json

1. Every method that trains, in fp32, bf16, fp16, with shifts in mode layer and copy: each loss of a step, each
   gradient and the coefficient c is made NaN, +inf, -inf or too large, under each policy of `train.on_nonfinite`. What
   the refused update would have moved (theta, adapters, moments, the rule's numbers) must be bit for bit what it was
   before it; the words name the level and the value; after a skip the next steps are those of a run that took this one
   update back; the journal replays to the same bits.
2. Whole runs in which an update overflows the weights: the next loss at the latest ends the run, the words name a
   tensor and the last checkpoint whose weights are finite, which is there and whole.
3. `--estimates` estimates, with an update at rate 0 after each, by every estimator, in each dtype, in modes layer and
   copy, on a network that reads each kind of weight: theta keeps its bits. In mode inplace the drift is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import math
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from reliability._drift import DTYPES, estimates
from reliability._steps import METHODS, Place, Small, Snapshot, coefficient, spoilt, watched, with_journal
from zofo import RunError, finetune
from zofo.config.json_text import dumps
from zofo.errors import NonFiniteError
from zofo.methods._nonfinite import Refusals
from zofo.train.run_dir import RunDir
from zofo.train.setup import Session
from zofo.zo.estimators import svrg
from zofo.zo.journal import Outcome
from zofo.zo.journalled import Journalled
from zofo.zo.replay import replay

BAD = (math.nan, math.inf, -math.inf)
WORDS = {
    "loss": r"(estimate's coefficient is (nan|-?inf)|losses that conservative compares are).*\(F\(theta.*\) was",
    "loss with gradient": r"the loss is (nan|-?inf) \(F\(theta.*\) was",
    "gradient": "the norm of the gradient is (nan|inf)",
    "overflow": r"^step \d+: (\w+ update: |the scores of all dev ).*tensors? holds? NaN or inf.*: an update before",
}


@dataclass
class Tally:
    cases: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def count(self, what: str, *faults: str) -> None:
        self.cases[what] = self.cases.get(what, 0) + 1
        for fault in faults:
            self.faults.append(fault)
            print(f"fault: {fault}"[:400], flush=True)


class Bench:
    """A session after its first steps, to which it comes back before each case."""

    def __init__(self, session: Session, k: int) -> None:
        """k: the step that is spoilt; those of before are made, or left out where they are of one kind."""
        self.session, self.k = session, k
        for step in sorted({0, 1, k - 2, k - 1}):
            session.method.step(step)
        self.start = Snapshot.of(session)
        self.streams = {name: stream.state_dict() for name, stream in session.streams.items()}
        estimator = session.problem.estimator
        self.estimator = copy.deepcopy(estimator.state_dict()) if estimator is not None else {}

    def back(self, policy: Any) -> None:
        session = self.session
        self.start.restore(session)
        for name, position in self.streams.items():
            session.streams[name].load_state_dict(position)
        if session.problem.estimator is not None:
            session.problem.estimator.load_state_dict(copy.deepcopy(self.estimator))
        session.problem.refusals = Refusals(policy)

    def places(self) -> list[Place]:
        self.back("stop")
        counts: dict[str, int] = {}
        with spoilt(None, 0.0, counts):
            self.session.method.step(self.k)
        return [Place(kind, number) for kind, n in counts.items() for number in range(n)]

    def refused(self, place: Place, bad: float, policy: str) -> tuple[str, int, str, list[str]]:
        """(level, number of the update that was refused, or -1; words; faults) of the step, spoilt."""
        self.back(policy)
        session, found, faults = self.session, ["", -1], list[str]()

        def look(level: str, number: int, before: Snapshot) -> None:
            if session.problem.refusals.total and found[1] < 0:
                found[:] = [level, number]
                if moved := before.differs(session):
                    faults.append(f"not as before the refused update: {moved[:3]}")

        words = ""
        with spoilt(place, bad) as done, watched(session, look):
            try:
                session.method.step(self.k)
            except NonFiniteError as error:
                words = str(error)
        if not done:
            faults.append("nothing was spoilt")
        if policy == "stop" and found[1] >= 0 and not words:
            faults.append("policy stop went on")
        return found[0], found[1], words or session.problem.refusals.last, faults

    def undone(self, level: str, number: int, policy: str, anchor: bool) -> Snapshot:
        """The state two steps after a step whose update of this number was made and then taken back."""
        self.back(policy)
        session = self.session

        def take_back(_: str, this: int, before: Snapshot) -> None:
            if this == number:
                before.restore(session)
                session.problem.refusals.skipped = {level: 1}
                session.problem.refusals.halvings = {level: 1} if policy == "halve" else {}
                if anchor:
                    estimator = session.problem.estimator
                    assert isinstance(estimator, svrg.Estimator)
                    estimator.since = None

        with watched(session, take_back):
            session.method.step(self.k)
        return self.two_more()

    def two_more(self) -> Snapshot:
        for step in (self.k + 1, self.k + 2):
            self.session.method.step(step)
        return Snapshot.of(self.session)


def spoil_one(bench: Bench, place: Place, bad: float, policy: str) -> list[str]:
    """The faults of one case."""
    level, number, words, faults = bench.refused(place, bad, policy)
    if number < 0:  # the rule conservative may take another of its losses
        return faults if "conservative" in str(type(bench.session.rule)) else [*faults, "not refused"]
    if not re.search(rf"^{level} update: .*{WORDS[place.kind]}", words):
        faults.append(f"words: {words}")
    if policy == "stop" or faults:
        return faults
    estimator = bench.session.problem.estimator
    anchor = isinstance(estimator, svrg.Estimator) and estimator.since is None
    after, halved = bench.two_more(), dict(bench.session.problem.refusals.halvings)
    if halved != ({level: 1} if policy == "halve" else {}):
        faults.append(f"halvings: {halved}")
    wanted = bench.undone(level, number, policy, anchor)
    if names := [name for name, value in wanted.tensors.items() if not _same(value, after.tensors[name])]:
        faults.append(f"two steps later not those of a run without the update: {names[:3]}")
    return faults


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.nan_to_num(), b.nan_to_num())


def too_large(bench: Bench) -> Iterator[tuple[str, list[str]]]:
    """(what, faults): coefficients that overflow, alone, times the rate, or squared."""
    session, rate, config = bench.session, bench.session.problem.rate, bench.session.config.method
    of_theta = config.lr_theta if hasattr(config, "lr_theta") else config.lr
    cases = {"c overflows": (1e39, 1.0, "is inf"), "lr c overflows": (3e38, 1e9, "overflows at a rate")}
    if session.rule is not None and math.isfinite(session.rule.largest):
        cases["c squared overflows"] = (1e20, 1.0, "overflows in the rule's squares")
    for what, (c, factor, words) in cases.items():
        bench.back("stop")
        faults: list[str] = []

        def look(level: str, number: int, before: Snapshot, faults: list[str] = faults) -> None:
            if session.problem.refusals.total and (moved := before.differs(session)):
                faults.append(f"{what}: {moved[:3]} not as before")  # noqa: B023

        session.problem.rate = lambda value, step, by=factor: (by if value == of_theta else 1.0) * rate(value, step)
        try:
            with coefficient(session, c), watched(session, look):
                session.method.step(bench.k)
            faults.append(f"{what}: not refused")
        except NonFiniteError as error:
            if words not in str(error):
                faults.append(f"{what}: words: {error}")
        session.problem.rate = rate
        yield what, faults


def replayed(small: Small, name: str, options: list[str], folder: Path) -> list[str]:
    """Six steps with two refused ones, halved: the journal gives the same theta, bit for bit."""
    session, other = (small.session(name, *options) for _ in range(2))
    inplace = session.problem.theta.mode == "inplace"
    session.problem.refusals = Refusals("stop" if inplace else "halve")
    journal, first = with_journal(session, folder / "journal.bin"), 12 if name == "two-stage" else 0
    for k in range(first, first + 6):
        bad = (inplace and k == first + 5) or (not inplace and k - first in (2, 4))
        with spoilt(Place("loss", 1) if bad else None, math.nan), contextlib.suppress(NonFiniteError):
            session.method.step(k)
    rates = [record.rate for record in journal.records() if record.outcome is not Outcome.SUPPORT]
    skipped = sum(record.outcome is Outcome.SKIPPED for record in journal.records())
    assert other.problem.estimator is not None
    assert other.rule is not None
    replay(other.problem.theta, other.problem.estimator, other.rule, journal.records())
    faults = [] if session.problem.theta.sha256() == other.problem.theta.sha256() else ["the replay is another theta"]
    if not inplace and "conservative" not in name and (skipped != 2 or rates[-1] * 4 != rates[0]):
        faults.append(f"{skipped} skipped, rates {rates}")
    return faults


def injections(small: Small, tally: Tally, until: float, names: list[str], dtypes: list[str], folder: Path) -> None:
    turn = 0
    for name in names:
        for dtype in dtypes:
            zeroth = any(part in METHODS[name][0] for part in ("mezo", "zofo", "two-stage", "ablations"))
            for shift in ("layer", "copy", "inplace") if zeroth else ("",):
                if time.monotonic() > until:
                    return
                if shift == "inplace" and any(part in name for part in ("svrg", "conservative", "sparse")):
                    continue
                options = [f"model.dtype={dtype}", *([f"estimator.shift={shift}"] if shift else [])]
                here = f"{name}, {dtype}, {shift}"
                if shift:
                    faults = replayed(small, name, options, folder)
                    tally.count("journals replayed", *(f"{here}: {fault}" for fault in faults))
                if shift == "inplace":
                    continue
                for k in (2, 14) if name == "two-stage" else (2,):
                    bench = Bench(small.session(name, *options), k)
                    for place in bench.places():
                        turn += 1
                        cases = [("stop", bad) for bad in BAD] + [("skip", BAD[turn % 3]), ("halve", BAD[-turn % 3])]
                        for policy, bad in cases:
                            faults = spoil_one(bench, place, bad, policy)
                            tally.count(policy, *(f"{here}, {place}, {bad}, {policy}: {fault}" for fault in faults))
                    if bench.session.problem.estimator is not None and (name != "two-stage" or k == 14):
                        for what, faults in too_large(bench):
                            tally.count(what, *(f"{here}: {fault}" for fault in faults))


def overflowing(small: Small, tally: Tally, until: float, folder: Path) -> None:
    """Runs whose sixth estimate has a coefficient that leaves weights which are infinite."""
    for number, (name, policy, save) in enumerate(
        (name, policy, save)
        for name in ("mezo", "mezo, adamw", "bilevel-zofo", "two-stage", "sparse-mezo")
        for policy in ("stop", "skip", "halve")
        for save in (2, 1)
    ):
        if time.monotonic() > until:
            return
        out = folder / f"overflow-{number}"
        sections, settings = small.options(name, "model.dtype=float16", f"train.on_nonfinite={policy}")
        faults = overflow(sections, settings, out, save)
        tally.count("overflowing runs", *(f"{name}, {policy}, {save}: {fault}" for fault in faults))


def overflow(sections: dict[str, Any], settings: list[str], out: Path, save: int) -> list[str]:
    real, updates, said = Journalled.update_, [0], io.StringIO()

    def update_(self: Journalled, theta: Any, g: Any, lr: float, *more: Any) -> Any:
        updates[0] += 1
        return real(self, theta, g, 1e6 if updates[0] == 6 else lr, *more)

    Journalled.update_ = update_  # type: ignore[method-assign]
    try:
        with contextlib.redirect_stderr(said):
            finetune(**sections, output_dir=out, overrides=settings, save_steps=save, eval_steps=4, save_total_limit=1)
        return ["it ended well"]
    except RunError as error:
        words = str(error)
    finally:
        Journalled.update_ = real  # type: ignore[method-assign]
    faults = []
    if not re.search(WORDS["overflow"], words):
        faults.append(f"words: {words}")
    if updates[0] > 7:
        faults.append(f"noticed after {updates[0]} updates")
    named = re.search(r"--resume (\S*checkpoint-\d+)", words)
    if named is None:
        faults.append(f"no checkpoint is named: {words}")
    else:
        RunDir(out).verify_checkpoint(Path(named[1]))  # raises where it is not whole
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m reliability.numbers", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--estimates", type=int, default=10_000)
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("--only", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--parts", nargs="*", default=["injections", "overflow", "estimates"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    tally, begun = Tally(), time.monotonic()
    until, figures = begun + 60 * args.minutes, dict[str, Any]()
    with tempfile.TemporaryDirectory() as name:
        small = Small(Path(name))
        if "injections" in args.parts:
            injections(small, tally, until, args.only, list(DTYPES), Path(name))
        if "overflow" in args.parts:
            overflowing(small, tally, until, Path(name))
        if "estimates" in args.parts:
            figures = estimates(tally, until, args.estimates)
    report = {"cases": tally.cases, **figures, "faults": tally.faults, "minutes": (time.monotonic() - begun) / 60}
    print(dumps(report, indent=1))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(dumps(report, indent=1) + "\n")
    sys.exit(1 if tally.faults else 0)


if __name__ == "__main__":
    main()
