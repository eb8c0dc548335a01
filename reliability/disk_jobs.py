"""The commands that disk.py makes on a disk that fails: train, resume, export, eval, generate, data meta, meta-test."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.world import World
from tests.traces import traces

from reliability._forked import files_of, in_a_process
from reliability._undertakings import FEW, METHODS
from zofo.cli import main as cli

TRAINED = ("bilevel-zofo", "mezo-adamw", "bilevel-zofo-snapshots", "fo-ft")


@dataclass
class Job:
    """What is done in a folder. start: makes it ready; act: the command; again: the same on a disk that is well.

    whole: what must be there in the end."""

    name: str
    start: Callable[[Path], None]
    act: Callable[[Path], list[str]]
    again: Callable[[Path], list[str]]
    whole: Callable[[Path], object]
    operations: int = 0
    result: object = None


def latest(out: Path) -> list[str]:
    """How a person goes on."""
    return ["--resume", "latest"] if any(out.glob("checkpoint-*")) else ["--overwrite"] if out.exists() else []


def training(world: World, method: str, resumed: bool) -> Job:
    """A new run; or one that was ended early and goes on, and loses checkpoints to pruning."""
    name = method.removesuffix("-snapshots").removesuffix("-adamw").removesuffix("-svrg")
    fixed = ["train", "--model", str(world.model), "--task", str(world.rows), "--method", name, *METHODS[method], *FEW]
    fixed = [word for word in fixed if not word.startswith("train.max_steps=")]
    fixed += ["train.eval_steps=2", "train.save_steps=2", "task.train_examples=8"]

    def args(folder: Path, steps: int, more: list[str]) -> list[str]:
        return [*fixed, "--output-dir", str(folder / "run"), "--max-steps", str(steps), *more]

    def start(folder: Path) -> None:
        if resumed:
            quietly(args(folder, 4, []))

    def whole(folder: Path) -> object:
        held = traces(folder / "run")
        held["files"] = files_of(folder / "run")
        return held

    return Job(
        f"{'resume' if resumed else 'train'} {method}",
        start,
        lambda folder: args(folder, 6, latest(folder / "run")),
        lambda folder: args(folder, 6, latest(folder / "run")),
        whole,
    )


def bytes_below(folder: Path) -> object:
    """But for the times that a meta-test notes."""
    times = re.compile(rb'"[a-z_]*seconds[a-z_]*": [0-9.e-]+')
    return {name: times.sub(b"", (folder / name).read_bytes()) for name in files_of(folder)}


def once_more(name: str, args: Callable[[Path], list[str]], start: Callable[[Path], None], over: list[str]) -> Job:
    """A command that is just given again, with `over` where something is left of it."""

    def again(folder: Path) -> list[str]:
        return [*args(folder), *(over if (folder / "out").exists() and any((folder / "out").iterdir()) else [])]

    return Job(name, start, again, again, bytes_below)


def jobs(world: World) -> list[Job]:
    run, meta_run = world.run, world.meta_run
    nothing = lambda folder: None  # noqa: E731

    def export(form: str) -> Callable[[Path], list[str]]:
        return lambda folder: ["export", str(run), str(folder / "out"), form]

    def older(form: str) -> Callable[[Path], None]:
        def start(folder: Path) -> None:
            quietly(["export", str(world.mezo if form == "--merge" else run), str(folder / "out")])
            (folder / "out" / "notes.txt").write_text("mine")

        return start

    meta = ["meta-test", str(meta_run), "--seeds", "100", "--rates", "1e-3", "--rate-runs", "1", "--steps", "1"]
    rows = ["data", "meta", str(world.rows)]
    return [
        *(once_more(f"export {form}", export(form), nothing, ["--overwrite"]) for form in ("--merge", "--separate")),
        once_more("export over another", export("--separate"), older("--separate"), ["--overwrite"]),
        once_more("export over one of a run", export("--merge"), older("--merge"), ["--overwrite"]),
        once_more("eval", lambda f: ["eval", str(run), "--limit", "4", "--output", str(f / "out")], nothing, []),
        once_more("generate", lambda f: generating(run, f), nothing, []),
        once_more("convert", lambda f: [*rows, "--output-dir", str(f / "out")], nothing, ["--overwrite"]),
        once_more("meta-test", lambda f: [*meta, "--test-examples", "2", "--output", str(f / "out")], nothing, []),
        *(training(world, method, resumed) for resumed in (False, True) for method in TRAINED),
    ]


def generating(run: Path, folder: Path) -> list[str]:
    return [
        "generate",
        str(run),
        "--prompt",
        "warm",
        "--max-new-tokens",
        "3",
        "--output",
        str(folder / "out" / "a.jsonl"),
    ]


def quietly(args: list[str]) -> None:
    code, text = in_a_process(lambda: cli.run(args))
    if code:
        raise SystemExit(f"{' '.join(args)}: exit {code}\n{text}")
