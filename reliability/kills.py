"""Runs killed at any file operation, or in the middle of any evaluation of F, and taken up again: is anything lost?

    python -m reliability.kills --number 300 --out results/kills.json

A run of each method that trains is made once and left alone. Then, again and again, the same run is started in a
process of its own, which sends itself SIGKILL before its n-th file operation inside the directory (two thirds of the
kills: open to write, fsync, rename, unlink, mkdir, rmdir, truncate, link) or in its n-th evaluation of F, n drawn.
What is left is taken up with `--resume latest`, or begun again where there is no checkpoint; half of these starts are
killed too. In the end the run must have the bytes of the one that was left alone, and no file more or less.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.world import World
from tests.traces import traces

from zofo.cli import main as cli
from zofo.config.json_text import dumps

METHODS: dict[str, list[str]] = {
    "bilevel-zofo": ["method.inner_steps=1"],
    "bilevel-zofo-snapshots": ["method.inner_steps=1", "train.max_replay_seconds=0"],
    "bilevel-ablations": ["method.inner_steps=1", "method.p_start=s"],
    "bilevel-fo": ["method.inner_steps=1"],
    "two-stage": [],
    "mezo": [],
    "mezo-adamw": ["rule=adamw"],
    "mezo-svrg": ["estimator=svrg"],
    "sparse-mezo": [],
    "fo-ft": [],
    "fo-peft": [],
}
FEW = [
    *("train.batch_size=4", "train.max_steps=12", "train.eval_steps=4", "train.save_steps=4", "train.threads=1"),
    *("train.save_total_limit=2", "task.test_examples=4", "task.dev_examples=4", "task.train_examples=12"),
]
EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")


@dataclass
class Tally:
    kills: dict[str, int] = field(default_factory=dict)
    chains: int = 0
    starts: int = 0
    faults: list[str] = field(default_factory=list)

    def count(self, what: str) -> None:
        self.kills[what] = self.kills.get(what, 0) + 1


def in_a_process(act: Callable[[], int], seconds: float = 300) -> tuple[int, str]:
    """(exit code, or minus the signal's number; what it wrote) of `act` in a fork of this process."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        shown, code = io.StringIO(), 99
        try:
            with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
                signal.alarm(int(seconds))
                code = act()
        except BaseException as error:  # told to the parent
            shown.write(repr(error))
        os.write(write, shown.getvalue()[-4000:].encode())
        os._exit(code)
    os.close(write)
    text = b""
    while chunk := os.read(read, 65536):
        text += chunk
    os.close(read)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text.decode("utf-8", "replace")


def watch(root: Path, seen: Callable[[str], None]) -> None:
    """Calls seen(operation) before each operation on a file below root."""
    inside = str(root)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[0], str) and args[0].startswith(inside):
            if args[2] & (os.O_WRONLY | os.O_RDWR):
                seen("open")
        elif event in EVENTS and any(
            isinstance(a, str | os.PathLike) and os.fspath(a).startswith(inside) for a in args
        ):
            seen(event.removeprefix("os."))

    sys.addaudithook(hook)
    real = os.fsync

    def fsync(handle: int) -> None:
        seen("fsync")
        real(handle)

    os.fsync = fsync  # no event is raised for it


def train(world: World, method: str, out: Path, more: list[str], operation: int = 0, evaluation: int = 0) -> int:
    """The run, which kills itself before its file operation or in its evaluation of this number; 0: it does not."""
    counts = {"operation": 0, "evaluation": 0}

    def seen(what: str) -> None:
        counts["operation"] += 1
        if counts["operation"] == operation:
            (out.parent / f"{out.name}.killed").write_text(what)
            os.kill(os.getpid(), signal.SIGKILL)

    watch(out, seen)
    if evaluation:
        from zofo.objectives._loss import Loss

        real = Loss._sums

        def sums(*args: Any, **kwargs: Any) -> Any:
            counts["evaluation"] += 1
            if counts["evaluation"] == evaluation:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        Loss._sums = sums  # type: ignore[method-assign]
    name = method.removesuffix("-snapshots").removesuffix("-adamw").removesuffix("-svrg")
    fixed = ["--model", str(world.model), "--task", str(world.rows), "--output-dir", str(out), "--method", name]
    return cli.run(["train", *fixed, *METHODS[method], *FEW, *more])


def files_of(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


def counts_of(world: World, method: str, out: Path) -> tuple[int, int]:
    """(file operations, evaluations of F) of a run that is left alone."""

    def act() -> int:
        from zofo.objectives._loss import Loss

        operations, evaluations, real = [0], [0], Loss._sums

        def sums(*args: Any, **kwargs: Any) -> Any:
            evaluations[0] += 1
            return real(*args, **kwargs)

        Loss._sums = sums  # type: ignore[method-assign]
        watch(out, lambda _: operations.__setitem__(0, operations[0] + 1))
        code = train(world, method, out, [])
        (out.parent / f"{out.name}.counts").write_text(dumps([operations[0], evaluations[0]]))
        return code

    code, text = in_a_process(act)
    if code:
        raise SystemExit(f"{method}: exit {code}\n{text}")
    operations, evaluations = json.loads((out.parent / f"{out.name}.counts").read_text())
    return operations, evaluations


def chain(
    world: World, method: str, whole: Path, sizes: tuple[int, int], out: Path, rng: random.Random, tally: Tally
) -> None:
    """One run, killed at least once, taken up until it is through; then compared with the whole one."""
    place, kills = f"{method} {out.name}", 0
    for start in range(12):
        more: list[str] = []
        if start:
            more = ["--resume", "latest"] if any(out.glob("checkpoint-*")) else ["--overwrite"]
        operation = evaluation = 0
        if not kills or rng.random() < 0.5:
            if rng.random() < 2 / 3:
                operation = rng.randint(1, sizes[0])
            else:
                evaluation = rng.randint(1, sizes[1])
        tally.starts += 1
        code, text = in_a_process(lambda: train(world, method, out, more, operation, evaluation))  # noqa: B023
        if code == -signal.SIGKILL:
            kills += 1
            mark = out.parent / f"{out.name}.killed"
            tally.count(mark.read_text() if operation else "evaluation")
            mark.unlink(missing_ok=True)
            continue
        if code:
            tally.faults.append(f"{place}: start {start + 1} with {more} ended with {code}: {text[-600:]}")
            return
        if kills:
            break
    tally.chains += 1
    if (ours := files_of(out)) != (theirs := files_of(whole)):
        tally.faults.append(f"{place}: files {sorted(ours ^ theirs)}")
    ours_left, theirs_left = traces(out), traces(whole)
    for key in ours_left.keys() | theirs_left.keys():
        if ours_left.get(key) != theirs_left.get(key):
            tally.faults.append(f"{place}: {key} differs")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m reliability.kills", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--number", type=int, default=300, help="kills in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=30, help="stop after so long")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)  # forks share no pool of threads
    tally, begun = Tally(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        _ = world.model, world.rows
        wholes, sizes = {}, {}
        for method in args.methods:
            wholes[method] = Path(folder) / f"whole-{method}"
            sizes[method] = counts_of(world, method, wholes[method])
            print(f"{method}: {sizes[method][0]} file operations, {sizes[method][1]} evaluations", flush=True)
        number = 0
        while sum(tally.kills.values()) < args.number and time.monotonic() - begun < 60 * args.minutes:
            method = args.methods[number % len(args.methods)]
            rng, out = random.Random(f"{args.seed}/{number}"), Path(folder) / f"run-{number}"
            before = len(tally.faults)
            chain(world, method, wholes[method], sizes[method], out, rng, tally)
            shutil.rmtree(out, ignore_errors=True)
            number += 1
            for fault in tally.faults[before:]:
                print(f"fault: {fault}"[:600], flush=True)
        figures = {"kills": tally.kills, "chains": tally.chains, "starts": tally.starts, "faults": tally.faults}
        figures |= {"number": sum(tally.kills.values()), "seed": args.seed, "minutes": (time.monotonic() - begun) / 60}
    print(dumps(figures, indent=1))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(dumps(figures, indent=1) + "\n")
    raise SystemExit(1 if tally.faults else 0)


if __name__ == "__main__":
    main()
