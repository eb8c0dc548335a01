"""The power cut at any point of a run: what a disk then holds is what fsync brought there. Is anything lost?

    nice python -m reliability.power --minutes 20 --out results/power.json

Each undertaking (`_undertakings.py`) is done once, and what the disk holds for certain is followed: the bytes of a file
at its last fsync, the entries of a folder at its last fsync. Before every fsync, and in the end, the power is cut on

- a disk that holds that and nothing more: names that were made, moved or deleted since are as they were
- a disk that has kept every name (journals of file systems often do), and no byte more: new files are empty

What is left is taken up as a user would (a run with `--resume latest`, or anew where it has no checkpoint). In the end
there must be what there is when it is left alone; every checkpoint that had been written must have been there, and what
is written in one piece must have been whole, as it was, or not there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.world import World

from reliability._alike import contents, torn, unlike
from reliability._dying import Ended, command, in_a_process
from reliability._undertakings import Undertaking, undertakings
from reliability.kills import fresh
from zofo.config.json_text import dumps

Tree = dict[str, str | None]  # {path: digest of its bytes, or None for a folder}


class Disk:
    """What is on the disk for certain, by inode: folders' entries and files' bytes (as digests; kept in `store`)."""

    def __init__(self, root: Path, store: Path) -> None:
        self.root, self.store = root, store
        self.bytes: dict[int, str] = {}
        self.entries: dict[int, dict[str, int]] = {}
        self._open: dict[int, int] = {}  # so that no number is given to another file
        self.empty = self._keep(b"")
        self.everything()

    def everything(self) -> None:
        """All that is there now is on the disk."""
        for path in (self.root, *self.root.rglob("*")):
            self.synced(path)

    def synced(self, path: Path) -> None:
        number = self._number(path)
        if path.is_dir():
            self.entries[number] = {entry.name: self._number(path / entry.name) for entry in os.scandir(path)}
        else:
            self.bytes[number] = self._keep(path.read_bytes())

    def _number(self, path: Path) -> int:
        number = path.lstat().st_ino
        if number not in self._open:
            self._open[number] = os.open(path, os.O_PATH | os.O_NOFOLLOW)
        return number

    def _keep(self, raw: bytes) -> str:
        digest = hashlib.sha256(raw).hexdigest()
        if not (path := self.store / digest).exists():
            path.write_bytes(raw)
        return digest

    def certain(self) -> Tree:
        return dict(self._certain(self._number(self.root), ""))

    def _certain(self, folder: int, before: str) -> Iterator[tuple[str, str | None]]:
        for name, number in self.entries.get(folder, {}).items():
            if stat.S_ISDIR(os.fstat(self._open[number]).st_mode):
                yield before + name, None
                yield from self._certain(number, f"{before}{name}/")
            else:
                yield before + name, self.bytes.get(number, self.empty)

    def named(self) -> Tree:
        """With the names of now."""
        paths = sorted(self.root.rglob("*"))
        return {
            str(path.relative_to(self.root)): None if path.is_dir() else self.bytes.get(self._number(path), self.empty)
            for path in paths
        }


@dataclass(frozen=True)
class Cut:
    """at: what was about to be synced. written: the newest checkpoint that the run had finished writing."""

    at: str
    disk: str
    tree: Tree
    written: int | None


def recorded(what: Undertaking, case: Path, store: Path) -> list[Cut]:
    """The different disks that a cut of the power leaves, in the order in which they come about."""
    file = store / "cuts.json"
    fresh(case, what)

    def act() -> int:
        from zofo.cli import main as cli
        from zofo.train.run_dir import RunDir

        disk, cuts, real, write_tree = Disk(case, store), [], os.fsync, RunDir.write_tree
        written: list[int | None] = [None]

        def cut(at: str) -> None:
            for name, tree in (("certain", disk.certain()), ("named", disk.named())):
                cuts.append([at, name, tree, written[0]])

        def fsync(handle: int) -> None:
            path = Path(os.readlink(f"/proc/self/fd/{handle}"))
            inside = path.is_relative_to(case)
            if inside:
                cut(str(path.relative_to(case)))
            real(handle)
            if inside:
                disk.synced(path)

        def tree_written(run: RunDir, directory: Path, write: Any) -> None:
            write_tree(run, directory, write)
            kind, _, number = directory.name.partition("-")
            written[0] = int(number) if kind == "checkpoint" else written[0]

        os.fsync, RunDir.write_tree = fsync, tree_written  # type: ignore[method-assign,assignment]
        code = cli.run(what.args(case, 0))
        cut("the end")
        file.write_text(dumps(cuts))
        return code

    ended = in_a_process(act, case.with_suffix(".diary"))
    if ended.code:
        raise SystemExit(f"{what.name}: exit {ended.code}\n{ended.shown}")
    different = {dumps(cut[1:]): Cut(*cut) for cut in json.loads(file.read_text())}
    return list(different.values())


@dataclass
class Tally:
    """cuts: by the undertaking. resumed: starts that went on from a checkpoint."""

    cuts: dict[str, int] = field(default_factory=dict)
    points: dict[str, int] = field(default_factory=dict)
    resumed: int = 0
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


def lay(tree: Tree, store: Path, case: Path) -> None:
    shutil.rmtree(case, ignore_errors=True)
    case.mkdir()
    for name, digest in tree.items():
        if digest is None:
            (case / name).mkdir(parents=True, exist_ok=True)
    for name, digest in tree.items():
        if digest is not None:
            shutil.copyfile(store / digest, case / name)


def taken_up(
    what: Undertaking, cut: Cut, case: Path, store: Path, alone: dict[str, dict[str, Any]], tally: Tally
) -> list[str]:
    """Faults. alone: the folder before and after the undertaking, when no power is cut."""
    lay(cut.tree, store, case)
    states = contents(case), alone["before"], alone["after"]
    torn_pieces = (torn(piece, *states, export="export" in what.name) for piece in what.one_piece)
    faults = [fault for fault in torn_pieces if fault]
    if not what.run and not unlike(contents(case), alone["after"]):  # all is there: nobody starts it again
        return faults
    ended = command(what.args(case, 1), case, case.with_suffix(".diary"))
    tally.resumed += len(ended.of("resumed"))
    if ended.code:
        return [*faults, f"exit {ended.code}: {ended.shown[-500:]}"]
    if what.run and cut.disk == "certain":
        faults += _not_gone_on_from(cut, ended)
    return faults + [f"in the end {line}" for line in unlike(contents(case), alone["after"])]


def _not_gone_on_from(cut: Cut, ended: Ended) -> Iterator[str]:
    numbers = [int(name.partition("-")[2]) for name in ended.of("resumed")]
    if cut.written is not None and max(numbers, default=-1) < cut.written:
        yield f"checkpoint-{cut.written} had been written, and the start went on from {numbers or 'none'}"


def tried(what: Undertaking, folder: Path, share: float, until: float, rng: random.Random, tally: Tally) -> None:
    case, store = folder / "case", Path(tempfile.mkdtemp(dir=folder))
    fresh(case, what)
    alone = {"before": contents(case)}
    cuts = recorded(what, case, store)
    alone["after"] = contents(case)
    tally.points[what.name] = len(cuts)
    for cut in cuts:
        if rng.random() > share or time.monotonic() > until:
            continue
        tally.cuts[what.name] = tally.cuts.get(what.name, 0) + 1
        for fault in taken_up(what, cut, case, store, alone, tally):
            tally.faults.append(f"{what.name}, before the fsync of {cut.at}, {cut.disk}: {fault}")
            print(f"fault: {tally.faults[-1]}"[:900], flush=True)
    shutil.rmtree(store)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m reliability.power", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=30, help="stop after so long")
    parser.add_argument("--share", type=float, default=1.0, help="of the cuts of each undertaking, drawn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="undertakings by name")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)  # forks share no pool of threads
    tally, begun = Tally(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="zofo-power-") as folder:
        (root := Path(folder) / "world").mkdir()
        (finished := Path(folder) / "finished").mkdir()
        for what in undertakings(World(root), finished):
            if args.only and what.name not in args.only:
                continue
            rng, until = random.Random(f"{args.seed}/{what.name}"), begun + 60 * args.minutes
            tried(what, Path(folder), args.share, until, rng, tally)
            tally.seconds = time.monotonic() - begun
            print(f"{what.name}: {tally.cuts.get(what.name, 0)} of {tally.points[what.name]} cuts", flush=True)
            if args.out:
                args.out.parent.mkdir(parents=True, exist_ok=True)
                args.out.write_text(dumps({**asdict(tally), "share": args.share, "seed": args.seed}, indent=1) + "\n")
    print(dumps(asdict(tally), indent=1))
    raise SystemExit(1 if tally.faults else 0)


if __name__ == "__main__":
    main()
