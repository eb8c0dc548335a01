"""The tables that benchmarks.meta_training prints: a median with the smallest and the largest, columns that line up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def spread(s: dict[str, float] | None, digits: int = 3) -> str:
    return "-" if s is None else f"{s['median']:.{digits}f} ({s['min']:.{digits}f} to {s['max']:.{digits}f})"


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, *rows):
        cells = [cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))]
        print("  ".join(cells).rstrip())
    print(flush=True)


def print_steps(steps: dict[str, Any]) -> None:
    header = ("a counted step", "seconds", "of MetaICL direct", "an iteration")
    keys = {"forwards": "forwards", "backward": "backward_passes", "tokens": "tokens", "examples": "examples_seen"}
    rows = []
    for name, row in steps.items():
        whole = f"{row['counted_steps']} in {row['seconds_an_iteration']['median']:.3f} s"
        counts = [f"{row['a_step'][key]:.2f}" for key in keys.values()]
        rows.append((name, spread(row["seconds_a_step"]), spread(row.get("step / metaicl direct")), whole, *counts))
    print_table((*header, *keys), rows)


def print_memory(memory: dict[str, Any]) -> None:
    rows = []
    for name, row in memory.items():
        guess = row["predicted_mib"]
        large = [f"{key} {v:.0f}" for key, v in guess.items() if isinstance(v, float) and v >= 0.5 and key != "total"]
        peak, over = spread(row["peak_mib"], 0), spread(row["over_mib"], 0)
        rows.append((name, peak, over, f"{guess['total']:.0f}", f"{guess['phase']}: {', '.join(large)}"))
    print_table(("memory, MiB", "process peak", "over the start", "tensors predicted", "at its fullest"), rows)


def print_inference(inference: dict[str, Any]) -> None:
    for name, task in inference["tasks"].items():
        cut = f", {task['cut']} cut" if task["cut"] else ""
        print(f"{name}: {task['rows']} examples, {task['tokens_read_once']} tokens read once{cut}")
    seconds = [(name, spread(s, 4)) for name, s in inference["seconds_an_example"].items()]
    print_table((f"inference, k = {inference['k']}", "seconds an example"), seconds)
    print_table(("ratio of a round", ""), [(name, spread(r, 2)) for name, r in inference["ratios"].items()])
