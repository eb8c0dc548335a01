"""Short runs of any estimator, rule, mask and method on any tiny model, cut and taken up again; and which to try."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.family_runs import adapter_for
from tests.tiny_bilevel import SEED, examples, lively
from tests.tiny_models import PAD, build, cpu_loss
from zofo.config import registry
from zofo.data.stream import Stream
from zofo.methods import bilevel_zofo, mezo
from zofo.methods._problem import Problem
from zofo.models.adapters import lora
from zofo.train.gradients import gradients as gradients_of
from zofo.zo.grad import ZOGrad
from zofo.zo.journal import Journal, Outcome, Record
from zofo.zo.journalled import Journalled
from zofo.zo.point import Point
from zofo.zo.replay import replay, restore_support

STEPS, CUT, REFRESH = 4, 3, 2  # the cut lies in the middle of an anchor's, a basis' or a mask's second epoch
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
RATES = {"sign": 1e-3, "adam": 1e-3, "adamw": 1e-3}  # of the other rules: 1e-4
REBUILT = ("adamezo", "seed-momentum")  # these want bands that stay


@dataclass(frozen=True)
class Case:
    """mask: a name, or "none". stored: (how a rule keeps its numbers, its rounding)."""

    family: str = "llama"
    dtype: str = "bfloat16"
    method: str = "mezo"
    estimator: str = "spsa"
    rule: str = "sgd"
    mask: str = "none"
    shift: str = "layer"
    q: int = 1
    law: str = "rademacher"
    stored: tuple[str, str] = ("float32", "stochastic")

    def __str__(self) -> str:
        return "-".join(str(v) for v in dataclasses.astuple(self) if not isinstance(v, tuple)) + f"-{self.stored[0]}"

    @property
    def refused(self) -> bool:
        """What the configuration does not let through: an anchor's estimate under a mask that changes."""
        return self.estimator == "svrg" and self.mask == "blocks"

    def settings(self, kind: str, name: str, **wanted: Any) -> Any:
        """The Config of an entry, with those of the wanted settings that it knows."""
        config = registry.load(kind, name).Config
        known = {f.name for f in dataclasses.fields(config)}
        return config(**{key: value for key, value in wanted.items() if key in known})

    def make_estimator(self, gradients: Any = None) -> Any:
        stays = self.estimator == "svrg" or (self.rule in REBUILT and self.mask == "magnitude")
        mask, refresh = None, None if stays else REFRESH
        if self.mask != "none":
            mask_settings = {"refresh": 1 if self.mask == "blocks" else refresh, "batches": 1, "density": 0.4}
            mask = registry.load("masks", self.mask).Mask(
                self.settings("masks", self.mask, **mask_settings), SEED, gradients
            )
        most = max(self.q, 2) if self.estimator == "fzoo" else self.q  # a deviation is of two losses at least
        wanted = {"eps": 1e-2, "q": most, "shift": self.shift, "law": self.law, "rank": 2, "refresh": REFRESH}
        config = self.settings("estimators", self.estimator, **wanted, anchor_batches=2, anchor="disk")
        return registry.load("estimators", self.estimator).Estimator(config, SEED, mask)

    def make_rule(self) -> Any:
        state, rounding = self.stored
        rounding = "stochastic" if rounding == "split" and self.dtype != "bfloat16" else rounding
        return registry.load("rules", self.rule).Rule(
            self.settings("rules", self.rule, state=state, rounding=rounding, h=2), SEED
        )


class Watched:
    """An estimator after each of whose estimates theta must have the bits it had before (not so in place)."""

    def __init__(self, estimator: Any) -> None:
        self.estimator, self.config = estimator, estimator.config
        self.seen: list[ZOGrad] = []

    def __call__(self, f: Callable[[], float], theta: Point, step: int, seed: int) -> ZOGrad:
        if theta.mode == "inplace":
            self.seen.append(self.estimator(f, theta, step, seed))
            return self.seen[-1]
        before = theta.sha256()
        self.seen.append(self.estimator(f, theta, step, seed))
        assert theta.sha256() == before
        return self.seen[-1]


class Play:
    """A run of a case: model, theta, adapters, streams, method and journal, as `session.build` joins them."""

    def __init__(self, case: Case, journal: Journal) -> None:
        self.case, self.journal = case, journal
        with torch.no_grad():  # a Mamba six times as lively leaves fp16's range
            model = build(case.family) if case.family == "mamba" else lively(build(case.family))
            self.model = model.to(DTYPES[case.dtype])
        self.theta, self.adapters = Point(self.model, mode=case.shift), None
        if case.method == "bilevel-zofo":
            section = {"r": 2, **(adapter_for(case.family, "lora") or {})}
            section.pop("name", None)
            adapters = lora.Adapter(lora.Config(**section)).build(self.model, ("p", "s"), SEED)
            self.adapters = adapters
        self.first = {n: t.detach().clone() for n, t in self.theta.items()}
        loss = cpu_loss(self.model, "lm", self.adapters)
        names = ("f", "p") if self.adapters else ("train",)
        self.streams = {n: Stream(examples("lm", 8, i), 2, PAD, SEED, n) for i, n in enumerate(names)}
        self.problem = Problem(self.theta, self.adapters, loss, self.streams, SEED, total=99)
        gradients = partial(gradients_of, loss, self.theta, self.streams)
        self.estimator, self.rule = case.make_estimator(gradients), case.make_rule()
        self.watched = Watched(self.estimator)
        self.problem.estimator, self.problem.rule = self.watched, Journalled(self.rule, None)  # pyright: ignore
        rate = RATES.get(case.rule, 1e-4)
        if self.adapters is None:
            self.method: Any = mezo.Method(mezo.Config(lr=rate))
        else:
            config = bilevel_zofo.Config(lam=1.0, inner_steps=1, lr_theta=rate, lr_s=1e-2)
            self.method = bilevel_zofo.Method(config)
        self.method.setup(self.problem)

    def listen(self) -> None:
        """From now on the journal is written to, as `CheckpointManager` does it."""

        def keep(step: int, support: Any) -> None:
            self.journal.append(Record(step, (), 0.0, Outcome.SUPPORT, support.pack()))

        assert self.problem.rule is not None
        self.problem.rule.records = self.journal
        if self.estimator.mask is not None:
            self.estimator.mask.listen = keep

    def run(self, first: int, last: int) -> None:
        for k in range(first, last):
            self.method.step(k)

    def saved(self) -> dict[str, Any]:
        """What a checkpoint holds, copied."""
        adapters = {} if self.adapters is None else {n: self.adapters.state(n) for n in ("p", "s")}
        return copy.deepcopy(
            {
                "position": self.journal.position,
                "adapters": adapters,
                "method": self.method.state_dict(),
                "streams": {n: s.state_dict() for n, s in self.streams.items()},
                "rule": self.rule.state_dict(),
                "theta": {n: t.detach() for n, t in self.theta.items()},
                "estimator": self.estimator.state_dict(),
            }
        )

    def resume(self, saved: Mapping[str, Any], snapshot: bool) -> None:
        """As `CheckpointManager._resume_theta`: from a snapshot of theta and the states, or from the journal alone."""
        saved = copy.deepcopy(saved)  # a run takes loaded tensors as its own
        if snapshot:
            for name, tensor in saved["theta"].items():
                self.theta[name].copy_(tensor)
            self.rule.load_state_dict(saved["rule"])
            self.estimator.load_state_dict(saved["estimator"])
            for record in self.journal.records():
                if record.outcome is Outcome.SUPPORT:
                    restore_support(self.theta, self.estimator.mask, record)
        else:
            replay(self.theta, self.estimator, self.rule, self.journal.records())
        if self.adapters is not None:
            for name, state in saved["adapters"].items():
                self.adapters.load(name, state)
        for name, position in saved["streams"].items():
            self.streams[name].load_state_dict(position)
        self.method.load_state_dict(saved["method"])
        self.listen()

    def end(self) -> tuple[Any, ...]:
        """All that must be equal."""
        adapters = {} if self.adapters is None else {n: self.adapters.state(n) for n in ("p", "s")}
        bits = {f"{n}/{key}": t.numpy().tobytes() for n, state in adapters.items() for key, t in state.items()}
        return self.theta.sha256(), bits, self.journal.path.read_bytes()


def check(case: Case, folder: Path, ways: Sequence[bool]) -> Play:
    """theta is what it was after each estimate, it moves, its journal replays, and a cut run ends as the whole one.

    ways: of taking up: True from a snapshot, False from the journal.
    """
    whole = Play(case, Journal.create(folder / "journal.bin", {}))
    start = whole.theta.sha256()
    whole.listen()
    whole.run(0, CUT)
    saved = whole.saved()
    whole.run(CUT, STEPS)
    planes = whole.rule.low or {}  # of `split`, which may have moved where no bf16 weight did yet
    outcomes = {record.outcome for record in whole.journal.records()} - {Outcome.SUPPORT}
    moved = whole.theta.sha256() != start or any(bool(plane.any()) for plane in planes.values())
    assert moved or (case.rule == "conservative" and outcomes == {Outcome.STAYED})  # no step was better than none
    assert whole.problem.refusals.total == 0
    assert all(any(c != 0 for c, _ in g.terms) for g in whole.watched.seen)

    again = Play(dataclasses.replace(case, method="mezo"), Journal.open(folder / "journal.bin"))  # needs no adapter
    assert replay(again.theta, again.estimator, again.rule, again.journal.records()) == STEPS
    assert again.theta.sha256() == whole.theta.sha256()
    for snapshot in ways:
        path = folder / f"cut-{snapshot}.bin"
        path.write_bytes((folder / "journal.bin").read_bytes())
        resumed = Play(case, Journal.open(path, saved["position"]))
        resumed.resume(saved, snapshot)
        resumed.run(CUT, STEPS)
        assert resumed.end() == whole.end()
    return whole


# --------------------------------------------------------------------------------------------------------------- covers


@dataclass
class Cover:
    """Cases in which every two values of any two factors meet, found greedily and always the same."""

    factors: Mapping[str, Sequence[Any]]
    allowed: Callable[[Mapping[str, Any]], bool]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def pairs(self, row: Mapping[str, Any]) -> Iterable[tuple[Any, ...]]:
        for one, two in itertools.combinations([n for n in self.factors if n in row], 2):
            yield one, row[one], two, row[two]

    def missing(self) -> set[tuple[Any, ...]]:
        """Pairs that some allowed row could have and none has."""
        wanted = set()
        for one, two in itertools.combinations(self.factors, 2):
            for a, b in itertools.product(self.factors[one], self.factors[two]):
                if self.allowed({one: a, two: b}):
                    wanted.add((one, a, two, b))
        return wanted - {pair for row in self.rows for pair in self.pairs(row)}

    def fill(self) -> list[dict[str, Any]]:
        """The largest two factors meet in a plain product; the others take what meets most that is new. Then what still
        has not met, as many pairs in a row as fit."""
        by_size = sorted(self.factors, key=lambda n: -len(self.factors[n]))
        for values in itertools.product(*(self.factors[n] for n in by_size[:2])):
            self._add(dict(zip(by_size, values)))
        while left := sorted(self.missing(), key=str):
            row: dict[str, Any] = {}
            for one, a, two, b in left:
                if row.get(one, a) == a and row.get(two, b) == b and self.allowed({**row, one: a, two: b}):
                    row |= {one: a, two: b}
            self._add(row)
        return self.rows

    def _add(self, row: dict[str, Any]) -> None:
        left = self.missing()
        for name in sorted(self.factors, key=lambda n: -len(self.factors[n])):
            options = [v for v in self.factors[name] if self.allowed({**row, name: v})]
            used = {i: sum(r[name] == v for r in self.rows) for i, v in enumerate(options)}
            best = max(used, key=lambda i: (len(left & set(self.pairs({**row, name: options[i]}))), -used[i]))
            row.setdefault(name, options[best])
        self.rows.append(row)
