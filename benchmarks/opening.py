"""Opening a zeroth-order run beside opening its export: processes, interleaved, medians of each round's ratio.

    python -m benchmarks.opening --model DIR --data DIR --work DIR [--steps 600] [--rounds 5] [--json FILE]

export    what `zofo export` wrote of the run: a plain model, checked against its manifest
first     the run, its journal replayed (ZOFO_CACHE=off)
again     the run, whose replay a first opening kept (ZOFO_CACHE in --work)

Each is a `python -c`, from the start of the interpreter to the model as `zofo eval` and `zofo generate` have it. --work
keeps run and export: a run of MeZO steps on one short row each, real, and long to make (it is gone on with
where it was cut), so it is made once. Processor seconds, all threads', stand beside the clock's: other jobs on the
machine change them less. All three must have the same weights.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks._machine import facts, interleaved, ratio, summary
from zofo.config.json_text import dumps

PROGRAM = """
import os, sys, time
from zofo.api.targets import open_target
model = open_target(sys.argv[1]).model
seconds, cpu = time.time() - float(sys.argv[2]), sum(os.times()[:2])
from zofo.zo.digests import digest
print(seconds, cpu, digest(dict(model.named_parameters())))
"""
OFF = "off"


def zofo(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "zofo", *words], check=True)


def make(args: argparse.Namespace) -> tuple[Path, Path]:
    """(the run, its export), made where they are not there yet."""
    run, export = args.work / "run", args.work / "export"
    if not (run / "run.json").is_file():
        begun = any(run.glob("checkpoint-*"))
        small = ["train.batch_size=1", "model.max_length=48", "task.train_examples=64", "task.dev_examples=8"]
        keep = [f"train.eval_steps={args.steps}", "train.save_steps=50", "train.max_replay_seconds=1e9"]
        places = ["--model", args.model, "--task", "movie-reviews", "--data", args.data, "--output-dir", str(run)]
        again = ["--resume", "latest"] if begun else ["--overwrite"] if run.exists() else []
        words = [*small, *keep, "task.test_examples=8", f"model.dtype={args.dtype}"]
        zofo("train", "--method", "mezo", "--max-steps", str(args.steps), *places, *again, *words)
    if not (export / "zofo.json").is_file():
        zofo("export", str(run), str(export))
    return run, export


class Opening:
    """A process that opens a target, and tells its own seconds. cpu, weights: processor seconds and digest of each."""

    clocked = True

    def __init__(self, target: Path, cache: str) -> None:
        self.target, self.environment = target, {**os.environ, "ZOFO_CACHE": cache}
        self.cpu: list[float] = []
        self.weights: set[str] = set()

    def __call__(self) -> float:
        command = [sys.executable, "-c", PROGRAM, str(self.target), str(time.time())]
        done = subprocess.run(command, check=True, env=self.environment, stdout=subprocess.PIPE, text=True)
        seconds, cpu, digest = done.stdout.split()
        self.cpu.append(float(cpu))
        self.weights.add(digest)
        return float(seconds)


def measure(run: Path, export: Path, work: Path, rounds: int) -> dict[str, Any]:
    """The round that warms up is the one in which the replay is kept."""
    again = Opening(run, str(work / "cache"))
    variants = {"export": Opening(export, OFF), "first": Opening(run, OFF), "again": again}
    timings = interleaved(variants, rounds, lambda line: print(line, flush=True))
    digests = set().union(*(variant.weights for variant in variants.values()))
    assert len(digests) == 1, digests
    cpu = {name: variant.cpu[-rounds:] for name, variant in variants.items()}
    return {
        "bytes of the run": sum(path.stat().st_size for path in run.rglob("*") if path.is_file()),
        "bytes kept": sum(path.stat().st_size for path in (work / "cache").rglob("*") if path.is_file()),
        "seconds": {name: summary(values) for name, values in timings.items()},
        "processor seconds": {name: summary(values) for name, values in cpu.items()},
        "first / export": ratio(timings, "first", "export"),
        "again / export": ratio(timings, "again", "export"),
        "first / export, processor": ratio(cpu, "first", "export"),
        "again / export, processor": ratio(cpu, "again", "export"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    run, export = make(args)
    results = {"machine": facts(), "steps": args.steps, **measure(run, export, args.work, args.rounds)}
    print(dumps(results, indent=1))
    if args.json:
        args.json.write_text(dumps(results, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
