"""The files of a finished run, for `zofo eval` and `zofo export`; and of its checkpoints, for `train --resume`."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests.fuzz.case import Case
from tests.fuzz.damage import LFS, dumps, spoil_bytes, spoil_value
from tests.fuzz.world import STEPS, World, copied

COUNT = 110
METHODS = {
    "run": ["--method", "bilevel-zofo", "method.inner_steps=1", "adapter.r=2"],
    "mezo": ["--method", "mezo"],
    "full": ["--method", "fo-ft"],
}


def make(world: World, folder: Path, rng: random.Random, number: int) -> Case:
    kind = ("run", "mezo", "full")[number % 3]
    run = copied(getattr(world, kind), folder)
    resumed = number % 2 == 1
    files = [path for path in sorted(run.rglob("*")) if path.is_file()]
    files = [path for path in files if ("checkpoint-" in str(path) if resumed else "checkpoint-" not in str(path))]
    files = [path for path in files if path.name != "README.md" and "eval" not in path.parts]
    target = rng.choice(files)
    what = spoil_file(rng, target)
    out = folder / "out"
    names = (str(run), run.name, target.name, "train.resume")
    if resumed:
        fixed = ["--model", str(world.model), "--task", str(world.rows), "--output-dir", str(run)]
        args = ["train", *fixed, *METHODS[kind], *STEPS, "--resume", "latest"]
        # Accepted, it goes on in the run's own directory; refused, it must leave that as it was
        return Case(f"resume {kind}: {target.relative_to(run)} {what}", args, names, out, "either", changes=run)
    args = rng.choice([["eval", str(run)], ["export", str(run), str(out)], ["eval", str(run), "--adapter", "theta"]])
    return Case(f"{args[0]} {kind}: {target.relative_to(run)} {what}", args, names, out)


def spoil_file(rng: random.Random, path: Path) -> str:
    kind = rng.choice(["bytes"] * 4 + ["gone", "a directory", "a git-lfs pointer", "value", "value", "value"])
    content = path.read_bytes()
    if kind == "value" and path.suffix == ".json":
        kind, tree = spoil_value(rng, json.loads(content))
        path.write_text(dumps(tree))
    elif kind in ("bytes", "value"):
        kind, content = spoil_bytes(rng, content)
        path.write_bytes(content)
    elif kind == "a git-lfs pointer":
        path.write_bytes(LFS)
    else:
        path.unlink()
        if kind == "a directory":
            path.mkdir()
    return kind
