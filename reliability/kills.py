"""Every verb that writes killed at any file operation, in the middle of a write, or of its computing: is anything lost?

    nice python -m reliability.kills --number 300 --out results/kills.json      (--go-on: where it was cut)

Each undertaking (`_undertakings.py`) is done once and left alone. Then, again and again, it is done in a process of its
own that sends itself SIGKILL: two thirds of the kills at a file operation (open to write, write, fsync, rename, unlink,
mkdir, rmdir, truncate, link), the others at a forward pass or at a record that is replayed. It is simply started again
(a run with `--resume latest`, or anew where it has no checkpoint), and half of these starts are killed too. In the end
its folder must have the bytes of the one that was left alone, and no file more or less. After each kill:

- every checkpoint whose rename was done, and that was not pruned, is there and whole; the next start takes the newest
- the journal has every byte that was synced, and they are those of the run that was left alone
- a run that is only read is as it was, and what is written in one piece (an export) is whole, as it was, or not there
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.world import World

from reliability._alike import contents, torn, unlike
from reliability._dying import COMPUTES, Death, Ended, command
from reliability._undertakings import Undertaking, undertakings
from zofo.config.json_text import dumps
from zofo.errors import InputError
from zofo.models.sealed import verify_tree

STARTS = 14  # of one chain at most


@dataclass
class Tally:
    """kills: by the kind of the point; where: by the undertaking."""

    kills: dict[str, int] = field(default_factory=dict)
    where: dict[str, int] = field(default_factory=dict)
    chains: int = 0
    starts: int = 0
    torn: int = 0  # kills in the middle of a write
    resumed: int = 0  # starts that went on from a checkpoint
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Undisturbed:
    """What an undertaking comes to when it is left alone: its points, its folder, and its folder before it."""

    points: list[str]
    after: dict[str, Any]
    before: dict[str, Any]
    journal: bytes

    def deaths(self, aim: str) -> dict[str, int]:
        """{the kind of a point: how many there are} of those that the pattern matches."""
        import re

        return dict(Counter(point.partition(" ")[0] for point in self.points if re.search(aim, point)))


class Chain:
    """One undertaking, killed at least once, started again until it is through."""

    def __init__(self, what: Undertaking, whole: Undisturbed, case: Path, rng: random.Random, tally: Tally) -> None:
        self.what, self.whole, self.case, self.rng, self.tally = what, whole, case, rng, tally
        self.committed: set[int] = set()
        self.new_line = False  # whether a run that went back has had a checkpoint of its own since
        self.diary = case.with_suffix(".diary")

    def fault(self, text: str) -> None:
        self.tally.faults.append(f"{self.what.name}: {text}")

    def run(self) -> None:
        fresh(self.case, self.what)
        self.committed = _checkpoints(self.case / "out") if self.what.run else set()
        kills = 0
        for start in range(STARTS):
            death = self._death(start) if not kills or self.rng.random() < 0.5 else None
            if start > 8:
                death = None
            self.tally.starts += 1
            args = self.what.args(self.case, start)
            expected = max(self.committed, default=None)
            ended = command(args, self.case, self.diary, death or Death("$^", 1))
            self._follow(ended, args, expected)
            if ended.code == -signal.SIGKILL:
                kills += 1
                self._count(ended)
                self._left(ended)
                continue
            if ended.code:
                self.fault(f"start {start + 1}, {' '.join(args)[-200:]}: exit {ended.code}: {ended.shown[-600:]}")
                return
            if kills:
                break
        self.tally.chains += 1
        for line in unlike(contents(self.case), self.whole.after):
            self.fault(f"in the end {line}")

    def _death(self, start: int) -> Death:
        """Two thirds at files; of these all kinds of operation alike often, and half of them where it is aimed at."""
        rng = self.rng
        aim = rng.choice([*self.what.aims, "."]) if self.what.aims else "."
        kinds = self.whole.deaths(aim)
        at_files = {kind: n for kind, n in kinds.items() if kind not in COMPUTES}
        computing = {kind: n for kind, n in self.whole.deaths(".").items() if kind in COMPUTES}
        if not at_files or (computing and rng.random() > 2 / 3):
            kinds = {kind: n for kind, n in kinds.items() if kind in COMPUTES} or computing
            kind = rng.choice(sorted(kinds))
            return Death(f"^{kind}$", rng.randint(1, kinds[kind]))
        kind = rng.choice(sorted(at_files))
        return Death(f"^(?=.*(?:{aim})){kind} ", rng.randint(1, at_files[kind]), rng.choice([0.0, 0.01, 0.5, 0.99]))

    def _count(self, ended: Ended) -> None:
        kind = ended.of("died")[0].partition(" ")[0] if ended.of("died") else "elsewhere"
        self.tally.kills[kind] = self.tally.kills.get(kind, 0) + 1
        self.tally.where[self.what.name] = self.tally.where.get(self.what.name, 0) + 1
        self.tally.torn += kind == "write"

    def _follow(self, ended: Ended, args: list[str], expected: int | None) -> None:
        """Which checkpoints there must be after what was done, and whether the newest was gone on from."""
        if not self.what.run:
            return
        for name in ended.of("resumed"):
            self.tally.resumed += 1
            if args[-1] == "latest" and name != f"checkpoint-{expected}":
                self.fault(f"went on from {name}, though checkpoint-{expected} had been written")
        if "--overwrite" in args:
            self.committed = set()
        for source, target in ended.of("renamed"):
            for path, there in ((source, False), (target, True)):
                kind, _, number = Path(path).name.partition("-")
                if kind == "checkpoint" and Path(path).parent.name == "out" and number.isdigit():
                    (self.committed.add if there else self.committed.discard)(int(number))
                    self.new_line |= there and Path(source).name.startswith(".")

    def _left(self, ended: Ended) -> None:
        """After a kill."""
        at = f"killed at {(ended.of('died') or ['?'])[0]}"
        out = self.case / "out"
        for number in sorted(self.committed) if self.what.run else ():
            try:
                verify_tree(out / f"checkpoint-{number}", "")
            except InputError as error:
                self.fault(f"{at}: checkpoint-{number}, which had been written, is lost: {error}")
        synced = [size for name, size in ended.of("synced") if name == "out/journal.bin"]
        if synced:
            journal = (out / "journal.bin").read_bytes()
            if len(journal) < synced[-1] or not self.whole.journal.startswith(journal[: synced[-1]]):
                self.fault(f"{at}: the journal's first {synced[-1]} bytes, which were on the disk, are not there")
        if self.what.name.startswith("back"):
            self._nothing_newer_lost(at)
        for read in self.what.reads:
            if _stamps(read) != self.stamps[read]:
                self.fault(f"{at}: {read.name}, which was only read, is changed")
        for piece in self.what.one_piece:
            states = contents(self.case), self.whole.before, self.whole.after
            if left := torn(piece, *states, export="export" in self.what.name):
                self.fault(f"{at}: {left}")

    def _nothing_newer_lost(self, at: str) -> None:
        """While a run goes back, its newer checkpoints and records are in their places, or kept, or made anew."""
        if self.new_line:  # from then on what it replaces may go
            return
        out = self.case / "out"
        for number in (8, 12):
            places = [out / f"checkpoint-{number}", out / "superseded" / f"checkpoint-{number}"]
            if not any(path.is_dir() for path in places):
                self.fault(f"{at}: checkpoint-{number} is neither in its place nor kept")
        journals = [path for path in (out / "journal.bin", out / "superseded" / "journal.bin") if path.exists()]
        if self.whole.journal and all(path.read_bytes() != self.whole.journal for path in journals):
            self.fault(f"{at}: the records behind step 4 are neither in their place nor kept")

    stamps: dict[Path, list[tuple[str, int, int]]] = {}  # noqa: RUF012 (of all chains)


def fresh(case: Path, what: Undertaking) -> None:
    shutil.rmtree(case, ignore_errors=True)
    case.mkdir()
    what.before(case)


def left_alone(what: Undertaking, case: Path) -> Undisturbed:
    fresh(case, what)
    before = contents(case)
    for path in what.reads:
        Chain.stamps[path] = _stamps(path)
    ended = command(what.args(case, 0), case, case.with_suffix(".diary"))
    if ended.code:
        raise SystemExit(f"{what.name}: exit {ended.code}\n{ended.shown}")
    for path in what.reads:
        if _stamps(path) != Chain.stamps[path]:
            raise SystemExit(f"{what.name}: changes {path}")
    journal = case / "out" / "journal.bin"
    return Undisturbed(ended.of("points")[0], contents(case), before, journal.read_bytes() if journal.exists() else b"")


def _checkpoints(run: Path) -> set[int]:
    return {int(path.name.partition("-")[2]) for path in run.glob("checkpoint-*")}


def _stamps(path: Path) -> list[tuple[str, int, int]]:
    """(name, size, time of change) of a file, or of all in a folder."""
    paths = [path, *path.rglob("*")] if path.is_dir() else [path]
    return sorted((str(each), each.stat().st_size, each.stat().st_mtime_ns) for each in paths)


def _taken_up(path: Path | None, seed: int) -> tuple[Tally, int]:
    """(the tally so far, the number of the next chain) of an earlier call that was cut."""
    if path is None or not path.exists():
        return Tally(), 0
    past = json.loads(path.read_text("utf-8"))
    if past.get("seed") != seed or "next" not in past:
        return Tally(), 0
    return Tally(**{key: past[key] for key in asdict(Tally())}), past["next"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m reliability.kills", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--number", type=int, default=300, help="kills in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=120, help="stop after so long")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures, written after each chain")
    parser.add_argument("--go-on", action="store_true", help="from where the figures of --out are")
    parser.add_argument("--only", nargs="*", help="undertakings by name")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)  # forks share no pool of threads
    tally, number = _taken_up(args.out, args.seed) if args.go_on else (Tally(), 0)
    begun = time.monotonic() - tally.seconds
    with tempfile.TemporaryDirectory(prefix="zofo-kills-") as folder:
        (root := Path(folder) / "world").mkdir()
        (finished := Path(folder) / "finished").mkdir()
        known = [u for u in undertakings(World(root), finished) if not args.only or u.name in args.only]
        case, wholes = Path(folder) / "case", {}
        while sum(tally.kills.values()) < args.number and time.monotonic() - begun < 60 * args.minutes:
            what, before = known[number % len(known)], len(tally.faults)
            if what.name not in wholes:
                wholes[what.name] = left_alone(what, case)
                print(f"{what.name}: {wholes[what.name].deaths('.')}", flush=True)
            Chain(what, wholes[what.name], case, random.Random(f"{args.seed}/{number}"), tally).run()
            number, tally.seconds = number + 1, time.monotonic() - begun
            for fault in tally.faults[before:]:
                print(f"fault, chain {number - 1}: {fault}"[:900], flush=True)
            _write(args.out, tally, args.seed, number)
    print(dumps({**asdict(tally), "number": sum(tally.kills.values())}, indent=1))
    raise SystemExit(1 if tally.faults else 0)


def _write(path: Path | None, tally: Tally, seed: int, number: int) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    figures = {**asdict(tally), "number": sum(tally.kills.values()), "seed": seed, "next": number}
    draft = path.with_suffix(".tmp")
    draft.write_text(dumps(figures, indent=1) + "\n", "utf-8")
    os.replace(draft, path)


if __name__ == "__main__":
    main()
