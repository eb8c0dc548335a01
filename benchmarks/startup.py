"""From the command to the first step: `zofo train` beside python that loads the same libraries and model.

    python -m benchmarks.startup --model DIR [--data DIR] [--rounds 5] [--before SRC] [--json FILE]

Each variant is a process of its own, one after the other, in an order that turns, the first round unmeasured:

libraries    python that imports torch, transformers and peft, and reads the model in fp32 and its tokenizer
zofo         `zofo train`: one MeZO step, 8 train, dev and test rows; until its line of the step, and until its end
before       the same by another copy of the package, whose src is SRC

Seconds on the clock, and of the processors (user and system): the second hardly know what else the machine is doing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks._machine import facts, ratio, summary
from zofo.config.json_text import dumps

LOAD = """
import sys
import peft, torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
"""
STEP = "step 1/1"
Seconds = dict[str, float]


def timed(command: list[str], src: Path | None = None, mark: str | None = None) -> Seconds:
    """Of one process: "end" and "end, processors"; with a mark, "first step" and its like, when a line begins with it.

    src: where the package is imported from, in place of this one's.
    """
    env = {**os.environ, "PYTHONUNBUFFERED": "1"} | ({} if src is None else {"PYTHONPATH": str(src)})
    seconds: Seconds = {}
    said: list[str] = []
    begun = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env)
    assert child.stderr is not None
    for line in child.stderr:
        said.append(line)
        if mark and line.startswith(mark):
            seconds["first step"] = time.perf_counter() - begun
            used = psutil.Process(child.pid).cpu_times()
            seconds["first step, processors"] = used.user + used.system
    _, status, usage = os.wait4(child.pid, 0)
    seconds["end"] = time.perf_counter() - begun
    child.returncode = os.waitstatus_to_exitcode(status)
    seconds["end, processors"] = usage.ru_utime + usage.ru_stime
    if child.returncode or (mark and "first step" not in seconds):
        raise SystemExit(f"{' '.join(command)}: exit code {child.returncode}\n{''.join(said[-20:])}")
    return seconds


def train(args: argparse.Namespace, out: Path) -> list[str]:
    sizes = [f"task.{split}_examples=8" for split in ("train", "dev", "test")]
    data = ["--data", str(args.data)] if args.data else []
    return [
        *(sys.executable, "-m", "zofo", "train", "--method", "mezo", "--model", args.model, "--task", args.task),
        *(*data, "--max-steps", "1", "--output-dir", str(out), "--overwrite", "model.dtype=float32"),
        *(*sizes, "train.batch_size=4"),
    ]


def measure(args: argparse.Namespace) -> dict[str, list[Seconds]]:
    with tempfile.TemporaryDirectory() as folder:
        variants: dict[str, Any] = {
            "libraries": lambda: timed([sys.executable, "-c", LOAD, args.model]),
            "zofo": lambda: timed(train(args, Path(folder) / "zofo"), None, STEP),
        }
        if args.before:
            variants["before"] = lambda: timed(train(args, Path(folder) / "before"), args.before, STEP)
        names, seen = list(variants), {name: list[Seconds]() for name in variants}
        for turn in range(args.rounds + 1):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                seconds = variants[name]()
                if turn:
                    seen[name].append(seconds)
            print(f"round {turn} of {args.rounds}", flush=True)
    return seen


def figures(seen: dict[str, list[Seconds]]) -> dict[str, Any]:
    """Seconds of each variant, and of each round's zofo (before) / libraries."""
    timings = {f"{name}: {what}": [s[what] for s in all_] for name, all_ in seen.items() for what in all_[0]}
    ratios = {}
    for name in seen:
        for what in seen[name][0] if name != "libraries" else ():
            below = "libraries: end" + (", processors" if what.endswith("processors") else "")
            ratios[f"{name} / libraries: {what}"] = ratio(timings, f"{name}: {what}", below)
    return {"seconds": {name: summary(values) for name, values in timings.items()}, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", default="movie-reviews")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results = {"machine": facts(), "rounds": args.rounds, **figures(measure(args))}
    results["machine"]["load at the end"] = [round(x, 2) for x in psutil.getloadavg()]
    print(dumps(results, indent=1))
    if args.json:
        args.json.write_text(dumps(results, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
