"""The files that a meta-test wrote, for one that goes on with them."""

from __future__ import annotations

import random
from pathlib import Path

from tests.fuzz.case import Case
from tests.fuzz.targets.run_files import spoil_file
from tests.fuzz.world import METATEST, World, copied

COUNT = 30


def make(world: World, folder: Path, rng: random.Random, number: int) -> Case:
    done = copied(world.meta_test, folder)
    target = rng.choice([path for path in sorted(done.rglob("*.json")) if path.name != "results.json"])
    what = spoil_file(rng, target)
    args = ["meta-test", str(world.meta_run), "--output", str(done), *METATEST]
    names = (str(done), target.name)
    return Case(f"meta-test: {target.relative_to(done)} {what}", args, names, folder / "out", changes=done)
