"""Meta-training and its baselines on the target tasks of two settings; one JSON file a row, finished ones are skipped.

    python -m experiments.meta_training --model DIR --data DIR --work DIR [--smoke] [--only SETTING/ROW]
    python -m experiments.meta_training --smoke --table

DIR of --data holds a folder for each task (docs/meta_data.md). A row is a training run and its meta-tests; one that was
cut goes on from its last part. The table has the form of Table 4 of Bilevel ZOFO (arXiv 2502.03604), the cost of the
full plan beside it: the smoke's CPU seconds, times the steps and the examples that the full plan has more.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zofo.config.json_text import dumps
from zofo.config.yaml_reader import read_yaml

HERE = Path(__file__).parent
KEPT = (
    "steps",
    "best_step",
    "forwards",
    "backward_passes",
    "examples_seen",
    "tokens",
    "seconds",
    "seconds_per_step",
    "peak_bytes",
    "examples",
    "environment",
)


class Plan:
    """rows: {name: {train: settings or none, tests: [{overrides, lines: {way: its line in the table}}]}}; `full` and
    `smoke` say how long each trains and on how much each is tested."""

    def __init__(self, smoke: bool, path: Path = HERE / "meta_smollm2.yaml") -> None:
        self.data = read_yaml(path, "plan")
        self.size = self.data["smoke" if smoke else "full"]
        self.smaller = self.size.get("rows", {})  # {row: settings of its training that this size has otherwise}
        self.results = HERE.parent / "results" / (path.stem + ("_smoke" if smoke else ""))

    def training(self, row: str) -> dict[str, Any]:
        return {**self.size["train"], **self.data["rows"][row]["train"], **self.smaller.get(row, {})}

    def jobs(self) -> Iterator[tuple[str, str]]:
        for setting in self.data["settings"]:
            for row in self.data["rows"]:
                yield setting, row

    def file(self, setting: str, row: str) -> Path:
        return self.results / f"{setting}-{row}.json"

    def load(self, setting: str, row: str) -> dict[str, Any] | None:
        path = self.file(setting, row)
        return json.loads(path.read_text()) if path.is_file() else None


def run(plan: Plan, setting: str, row: str, model: str, data: str, work: Path) -> None:
    """Train where the row trains, then its meta-tests."""
    from zofo import meta_test

    spec, out, name = plan.data["rows"][row], work / f"{setting}-{row}", str(HERE / "meta_settings" / f"{setting}.yaml")
    print(f"=== {setting}, {row}", flush=True)
    start, target, results = time.process_time(), model, dict[str, Any](tests=[])
    if "train" in spec:
        target, results["train"] = str(out / "run"), _train(plan, row, model, name, data, out / "run")
        results["train_cpu_seconds"] = time.process_time() - start
    for number, test in enumerate(spec["tests"]):
        begun, folder = time.process_time(), out / f"test-{number}"
        result = meta_test(
            target,
            task=name if target == model else None,
            data=data,
            ways=list(test["lines"]),
            output=folder,
            overrides=test.get("overrides", ()),
            **plan.size["test"],
        )
        fields = {
            key: result[key] for key in ("ways", "held_out", "template", "scoring", "k", "each", "steps", "rates")
        }
        results["tests"].append({**fields, "lines": test["lines"], "cpu_seconds": time.process_time() - begun})
    results["cpu_seconds"] = time.process_time() - start
    plan.results.mkdir(parents=True, exist_ok=True)
    plan.file(setting, row).write_text(dumps(results, indent=1, sort_keys=True) + "\n")
    shutil.rmtree(out)


def _train(plan: Plan, row: str, model: str, name: str, data: str, out: Path) -> dict[str, Any]:
    """The run's numbers; it is resumed, or left as it is where it has finished."""
    from zofo.api import finetune
    from zofo.config.resolve import from_dict

    if (out / "run.json").is_file():
        info = json.loads((out / "run.json").read_text())
        if info.get("outcome", {}).get("kind") != "failed":
            return _kept(info)
    nested: dict[str, Any] = {"model": {"name": model, **plan.data["model"]}, "task": {"name": name, "data": data}}
    for key, value in plan.training(row).items():
        section, _, field = key.partition(".")
        nested.setdefault(section, {})[field] = value
    resume = "latest" if list(out.glob("checkpoint-*")) else None
    train_settings = {
        "output_dir": str(out),
        "max_steps": plan.size["steps"][row],
        "resume": resume,
        "overwrite": resume is None,
    }
    nested["train"] = {**nested.get("train", {}), **train_settings}
    return _kept(finetune.train(from_dict(nested)).info)


def _kept(info: dict[str, Any]) -> dict[str, Any]:
    return {key: info[key] for key in KEPT}


def table(plan: Plan) -> str:
    """Rows and columns as in Table 4: mean over the targets and, in brackets, the deviation over the seeds."""
    from zofo.api.metatest.results import percent, with_sd

    settings = plan.data["settings"]
    lines = [
        f"| method | {' | '.join(s.replace('_to_', ' -> ') for s in settings)} | worst seed | CPU seconds |",
        "|---" * (len(settings) + 3) + "|",
    ]
    for row, spec in plan.data["rows"].items():
        runs = [plan.load(setting, row) for setting in settings]
        seconds = ", ".join("-" if r is None else f"{r['cpu_seconds']:.0f}" for r in runs)
        for number, test in enumerate(spec["tests"]):
            for way, label in test["lines"].items():
                summaries = [r and r["tests"][number]["ways"][way]["all"] for r in runs]
                worst = ", ".join(percent(o["worst"]) if o and o["sd"] is not None else "-" for o in summaries)
                cells = " | ".join(with_sd(o) if o else "-" for o in summaries)
                lines.append(f"| {label} | {cells} | {worst} | {seconds} |")
                seconds = ""
    return "\n".join(lines)


def cost(plan: Plan) -> str:
    """Hours of the full plan on the machine of the smoke runs, on one core, and the smoke's own CPU seconds."""
    full, spent, extra, train, test = plan.data["full"], 0.0, 0.0, 0.0, 0.0
    for setting, row in plan.jobs():
        if (result := plan.load(setting, row)) is None:
            return "the smoke is not complete"
        spent += 0 if "extra" in plan.data["rows"][row] else result["cpu_seconds"]
        extra += result["cpu_seconds"] if "extra" in plan.data["rows"][row] else 0
        if "train" in result:
            larger = plan.data["rows"][row]["train"]["train.batch_size"] / plan.training(row)["train.batch_size"]
            train += result["train"]["seconds_per_step"] * full["steps"][row] * larger
        share = full["test"]["test_examples"] / plan.data["smoke"]["test"]["test_examples"]
        test += share * sum(meta_test["cpu_seconds"] for meta_test in result["tests"])
    return (
        f"{spent:.0f} CPU seconds in all, and {extra:.0f} of the extra rows. The full plan on these tasks, this model "
        f"and one core: "
        f"{train / 3600:.0f} hours of training, at most {test / 3600:.0f} of meta-tests."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--work", type=Path, default=Path("out/meta"))
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--only", help="SETTING/ROW")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    plan = Plan(args.smoke)
    if args.table:
        print(table(plan), cost(plan), sep="\n\n")
        return
    if not (args.model and args.data):
        parser.error("give --model and --data")
    for setting, row in plan.jobs():
        if plan.load(setting, row) is None and args.only in (None, f"{setting}/{row}"):
            run(plan, setting, row, args.model, args.data, args.work)


if __name__ == "__main__":
    main()
