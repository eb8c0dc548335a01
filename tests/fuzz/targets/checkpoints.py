"""A checkpoint's files, spoilt in their sense and sealed anew, so that no checksum tells: for `train --resume`."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.fuzz.case import Case
from tests.fuzz.damage import dumps, spoil_value
from tests.fuzz.targets.run_files import METHODS, spoil_file
from tests.fuzz.world import STEPS, World, copied

COUNT = 120
KINDS = {
    **METHODS,
    "adamw": ["--method", "mezo", "rule=adamw", "train.max_replay_seconds=0"],
    "svrg": ["--method", "mezo", "estimator=svrg", "train.max_replay_seconds=0"],
    "two_stage": ["--method", "two-stage", "method.inner_steps=1", "mask=magnitude"],
}
TENSORS: dict[str, Callable[[Tensor], Tensor]] = {
    "one row fewer": lambda tensor: tensor[:-1].clone() if tensor.dim() and len(tensor) > 1 else tensor.reshape(1, -1),
    "flat": lambda tensor: tensor.flatten().clone(),
    "another axis": lambda tensor: tensor.unsqueeze(0).clone(),
    "turned": lambda tensor: tensor.T.contiguous().clone() if tensor.dim() == 2 else tensor.reshape(-1, 1),
    "empty": lambda tensor: tensor.flatten()[:0].clone(),
    "fp64": lambda tensor: tensor.double(),
    "fp16": lambda tensor: tensor.half(),
    "integers": lambda tensor: tensor.to(torch.int64),
    "booleans": lambda tensor: tensor.bool(),
    "zeros": torch.zeros_like,
}


def run_of(world: World, kind: str) -> Path:
    return getattr(world, kind) if kind in METHODS else world.trained(f"run-{kind}", *KINDS[kind])


def make(world: World, folder: Path, rng: random.Random, number: int) -> Case:
    kind = list(KINDS)[number % len(KINDS)]
    run = copied(run_of(world, kind), folder)
    at = rng.choice(["checkpoint-2", "checkpoint-4"])
    file = rng.choice(
        [path for path in sorted((run / at).rglob("*")) if path.is_file() and path.name != "manifest.json"]
    )
    how = rng.choice(["sense"] * 5 + ["another step's", "another method's", "bytes"])
    if how == "sense":
        what = _sense(rng, file)
    elif how == "bytes":
        what = spoil_file(rng, file)
    else:
        other = run if how == "another step's" else run_of(world, rng.choice([name for name in KINDS if name != kind]))
        step = {"checkpoint-2": "checkpoint-4", "checkpoint-4": "checkpoint-2"}[at] if other == run else at
        what, name = how, file.relative_to(run / at)
        if (other / step / name).is_file():
            shutil.copy(other / step / name, file)
        else:
            file.unlink()
    if rng.random() < 0.9:
        seal(run / at)
    fixed = ["--model", str(world.model), "--task", str(world.rows), "--output-dir", str(run)]
    longer = [each for each in STEPS if each != "train.max_steps=4"] + ["train.max_steps=6"]
    args = ["train", *fixed, *KINDS[kind], *longer, "--resume", str(run / at)]
    names = (str(run), run.name, file.name, "train.resume")
    return Case(f"{kind}, {at}/{file.relative_to(run / at)}: {what}", args, names, folder / "out", changes=run)


def _sense(rng: random.Random, file: Path) -> str:
    """One thing in a file becomes another thing of its kind, or of none."""
    if file.suffix == ".json":
        what, tree = spoil_value(rng, json.loads(file.read_bytes()))
        file.write_text(dumps(tree), "utf-8", errors="surrogatepass")
        return what
    held = load_file(file)
    if not held or rng.random() < 0.2:
        held["extra"] = torch.zeros(3)
        save_file(held, file, metadata={"format": "pt"})
        return "a tensor more"
    name = rng.choice(sorted(held))
    what = rng.choice([*TENSORS, "left out", "renamed", "exchanged"])
    if what in TENSORS:
        held[name] = TENSORS[what](held[name])
    elif what == "exchanged":
        other = rng.choice(sorted(held))
        held[name], held[other] = held[other].clone(), held[name].clone()
    else:
        tensor = held.pop(name)
        if what == "renamed":
            held[name + "x"] = tensor
    save_file(held, file, metadata={"format": "pt"})
    return f"{name} {what}"


def seal(directory: Path) -> None:
    """The manifest of what is there now."""
    paths = [path for path in directory.rglob("*") if path.is_file() and path.name != "manifest.json"]
    sums = {path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    (directory / "manifest.json").write_text(json.dumps({"format": 1, "sha256": sums}), "utf-8")
