"""A setting's .yaml file, its directories, and the rows of its tasks."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tests.fuzz.case import Case
from tests.fuzz.damage import dumps, spoil_bytes, spoil_value
from tests.fuzz.targets.configs import dump
from tests.fuzz.world import World, copied
from tests.setting_files import read_rows, task_args
from tests.small_setting import SETTING, train_args

COUNT = 60


def make(world: World, folder: Path, rng: random.Random, number: int) -> Case:
    setting = copied(world.setting.parent, folder) / world.setting.name
    out, data = folder / "out", setting.parent / "data"
    files = sorted(data.rglob("*.jsonl"))
    file = rng.choice(files)
    kind = number % 4
    names: tuple[Any, ...] = (setting.name, "task.", str(data), *SETTING["train"], *SETTING["target"])
    if kind == 0:
        what, changed = spoil_value(rng, SETTING)
        setting.write_text(dump(changed), encoding="utf-8", errors="surrogatepass")
    elif kind == 1:
        what, content = spoil_bytes(rng, setting.read_bytes())
        setting.write_bytes(content)
    elif kind == 2:
        rows = read_rows(file)
        index = rng.randrange(len(rows))
        what, rows[index] = spoil_value(rng, rows[index])
        file.write_text("".join(dumps(row) + "\n" for row in rows), encoding="utf-8", errors="surrogatepass")
        what = f"{file.name}: {what}"
    else:
        what = f"{file.name}: {_spoil_file(rng, file)}"
    method = rng.choice(["zero-shot", "metaicl"])
    args = train_args(world.model, task_args(setting), out, method, "train.max_steps=0", "task.train_examples=9")
    return Case(f"setting: {what}", args, names, out)


def _spoil_file(rng: random.Random, file: Path) -> str:
    kind = rng.choice(["bytes"] * 5 + ["gone", "a directory", "of another name"])
    if kind == "bytes":
        what, content = spoil_bytes(rng, file.read_bytes())
        file.write_bytes(content)
        return what
    if kind == "of another name":
        file.rename(file.with_name(rng.choice(["train.jsonl", "x_16_13_test.jsonl", "rows.jsonl", "train.csv"])))
        return kind
    file.unlink()
    if kind == "a directory":
        file.mkdir()
    return kind
