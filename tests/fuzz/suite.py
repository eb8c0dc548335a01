"""All targets, their cases by number, and reports of them."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from tests.fuzz.case import Case, Verdict, judge
from tests.fuzz.world import World

TARGETS = (
    "configs",
    "overrides",
    "data_files",
    "task_files",
    "settings",
    "models",
    "adapters",
    "run_files",
    "checkpoints",
    "journals",
    "templates",
    "metatest",
)


def count(target: str) -> int:
    """How many cases of a target the suite takes."""
    return import_module(f"tests.fuzz.targets.{target}").COUNT


def run_case(world: World, target: str, seed: int, number: int) -> tuple[Case, Verdict]:
    """Make and judge a case in a folder of its own, which is gone afterwards. The same seed makes the same case."""
    folder = world.root / "cases" / f"{target}-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        rng = random.Random(f"{seed}/{target}/{number}")
        case = import_module(f"tests.fuzz.targets.{target}").make(world, folder, rng, number)
        return case, judge(case, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_target(
    root: Path, target: str, seed: int, numbers: Iterator[int] | range
) -> Iterator[tuple[int, Case, Verdict]]:
    world = World(root)
    for number in numbers:
        yield (number, *run_case(world, target, seed, number))


def table(counts: dict[str, Counter[str]]) -> str:
    """Lines of a table: target, cases, and how many of each outcome."""
    lines = [f"{'target':<12} {'cases':>6} {'clear':>6} {'accepted':>9} {'fault':>6}"]
    total: Counter[str] = sum(counts.values(), Counter())
    for name, by in [*counts.items(), ("all", total)]:
        lines.append(f"{name:<12} {by.total():>6} {by['clear']:>6} {by['accepted']:>9} {by['fault']:>6}")
    return "\n".join(lines)
