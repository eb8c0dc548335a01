"""Every task on one model: zero-shot, few-shot, and short fine-tunes; one JSON file each, finished ones are skipped.

    python -m experiments.every_task experiments/tasks_smollm2.yaml --model DIR --data DIR [--only evaluate|finetune]
    python -m experiments.every_task experiments/tasks_smollm2.yaml --table

DIR of --data holds a folder for each task, in the hub's columns. The examples are a sample fixed by the seed, so scores
have an interval: the table gives that of a share at 95 % (Wilson), none where the metric is no share.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zofo.config.json_text import dumps
from zofo.config.yaml_reader import read_yaml

SHARES = ("accuracy", "exact_match", "final_number", "last_number", "math_equal", "pass_at_1")


@dataclass(frozen=True)
class Job:
    """One file of results. settings: of the task section for an evaluation, of all sections for a run."""

    name: str
    task: str
    settings: dict[str, Any]
    limit: int = 0

    @property
    def trains(self) -> bool:
        return "method.name" in self.settings


class Plan:
    """evaluate: {task: [examples zero-shot, examples few-shot]} or more of `settings`; finetune: tasks x methods."""

    def __init__(self, path: Path) -> None:
        self.data = read_yaml(path, "plan")
        self.results = Path(__file__).parents[1] / "results" / path.stem

    def jobs(self, only: str | None) -> Iterator[Job]:
        shots, common = self.data["shots"], self.data.get("settings", {})
        for task, limits in self.data["evaluate"].items() if only != "finetune" else ():
            for k, limit in zip((0, shots), limits):
                settings = {"num_fewshot": k, **self.data.get("decoding", {}).get(task, {})}
                yield Job(f"{task}-{k}shot", task, settings, limit)
        for task, changes in self.data["finetune"].items() if only != "evaluate" else ():
            for method, spec in self.data["methods"].items():
                yield Job(f"{task}-{method}", task, {**common, **spec, **changes})

    def file(self, job: Job) -> Path:
        return self.results / f"{job.name}.json"


def run(plan: Plan, job: Job, model: str, data: Path, work: Path) -> None:
    """Evaluate or fine-tune, and write the result."""
    import zofo
    from zofo.train import record

    folder = data / plan.data.get("folders", {}).get(job.task, job.task)
    start, result = time.perf_counter(), {"task": job.task, "model": Path(model).name, "settings": job.settings}
    if job.trains:
        out = work / job.name
        shutil.rmtree(out, ignore_errors=True)
        overrides = [f"{key}={value}" for key, value in job.settings.items() if not key.startswith("method.name")]
        done = zofo.finetune(
            model, job.task, job.settings["method.name"], output_dir=out, overrides=[f"task.data={folder}", *overrides]
        )
        curve = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        keys = ("steps", "dev", "test", "deployed", "seconds", "peak_bytes", "examples", "best_step")
        result |= {key: done.info[key] for key in keys}
        result["dev_curve"] = [{k: v for k, v in line.items() if k != "event"} for line in curve if "candidate" in line]
    else:
        output = work / job.name
        values = zofo.evaluate(
            model,
            task=job.task,
            data=str(folder),
            limit=job.limit,
            batch_size=plan.data.get("batch_size", 8),
            output=output,
            **job.settings,
        )
        result |= {"values": values}
        if (output / "report.json").is_file():
            result["report"] = json.loads((output / "report.json").read_text())
    result |= {"wall_seconds": round(time.perf_counter() - start, 1), "environment": record.environment()}
    plan.results.mkdir(parents=True, exist_ok=True)
    plan.file(job).write_text(dumps(result, indent=1, sort_keys=True) + "\n")


def table(plan: Plan) -> str:
    """Markdown: a line a task, zero-shot beside few-shot; then the fine-tunes."""
    shots = plan.data["shots"]
    lines = [f"| task | metric | chance | zero-shot | {shots}-shot |", "|---|---|---|---|---|"]
    for task in plan.data["evaluate"]:
        results = {k: _load(plan, f"{task}-{k}shot") for k in (0, shots)}
        done = next((f for f in results.values() if f), None)
        for metric in [name for name in done["values"] if name not in ("loss", "n")] if done else ():
            chance = plan.data.get("chance", {}).get(task, "") if metric == "accuracy" else ""
            cells = [_score(f["values"], metric) if f else "not run" for f in results.values()]
            lines.append(f"| {task} | {metric} | {chance} | {' | '.join(cells)} |")
    lines += ["", "| task | method | before | test | loss before | test loss | steps | seconds |", "|" + "---|" * 8]
    for job in plan.jobs("finetune"):
        if result := _load(plan, job.name):
            start, end = result["dev_curve"][0], result["test"][result["deployed"]]
            metric = next((m for m in end if m not in ("loss", "n")), "loss")
            base = _load(plan, f"{job.task}-before")
            before = base["test"][base["deployed"]] if base else {}
            lines.append(
                f"| {job.task} | {job.name.removeprefix(job.task + '-')} | {before.get(metric, math.nan):.3f} | "
                f"{_score(end, metric)} | {before.get('loss', start['loss']):.3f} | {end['loss']:.3f} | "
                f"{sum(result['steps'].values())} | {result['seconds']:.0f} |"
            )
    return "\n".join(lines)


def _load(plan: Plan, name: str) -> dict[str, Any] | None:
    path = plan.results / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def _score(values: dict[str, float], metric: str) -> str:
    value, n = values[metric], int(values["n"])
    if metric not in SHARES:
        return f"{value:.3f} (n {n})"
    low, high = wilson(value, n)
    return f"{value:.3f} ({low:.2f} to {high:.2f}, n {n})"


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share of n (Wilson 1927)."""
    middle, width = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (middle - width) / (1 + z * z / n), (middle + width) / (1 + z * z / n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("out/tasks"))
    parser.add_argument("--only", choices=("evaluate", "finetune"))
    parser.add_argument("--tasks", nargs="*", help="these tasks alone")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    plan = Plan(args.plan)
    if args.table:
        print(table(plan))
        return
    if args.model is None or args.data is None:
        parser.error("--model and --data are needed")
    for job in plan.jobs(args.only):
        if not plan.file(job).is_file() and (not args.tasks or job.task in args.tasks):
            print(f"=== {job.name}", flush=True)
            run(plan, job, args.model, args.data, args.work)


if __name__ == "__main__":
    main()
