"""Run a comparison plan: tuning trials by dev, then the chosen settings over seeds; one JSON file a run.

    python -m experiments.compare experiments/sst2_smollm2.yaml --model DIR --data DIR --work DIR [--only trials]
    python -m experiments.compare experiments/sst2_smollm2.yaml --table
    python -m experiments.compare experiments/sparse_bands.yaml --smoke ...   and then   --cost

A finished run is its file in results/, so the plan can be stopped and started at will; an unfinished run is resumed
from its last checkpoint. The choice among a method's trials reads dev alone.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zofo.config.json_text import dumps
from zofo.config.yaml_reader import read_yaml

KEPT = (
    "method",
    "adapter",
    "task",
    "seed",
    "steps",
    "best_step",
    "forwards",
    "backward_passes",
    "examples_seen",
    "tokens",
    "dev",
    "test",
    "deployed",
    "seconds",
    "peak_bytes",
    "examples",
    "skipped",
    "environment",
)


@dataclass(frozen=True)
class Cell:
    """One run: a row of the table, which of its trials, a seed."""

    row: str
    trial: int
    seed: int
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.row}-{self.trial}-seed{self.seed}"


class Plan:
    """shared: settings of every run; rows: {name: {method, ..., trials: [settings]}}, `forwards` of a row those of one
    of its steps where they are not two, for as many in all as the others; seeds: the first one is the
    trials'; extra: rows outside the comparison, in order, each `like` a row's chosen trial with some settings changed.
    """

    def __init__(self, path: Path, smoke: bool = False) -> None:
        """smoke: the short form: `smoke.shared` and `smoke.seeds` replace those of the plan, and of each row's trials
        the ones numbered in `smoke.trials` are left."""
        data = read_yaml(path, "plan")
        self.full = data["shared"]
        small = data["smoke"] if smoke else {}
        self.shared, self.rows = self.full | small.get("shared", {}), data["rows"]
        if "trials" in small:
            trials = {row: [spec["trials"][i] for i in small["trials"]] for row, spec in self.rows.items()}
            self.rows = {row: {**spec, "trials": trials[row]} for row, spec in self.rows.items()}
        self.full_trials = {row: len(spec["trials"]) for row, spec in data["rows"].items()}
        self.full_seeds, self.seeds = data["seeds"], small.get("seeds", data["seeds"])
        self.extra = data.get("extra", [])
        self.results = Path(__file__).parents[1] / "results" / (path.stem + ("_smoke" if smoke else ""))

    def _cell(self, row: str, trial: int, seed: int) -> Cell:
        spec, shared = self.rows[row], dict(self.shared)
        if "forwards" in spec:  # equal forwards: fewer steps, and evaluations at the same shares of them
            for key in ("train.max_steps", "train.eval_steps", "train.save_steps"):
                shared[key] = max(1, int(shared[key] * 2 / spec["forwards"]))
        settings = {key: value for key, value in spec.items() if key not in ("trials", "seeds", "forwards")}
        return Cell(row, trial, seed, {**shared, **settings, **spec["trials"][trial]})

    def trials(self, order: list[str] | None = None) -> Iterator[Cell]:
        for row in order or self.rows:
            for trial in range(len(self.rows[row]["trials"])):
                yield self._cell(row, trial, self.seeds[0])

    def extras(self) -> Iterator[Cell]:
        for spec in self.extra:
            for seed in spec.get("seeds", self.seeds[:1]):
                base = self._cell(spec["like"], self.chosen(spec["like"]), seed)
                yield Cell(spec["name"], 0, seed, {**base.settings, **spec["change"]})

    def chosen(self, row: str) -> int:
        """The trial with the lowest dev loss of what it deploys. Raises FileNotFoundError before all are run."""
        if len(self.rows[row]["trials"]) == 1:
            return 0
        tried = [self.load(self._cell(row, i, self.seeds[0])) for i in range(len(self.rows[row]["trials"]))]
        losses = [run["dev"][run["deployed"]]["loss"] for run in tried]
        return losses.index(min(losses, key=lambda loss: math.inf if loss is None else loss))  # null: not finite

    def finals(self, row: str) -> list[Cell]:
        seeds = self.rows[row].get("seeds", self.seeds)
        return [self._cell(row, self.chosen(row), seed) for seed in seeds]

    def file(self, cell: Cell) -> Path:
        return self.results / f"{cell.name}.json"

    def load(self, cell: Cell) -> dict[str, Any]:
        return json.loads(self.file(cell).read_text())


def run(plan: Plan, cell: Cell, model: str, data: str | None, work: Path) -> None:
    """One run, unless its file is there. What is kept: its numbers, its dev curve and its training losses."""
    from zofo.api import finetune
    from zofo.config.resolve import from_dict

    if plan.file(cell).exists():
        return
    print(f"=== {cell.name}: {cell.settings}", flush=True)
    nested: dict[str, Any] = {"model": {"name": model}}
    for key, value in cell.settings.items():
        section, _, field = key.partition(".")
        nested.setdefault(section, {})[field] = value
    if data is not None:
        nested["task"]["data"] = data
    out = work / cell.name
    resume = "latest" if list(out.glob("checkpoint-*")) else None
    nested["train"] |= {"output_dir": str(out), "seed": cell.seed, "resume": resume, "overwrite": resume is None}
    info = finetune.train(from_dict(nested)).info
    lines = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    curves = {
        "dev_curve": [
            {k: v for k, v in line.items() if k not in ("event", "n")} for line in lines if line["event"] == "dev"
        ],
        "train_curve": [
            {k: v for k, v in line.items() if k in ("step", "loss", "loss_s", "loss_p", "G", "c")}
            for line in lines
            if line["event"] == "train"
        ],
    }
    numbers = {key: info[key] for key in KEPT}
    plan.results.mkdir(parents=True, exist_ok=True)
    text = dumps({"settings": cell.settings, **numbers, **curves}, indent=1, sort_keys=True)
    plan.file(cell).write_text(text + "\n")
    shutil.rmtree(out)


def cost(plan: Plan) -> str:
    """What the full plan takes on this machine, in hours: the smoke runs' seconds, times the steps and examples a step
    that it has more, for every trial and every further seed."""
    size = 1.0
    for key in ("train.max_steps", "train.batch_size"):
        size *= plan.full[key] / plan.shared[key]
    total = 0.0
    for row, spec in plan.rows.items():
        runs = [plan.load(cell)["seconds"] for cell in plan.trials([row])]
        seeds = len(spec.get("seeds", plan.full_seeds)) - 1
        trials = plan.full_trials[row]
        hours = size * (trials + seeds) * statistics.mean(runs) / 3600
        total += hours
        print(f"{row:24} {trials} trials, {seeds} further seeds: {hours:.1f} hours")
    return f"in all {total:.0f} hours"


def table(plan: Plan) -> str:
    """Markdown: mean +- standard deviation over the seeds, on the four axes."""
    lines = [
        "| row | chosen on dev | accuracy | loss | counted steps | forward-equivalents | seconds | trials |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row, spec in plan.rows.items():
        try:
            cells = plan.finals(row)
            runs = [plan.load(cell) for cell in cells]
        except FileNotFoundError:
            lines.append(f"| {row} | not finished | | | | | | |")
            continue
        test = [r["test"][r["deployed"]] for r in runs]
        cost = [_forwards(r) for r in runs]
        tuned = spec["trials"][cells[0].trial]
        settings = ", ".join(f"{key.partition('.')[2]} {value:g}" for key, value in tuned.items()) or "-"
        lines.append(
            f"| {row} | {settings} | {_spread([t['accuracy'] for t in test], 3)} "
            f"| {_spread([t['loss'] for t in test], 3)} | {sum(runs[0]['steps'].values())} | {_spread(cost, 0)} "
            f"| {_spread([r['seconds'] for r in runs], 0)} | {len(spec['trials']) if tuned else 0} |"
        )
    return "\n".join([*lines, *_extra_lines(plan)])


def _extra_lines(plan: Plan) -> Iterator[str]:
    for spec in plan.extra:
        for file in sorted(plan.results.glob(f"{spec['name']}-0-seed*.json")):
            result = json.loads(file.read_text())
            for name, test in result["test"].items():
                what = f"extra: {spec['name']}, seed {result['seed']}, (theta, {name})"
                steps, cost = sum(result["steps"].values()), _forwards(result)
                yield (
                    f"| {what} | {spec['change']} | {test['accuracy']:.3f} | {test['loss']:.3f} | {steps} | {cost:.0f} "
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
    parser.add_argument("--model", help="directory or hub id of the model")
    parser.add_argument("--data", help="directory with the task's train, validation and test files")
    parser.add_argument("--work", type=Path, default=Path("out/experiments"), help="where unfinished runs live")
    parser.add_argument("--only", choices=("trials", "finals", "extras"), help="one part of the plan")
    parser.add_argument("--rows", nargs="*", help="only these rows, for trials and finals")
    parser.add_argument("--table", action="store_true", help="print what is there and stop")
    parser.add_argument("--smoke", action="store_true", help="the plan's short form; its results are kept apart")
    parser.add_argument("--cost", action="store_true", help="estimate the hours of the full plan from its smoke runs")
    args = parser.parse_args()
    plan = Plan(args.plan, args.smoke or args.cost)
    if args.cost:
        print(cost(plan))
        return
    if args.table:
        print(table(plan))
        return
    if args.model is None:
        parser.error("--model is needed to run")
    parts: dict[str, Callable[[], Iterator[Cell]]] = {
        "trials": lambda: plan.trials(args.rows),
        "finals": lambda: iter(
            sorted((cell for row in args.rows or plan.rows for cell in plan.finals(row)), key=lambda cell: cell.seed)
        ),
        "extras": plan.extras,
    }
    for part in [args.only] if args.only else parts:
        for cell in parts[part]():
            run(plan, cell, args.model, args.data, args.work)
    print(table(plan))


if __name__ == "__main__":
    main()
