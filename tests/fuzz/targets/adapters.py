"""An adapter's directory, for `zofo eval`: PEFT's lora, prompt and prefix, and zofo's dept."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.fuzz.case import Case, Expected
from tests.fuzz.damage import LFS, dumps, spoil_bytes, spoil_value
from tests.fuzz.targets.models import added_tokens
from tests.fuzz.world import World, copied

COUNT = 60
KINDS = ("lora", "prompt", "prefix", "dept", "ia3")
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def make(world: World, folder: Path, rng: random.Random, number: int) -> Case:
    kind = KINDS[number % len(KINDS)]
    path = copied(world.adapter(kind), folder)
    spoilt = number // len(KINDS) % 4
    expect: Expected = "either"
    if spoilt == 0:
        what = _weights(world, rng, path)
    elif spoilt == 1:
        name = rng.choice([CONFIG, WEIGHTS])
        content = {"a git-lfs pointer": LFS, "empty": b"", "gone": None, "a directory": None}
        what, written = rng.choice(list(content.items()))
        (path / name).unlink()
        if what == "a directory":
            (path / name).mkdir()
        elif written is not None:
            (path / name).write_bytes(written)
        what, expect = f"{name} {what}", "refused" if name == WEIGHTS else "either"
    elif spoilt == 2:
        name = rng.choice([CONFIG, WEIGHTS])
        what, written = spoil_bytes(rng, (path / name).read_bytes())
        (path / name).write_bytes(written)
        what = f"{name} {what}"
    else:
        what, tree = spoil_value(rng, json.loads((path / CONFIG).read_text()))
        (path / CONFIG).write_text(dumps(tree))
    args = ["eval", str(path), "--task", str(world.rows)]
    return Case(f"adapter {kind}: {what}", args, (str(path), path.name), folder / "out", expect)


def _weights(world: World, rng: random.Random, path: Path) -> str:
    held = load_file(path / WEIGHTS)
    key = rng.choice(list(held))
    kind = rng.choice(["missing", "more", "shape", "dtype", "nan", "added words"])
    if kind == "missing":
        del held[key]
    elif kind == "more":
        held["more"] = held[key].clone()
    elif kind == "shape":
        held[key] = held[key][..., :1].contiguous()
    elif kind == "dtype":
        held[key] = held[key].int()
    elif kind == "nan":
        held[key].fill_(float("nan"))
    else:
        for file in world.model.glob("tokenizer*"):
            shutil.copy(file, path)
        added_tokens("film")(path)
    save_file(held, path / WEIGHTS, metadata={"format": "pt"})
    return f"{key} {kind}"
