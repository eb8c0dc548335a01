"""A disk that is full, over quota, read-only, broken or gone at any file operation: is it said, and is anything lost?

    python -m reliability.disk --minutes 20 --out results/disk.json

A real run, evaluation, export, conversion or meta-test is made with a small library before libc (failing.c), which
counts the system calls that change a file in its directory: open to write, write, fsync, rename, mkdir, rmdir, unlink,
link, truncate. Then it is made again for each of them, and that one fails: the C library answers with the error, so
that Python, safetensors and tokenizers meet it as they would a real one. The process must end with 1 or 2 and one line
that names the file. After that the disk is well again: the same command, or `--resume latest`, must end with the bytes
of the one that was left alone, without a file more or less, and nothing that was kept before may be lost.
Afterwards the real things: a small tmpfs, a read-only mount, a limit of file sizes, a directory that goes.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.world import World

from reliability import real_disks
from reliability._forked import files_of, in_a_process
from reliability.disk_jobs import Job, jobs
from zofo.cli import main as cli
from zofo.config.json_text import dumps

ONCE, ON, SHORT, VANISH = range(4)
KINDS = {
    "full": (errno.ENOSPC, ON),
    "over quota": (errno.EDQUOT, ON),
    "read-only": (errno.EROFS, ON),
    "broken": (errno.EIO, ON),
    "broken once": (errno.EIO, ONCE),
    "a part is written": (errno.ENOSPC, SHORT),
    "vanishes": (errno.ENOENT, VANISH),
}


@dataclass
class Tally:
    cases: dict[str, int] = field(default_factory=dict)
    harmless: int = 0
    faults: list[str] = field(default_factory=list)

    def fault(self, text: str) -> None:
        self.faults.append(text)
        print(f"fault: {text}"[:700], flush=True)


def library() -> ctypes.CDLL:
    failing = ctypes.CDLL(os.environ["LD_PRELOAD"])
    failing.operations.restype = ctypes.c_long
    failing.operation.restype = failing.failed_path.restype = ctypes.c_char_p
    return failing


def command(args: list[str], folder: Path, at: int = 0, kind: str = "broken") -> tuple[int, str]:
    """(exit code, all it wrote and a last line: operations made, the one that failed, its path) of `zofo args`."""

    def act() -> int:
        failing = library()
        failing.arm(str(folder).encode(), ctypes.c_long(at), *KINDS[kind])
        code = cli.run(args)
        made = failing.operations()
        failing.arm(b"", ctypes.c_long(0), 0, 0)
        print(f"\n{made} {failing.operation().decode()} {failing.failed_path().decode()}")
        return code

    return in_a_process(act)


# ---------------------------------------------------------------------------------------------------------- one case


def measure(job: Job, folder: Path) -> None:
    """How many operations it makes, and what it leaves, where nothing fails."""
    folder.mkdir()
    job.start(folder)
    code, text = command(job.act(folder), folder)
    if code:
        raise SystemExit(f"{job.name}: exit {code}\n{text}")
    job.operations = int(text.rstrip().rpartition("\n")[2].split()[0])
    job.result = job.whole(folder)
    shutil.rmtree(folder)


def case(job: Job, folder: Path, at: int, kind: str, tally: Tally) -> None:
    folder.mkdir()
    job.start(folder)
    before = {name: (folder / name).read_bytes() for name in files_of(folder)}
    code, text = command(job.act(folder), folder, at, kind)
    said, _, last = text.rstrip().rpartition("\n")
    _, operation, path = [*last.split(" ", 2), "", ""][:3]
    place = f"{job.name}, operation {at} ({operation} {path.removeprefix(str(folder))}), {kind}"
    if kind == "vanishes" and (away := folder.with_name(f"{folder.name}.away")).exists():
        shutil.rmtree(folder, ignore_errors=True)  # what was written where nothing was mounted
        away.rename(folder)
    tally.cases[f"{kind}: {operation}"] = tally.cases.get(f"{kind}: {operation}", 0) + 1
    for fault in wrong(said, code, folder):
        tally.fault(f"{place}: {fault}")
    if code == 0:
        tally.harmless += 1
    if kept := lost(job, before, folder):
        tally.fault(f"{place}: lost {kept}")
    if code == 0 and job.whole(folder) == job.result:
        shutil.rmtree(folder)
        return
    code, text = in_a_process(lambda: cli.run(job.again(folder)))
    if code:
        tally.fault(f"{place}: then {job.again(folder)[-2:]} ended with {code}: {text[-300:]}")
    elif (now := job.whole(folder)) != job.result:
        tally.fault(f"{place}: then {differing(now, job.result)}")
    shutil.rmtree(folder)


def wrong(said: str, code: int, folder: Path) -> list[str]:
    """What is wrong with how a command failed: one line that names a file, or nothing is said and all is done."""
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    if code == 0:
        return [f"exit 0 after {lines}"] if lines else []
    if code not in (1, 2):
        return [f"exit {code}: {said[-400:]}"]
    if len(lines) != 1:
        return [f"{len(lines)} lines: {said[-400:]}"]
    if "Traceback" in said or "bug" in lines[0] or "Error:" in lines[0]:
        return [f"raw: {lines[0]}"]
    return [] if str(folder) in lines[0] else [f"no file is named: {lines[0]}"]


def lost(job: Job, before: dict[str, bytes], folder: Path) -> str:
    """A file that was there before, is of the result too, and is gone or torn. Of a run: its newest checkpoint."""
    if job.name.startswith("resume"):
        steps = sorted(int(name.split("/")[1].partition("-")[2]) for name in before if name.endswith("/state.json"))
        newest = f"run/checkpoint-{steps[-1]}/" if steps and (folder / f"run/checkpoint-{steps[-1]}").is_dir() else ""
        if not newest:
            return "" if any((folder / "run").glob("checkpoint-*/state.json")) else "every checkpoint"
        return next((n for n in before if n.startswith(newest) and not same(folder / n, before[n])), "")
    if "over" in job.name:
        return "notes.txt" if not same(folder / "out" / "notes.txt", b"mine") else ""
    return ""


def same(path: Path, content: object) -> bool:
    return path.is_file() and path.read_bytes() == content


def differing(now: object, then: object) -> str:
    assert isinstance(now, dict)
    assert isinstance(then, dict)
    keys = [key for key in sorted(now.keys() | then.keys()) if now.get(key) != then.get(key)]
    if keys == ["files"]:
        return f"files {sorted(now['files'] ^ then['files'])}"
    return f"{keys[:4]} differ"


# -------------------------------------------------------------------------------------------------------------- all


def planned(each: list[Job], rng: random.Random) -> list[tuple[Job, int, str]]:
    """Every operation with every kind of failure, in an order in which every operation comes before any comes twice."""
    plan = []
    for turn in range(len(KINDS)):
        of_turn = [
            (job, at, list(KINDS)[(at + turn) % len(KINDS)]) for job in each for at in range(1, job.operations + 1)
        ]
        rng.shuffle(of_turn)
        plan += of_turn
    return plan


def run_all(args: argparse.Namespace, folder: Path, tally: Tally) -> dict[str, object]:
    world = World(folder / "world")
    world.root.mkdir()
    each = [job for job in jobs(world) if not args.only or any(word in job.name for word in args.only)]
    begun = time.monotonic()
    for job in each:
        measure(job, folder / "case")
        print(f"{job.name}: {job.operations} operations", flush=True)
    plan, done = planned(each, random.Random(args.seed)), 0
    for job, at, kind in plan:
        if time.monotonic() - begun > 60 * args.minutes:
            break
        case(job, folder / "case", at, kind, tally)
        done += 1
    real = real_disks.run(world, folder / "real", tally.fault)
    operations = {job.name: job.operations for job in each}
    figures = {"cases": done, "of": len(plan), "operations": operations, "by kind and operation": tally.cases}
    figures |= {"went on": tally.harmless, "real": real, "faults": tally.faults}
    return figures | {"seed": args.seed, "minutes": (time.monotonic() - begun) / 60}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m reliability.disk", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=20, help="stop after so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("--only", nargs="*", help="jobs whose name has one of these words")
    args = parser.parse_args()
    if "LD_PRELOAD" not in os.environ:
        raise SystemExit(preloaded(sys.argv[1:]))
    import torch

    torch.set_num_threads(1)  # forks share no pool of threads
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        figures = run_all(args, Path(folder), tally)
    print(dumps(figures, indent=1))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(dumps(figures, indent=1) + "\n")
    raise SystemExit(1 if tally.faults else 0)


def preloaded(arguments: list[str]) -> int:
    """This script in a process that has the library. Where it cannot be built nothing is tried, and that is said."""
    compiler = shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    if compiler is None or not sys.platform.startswith("linux"):
        print("not tried: it needs Linux and a C compiler")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        made, source = Path(folder) / "failing.so", Path(__file__).with_name("failing.c")
        subprocess.run([compiler, "-O1", "-w", "-shared", "-fPIC", "-o", made, source, "-ldl"], check=True)
        environment = {**os.environ, "LD_PRELOAD": str(made)}
        return subprocess.run([sys.executable, "-m", "reliability.disk", *arguments], env=environment).returncode


if __name__ == "__main__":
    main()
