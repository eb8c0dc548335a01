"""Peak memory of Bilevel ZOFO beside FO-PEFT and MeZO, on the same batches, each in a process of its own.

    python -m benchmarks.peak_memory --model DIR --data DIR_OR_FILE [--batch-size 8] [--repeats 3]

Each process loads the model, takes one step to warm up, resets the kernel's peak of the resident set (Linux only), and
takes steps at the longest batch. Methods take turns; medians are printed, as JSON with --json FILE. "over the weights"
is the peak less the resident set before the first step.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path
from statistics import median

METHODS = {
    "fo-peft": {"name": "fo-peft"},
    "mezo": {"name": "mezo"},
    "bilevel-zofo": {"name": "bilevel-zofo", "inner_steps": 2},
}


def status(field: str) -> int:
    """Bytes of one field of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this benchmark reads /proc/self/status: Linux only")


def child(args: argparse.Namespace) -> None:
    """One method in this process; prints one line of JSON."""
    from zofo.config import resolve
    from zofo.dry_run import Longest
    from zofo.session import build

    task = {"name": args.task, "data": args.data} if args.data else args.task
    config = resolve(
        model=args.model, task=task, method=METHODS[args.child],
        train={"output_dir": "unused", "batch_size": args.batch_size, "threads": args.threads},
    )  # fmt: skip
    session = build(config)
    problem = session.problem
    everything = [e for stream in session.streams.values() for e in stream.encoded]
    longest = sorted(everything, key=lambda e: -e.length)[: args.batch_size]
    problem.streams = {name: Longest(longest, stream.pad_id) for name, stream in session.streams.items()}
    session.method.setup(problem)
    before = status("VmRSS")
    session.method.step(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    for k in (1, 2):
        session.method.step(k)
    tokens = list(next(next(iter(problem.streams.values()))).input_ids.shape)
    print(json.dumps({"before": before, "peak": status("VmHWM"), "batch": tokens}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", default="movie-reviews")
    parser.add_argument("--data")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json")
    parser.add_argument("--child", choices=METHODS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args)
        return
    found: dict[str, list[dict]] = {name: [] for name in METHODS}
    for _ in range(args.repeats):
        for name in METHODS:
            command = [sys.executable, "-m", "benchmarks.peak_memory", *sys.argv[1:], "--child", name]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    mib = 2**20
    rows = {
        name: {
            "peak_mib": round(median(r["peak"] for r in runs) / mib, 1),
            "over_weights_mib": round(median(r["peak"] - r["before"] for r in runs) / mib, 1),
            "spread_mib": round((max(r["peak"] for r in runs) - min(r["peak"] for r in runs)) / mib, 1),
        }
        for name, runs in found.items()
    }
    base = rows["fo-peft"]
    print(f"batch {found['fo-peft'][0]['batch']} (rows, tokens), {args.repeats} processes each, medians")
    print(f"{'method':<14}{'peak MiB':>10}{'over weights':>14}{'spread':>8}{'peak / FO-PEFT':>16}")
    for name, row in rows.items():
        ratio = row["peak_mib"] / base["peak_mib"]
        print(f"{name:<14}{row['peak_mib']:>10}{row['over_weights_mib']:>14}{row['spread_mib']:>8}{ratio:>16.3f}")
    if args.json:
        machine = {"processor": platform.machine(), "python": platform.python_version()}
        Path(args.json).write_text(json.dumps({"rows": rows, "machine": machine}, indent=2) + "\n")


if __name__ == "__main__":
    main()
