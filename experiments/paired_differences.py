"""Differences between rows of a plan, seed by seed: the last dev loss of each run minus that of the base row's run.

    python -m experiments.paired_differences experiments/precision_smollm2.yaml mezo-fp32 mezo-bf16 mezo-bf16-split ...

Runs of one seed share examples, batches and directions, so the seeds' own spread cancels. The interval is
Student's, 95 %.
"""

from __future__ import annotations

import argparse
import math
import statistics
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.compare import Kept

T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}  # by degrees


def last(run: dict[str, Any]) -> float:
    """The smallest loss of the last evaluation's candidates; NaN where none is finite (null in a file)."""
    step = max(line["step"] for line in run["dev_curve"])
    losses = [line["loss"] for line in run["dev_curve"] if line["step"] == step]
    return min((loss for loss in losses if loss is not None), default=math.nan)


def interval(values: list[float]) -> str:
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:+.4f}"
    half = T_975[len(values) - 1] * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:+.4f} ({mean - half:+.4f} to {mean + half:+.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("base")
    parser.add_argument("rows", nargs="+")
    args = parser.parse_args()
    kept = Kept(args.plan)
    print("| row | seeds | last dev loss | minus the base's, 95 % interval | accuracy |")
    print("|---|---|---|---|---|")
    for row in (args.base, *args.rows):
        pairs = []
        for seed in kept.plan.row(row).seeds:
            with suppress(FileNotFoundError):
                pairs.append((kept.load(row, 0, seed), kept.load(args.base, 0, seed)))
        if not pairs:
            print(f"| {row} | none finished | | | |")
            continue
        losses = [last(run) for run, _ in pairs]
        accuracy = [max(c["accuracy"] for c in run["dev_curve"][-2:]) for run, _ in pairs]
        shown = interval([last(run) - last(base) for run, base in pairs]) if row != args.base else "-"
        print(f"| {row} | {len(pairs)} | {statistics.mean(losses):.4f} | {shown} | {statistics.mean(accuracy):.3f} |")


if __name__ == "__main__":
    main()
