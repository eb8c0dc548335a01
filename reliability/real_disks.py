"""What root can have for real: a small tmpfs, a read-only mount, a limit of file sizes, a directory that goes."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fuzz.world import World
from tests.traces import traces

from reliability._forked import in_a_process
from reliability._undertakings import FEW
from zofo.cli import main as cli


def args_of(world: World, out: Path, *more: str) -> list[str]:
    fixed = ["train", "--model", str(world.model), "--task", str(world.rows), "--method", "mezo", *FEW]
    return [*fixed, "train.max_replay_seconds=0", "--output-dir", str(out), *more]


def said_well(text: str, code: int, out: Path) -> bool:
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    return code in (1, 2) and len(lines) == 1 and str(out) in lines[0] and "bug" not in lines[0]


@contextmanager
def mounted(place: Path, *how: str) -> Iterator[str]:
    """Yields "" inside a mount, or why there is none."""
    place.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", *how, str(place)], capture_output=True, text=True, check=False)
    try:
        yield done.stderr.strip() if done.returncode else ""
    finally:
        if not done.returncode:
            subprocess.run(["umount", "-l", str(place)], check=False)


def run(world: World, folder: Path, fault: Callable[[str], None]) -> dict[str, str]:
    """{what was tried: "said, and went on to the same bytes", a fault, or why it was not tried}."""
    folder.mkdir()
    whole = folder / "whole"
    if in_a_process(lambda: cli.run(args_of(world, whole)))[0]:
        raise SystemExit("the run that is left alone failed")
    results = {}
    for name, trial in {"tmpfs": tmpfs, "read-only mount": read_only, "file size limit": limit, "gone": gone}.items():
        results[name] = verdict = trial(world, folder / name.replace(" ", "-"), traces(whole))
        print(f"{name}: {verdict}", flush=True)
        if not verdict.startswith(("said", "not tried")):
            fault(f"{name}: {verdict}")
    return results


def went_on(world: World, out: Path, expected: object) -> str:
    more = ["--resume", "latest"] if any(out.glob("checkpoint-*")) else ["--overwrite"] if out.exists() else []
    code, text = in_a_process(lambda: cli.run(args_of(world, out, *more)))
    if code:
        return f"then {more}: exit {code}: {text[-300:]}"
    return "said, and went on to the same bytes" if traces(out) == expected else f"then {more}: other bytes"


def tmpfs(world: World, place: Path, expected: object) -> str:
    verdicts = []
    for size in (16, 64, 120, 180, 260):
        with mounted(place, "-t", "tmpfs", "-o", f"size={size}k", "none") as why:
            if why:
                return f"not tried: {why}"
            out = place / "run"
            code, text = in_a_process(lambda: cli.run(args_of(world, out)))  # noqa: B023
            if code and not said_well(text, code, out):
                return f"{size}k: exit {code}: {text[-300:]}"
            verdicts.append(code)
            if code:
                subprocess.run(["mount", "-o", "remount,size=100m", str(place)], check=True)
                if not (word := went_on(world, out, expected)).startswith("said"):
                    return f"{size}k: {word}"
    return f"said, and went on to the same bytes ({sum(map(bool, verdicts))} sizes)" if any(verdicts) else "never full"


def read_only(world: World, place: Path, expected: object) -> str:
    with mounted(place, "-t", "tmpfs", "-o", "size=100m", "none") as why:
        if why:
            return f"not tried: {why}"
        out = place / "run"
        in_a_process(lambda: cli.run(args_of(world, out, "train.max_steps=8")))
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        for verb in (args_of(world, out, "--resume", "latest"), args_of(world, out, "--overwrite")):
            code, text = in_a_process(lambda: cli.run(verb))  # noqa: B023
            if not said_well(text, code, out):
                return f"exit {code}: {text[-300:]}"
        subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
        return went_on(world, out, expected)


def limit(world: World, place: Path, expected: object) -> str:
    for size in (600, 3000, 20000):
        out = place / f"run-{size}"

        def act() -> int:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # noqa: B023
            return cli.run(args_of(world, out))  # noqa: B023

        code, text = in_a_process(act)
        if not said_well(text, code, out):
            return f"{size} bytes: exit {code}: {text[-300:]}"
        if not (word := went_on(world, out, expected)).startswith("said"):
            return f"{size} bytes: {word}"
    return "said, and went on to the same bytes"


def gone(world: World, place: Path, expected: object) -> str:
    """Removed by somebody in the middle; a new run takes its place."""
    out = place / "run"

    def act() -> int:
        from zofo.objectives._loss import Loss

        real, made = Loss._sums, [0]

        def sums(*args: object, **kwargs: object) -> object:
            made[0] += 1
            if made[0] == 20:
                shutil.rmtree(out)
            return real(*args, **kwargs)  # type: ignore[arg-type]

        Loss._sums = sums  # type: ignore[method-assign, assignment]
        return cli.run(args_of(world, out))

    code, text = in_a_process(act)
    return went_on(world, out, expected) if said_well(text, code, out) else f"exit {code}: {text[-300:]}"
