"""Peak memory of Bilevel ZOFO beside FO-PEFT and MeZO, on the same batches, each in a process of its own.

    python -m benchmarks.peak_memory --model DIR --data DIR_OR_FILE [--batch-size 8] [--rounds 3] [--repeats 3]

One round is what an upper step of Bilevel ZOFO sees: T batches of D_p, one of D_f, one of D_p. FO-PEFT takes one step
on each of these batches, MeZO one on each of the last two, in the same order. The kernel's peak of the resident set
(Linux) is reset after the first round; methods take turns; medians are printed, as JSON with --json FILE.

Compiled kernels bring a compiler (numba and LLVM, about 100 MiB whatever the model). It is loaded in every process, so
that the methods' own memory is compared; `--as-is` leaves it out where the method does not need it.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path
from statistics import median

from benchmarks._machine import status
from zofo.config.json_text import dumps

T = 10
METHODS: dict[str, dict[str, object]] = {
    "fo-peft": {"name": "fo-peft"},
    "mezo": {"name": "mezo"},
    "bilevel-zofo": {"name": "bilevel-zofo", "inner_steps": T},
}


def child(args: argparse.Namespace) -> None:
    """One method in this process; prints one line of JSON."""
    from zofo.api.configure import resolve
    from zofo.data import split_levels
    from zofo.data.stream import Stream
    from zofo.train.setup import build

    task = {"name": args.task, "data": args.data} if args.data else args.task
    config = resolve(
        model=args.model,
        task=task,
        method=METHODS[args.child],
        train={"output_dir": "unused", "batch_size": args.batch_size, "threads": args.threads},
    )
    session = build(config)
    problem, method = session.problem, session.method
    if args.child != "bilevel-zofo":  # the batches that Bilevel ZOFO draws from the same seed, in its order
        upper, lower = split_levels(session.data.train, 0, (1 / 3, 2 / 3))
        level = {e.example.id: e for e in session.encoded["train"]}
        f = Stream([level[e.id] for e in upper], args.batch_size, session.loaded.pad_id, 0, "f")
        p = Stream([level[e.id] for e in lower], args.batch_size, session.loaded.pad_id, 0, "p")
        first = T if args.child == "fo-peft" else 0
        batches = [b for _ in range(args.rounds) for b in [*(next(p) for _ in range(T)), next(f), next(p)][T - first :]]
        problem.streams = {"train": iter(batches)}
        method.setup(problem)
        steps = len(batches)
    else:
        steps = args.rounds
    if not args.as_is:
        import torch

        from zofo.zo import kernels

        kernels.add(torch.zeros(1 << 17), torch.zeros(1 << 17), [(1, 0.0)], 0)
    before = status("VmRSS")
    for k in range(steps):
        if k == steps // args.rounds:
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        method.step(k)
    weights = sum(t.numel() * t.element_size() for t in session.loaded.model.parameters())
    print(dumps({"before": before, "peak": status("VmHWM"), "weights": weights}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", default="movie-reviews")
    parser.add_argument("--data")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--as-is", action="store_true")
    parser.add_argument("--json")
    parser.add_argument("--child", choices=METHODS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args)
        return
    by_method: dict[str, list[dict]] = {name: [] for name in METHODS}
    for _ in range(args.repeats):
        for name in METHODS:
            command = [sys.executable, "-m", "benchmarks.peak_memory", *sys.argv[1:], "--child", name]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            by_method[name].append(json.loads(done.stdout.splitlines()[-1]))
    mib = 2**20
    rows = {
        name: {
            "peak_mib": round(median(r["peak"] for r in runs) / mib, 1),
            "over_weights_mib": round(median(r["peak"] - r["before"] for r in runs) / mib, 1),
            "spread_mib": round((max(r["peak"] for r in runs) - min(r["peak"] for r in runs)) / mib, 1),
        }
        for name, runs in by_method.items()
    }
    base = rows["fo-peft"]
    print(f"batches of {args.batch_size}, {args.rounds} rounds, {args.repeats} processes each, medians")
    print(f"{'method':<14}{'peak MiB':>10}{'over weights':>14}{'spread':>8}{'peak / FO-PEFT':>16}")
    for name, row in rows.items():
        ratio = row["peak_mib"] / base["peak_mib"]
        print(f"{name:<14}{row['peak_mib']:>10}{row['over_weights_mib']:>14}{row['spread_mib']:>8}{ratio:>16.3f}")
    if args.json:
        machine = {"processor": platform.machine(), "python": platform.python_version()}
        Path(args.json).write_text(dumps({"rows": rows, "machine": machine}, indent=2) + "\n")


if __name__ == "__main__":
    main()
