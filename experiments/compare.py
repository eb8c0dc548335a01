"""The table of a plan's results that are kept in results/, one JSON file a run: mean and deviation over the seeds.

    python -m experiments.compare experiments/sst2_smollm2.yaml
    python -m experiments.compare experiments/sparse_bands.yaml --reduced

The plans themselves are run by `zofo sweep` (docs/sweep.md).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zofo.study.plan import Row
from zofo.study.plan_read import read_plan


class Kept:
    """A plan and the files that are kept of its runs: ROW-TRIAL-seedN.json."""

    def __init__(self, path: Path, reduced: bool = False) -> None:
        self.plan = read_plan(path, reduced=reduced)
        self.results = Path(__file__).parents[1] / "results" / (path.stem + ("_smoke" if reduced else ""))

    def load(self, row: str, trial: int, seed: int) -> dict[str, Any]:
        """Raises FileNotFoundError for a run of which there is none."""
        return json.loads((self.results / f"{row}-{trial}-seed{seed}.json").read_text("utf-8"))

    def chosen(self, row: Row) -> int:
        """The trial with the lowest dev loss of what it deploys. Raises FileNotFoundError before all are there."""
        if row.trials == 1:
            return 0
        tried = [self.load(row.name, trial, row.seeds[0]) for trial in range(row.trials)]
        losses = [run["dev"][run["deployed"]]["loss"] for run in tried]
        return losses.index(min(losses, key=lambda loss: math.inf if loss is None else loss))  # null: not finite


def table(kept: Kept) -> str:
    """Markdown: mean +- standard deviation over the seeds, on the four axes."""
    lines = [
        "| row | chosen on dev | accuracy | loss | counted steps | forward-equivalents | seconds | trials |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in kept.plan.rows:
        if row.like is not None:
            lines += _extra_lines(kept, row)
            continue
        try:
            trial = kept.chosen(row)
            runs = [kept.load(row.name, trial, seed) for seed in row.seeds]
        except FileNotFoundError:
            lines.append(f"| {row.name} | not finished | | | | | | |")
            continue
        test = [run["test"][run["deployed"]] for run in runs]
        cost = [_forwards(run) for run in runs]
        tuned = row.points[trial]
        settings = ", ".join(f"{key.partition('.')[2]} {value:g}" for key, value in tuned.items()) or "-"
        lines.append(
            f"| {row.name} | {settings} | {_spread([t['accuracy'] for t in test], 3)} "
            f"| {_spread([t['loss'] for t in test], 3)} | {sum(runs[0]['steps'].values())} | {_spread(cost, 0)} "
            f"| {_spread([run['seconds'] for run in runs], 0)} | {row.trials if tuned else 0} |"
        )
    return "\n".join(lines)


def _extra_lines(kept: Kept, row: Row) -> Iterator[str]:
    """`{'method.lr': 0.001}` as the plan has it: a row that is like another's chosen trial."""
    for file in sorted(kept.results.glob(f"{row.name}-0-seed*.json")):
        result = json.loads(file.read_text("utf-8"))
        change = next(each["change"] for each in kept.plan.data["extra"] if each["name"] == row.name)
        for name, test in result["test"].items():
            what = f"extra: {row.name}, seed {result['seed']}, (theta, {name})"
            steps, cost = sum(result["steps"].values()), _forwards(result)
            yield (
                f"| {what} | {change} | {test['accuracy']:.3f} | {test['loss']:.3f} | {steps} | {cost:.0f} "
                f"| {result['seconds']:.0f} | - |"
            )


def _forwards(result: dict[str, Any]) -> float:
    """Forward-equivalents: forwards of one batch of `batch_size` examples (a pass over rows of p and s is several), and
    two for each backward pass."""
    return result["examples_seen"] / result["settings"]["train.batch_size"] + 2 * result["backward_passes"]


def _spread(values: list[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} +- {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--reduced", action="store_true", help="the plan's short form; its results are kept apart")
    args = parser.parse_args()
    print(table(Kept(args.plan, args.reduced)))


if __name__ == "__main__":
    main()
