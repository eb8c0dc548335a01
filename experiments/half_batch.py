"""Does a step on one half of a batch raise the loss on that half, and on the other half, for ZO and for SGD?

    python -m experiments.half_batch experiments/half_batch_smollm2.yaml --model DIR --data DIR ... [--minutes 60]
    python -m experiments.half_batch experiments/half_batch_smollm2.yaml --table

The claim is Sparse MeZO's (arXiv 2402.15751, figure 2(b) and its rebuttals). A directory of --data holds a folder for
each task. A finished part (a task, a theta, some trials) is its file in results/, and is not done again.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.half_batch_plan import Part, Plan
from experiments.half_batch_trial import Bench, Trial, train
from zofo.config.json_text import dumps
from zofo.zo.direction import Direction
from zofo.zo.keys import derive


class Runner:
    """The parts of one task at one theta: the model is loaded, and trained, once for all of them."""

    def __init__(self, plan: Plan, task: str, theta: str, model: str, data: Path) -> None:
        from zofo.config.resolve import from_dict
        from zofo.train import setup as session

        self.plan, self.spec, how = plan, plan.data["tasks"][task], plan.data["thetas"][theta]
        nested: dict[str, Any] = {"model": {"name": model}, "method": {"name": "mezo"}}
        nested["task"], nested["train"] = {"name": task, "data": str(data)}, {"output_dir": "unused"}
        for key, value in plan.data["shared"].items():
            section, _, name = key.partition(".")
            nested.setdefault(section, {})[name] = value
        self.session = session.build(from_dict(nested))
        self.seed, self.task, self.model = self.session.config.train.seed, task, Path(model).name
        encoded = [e for e in self.session.encoded["train"] if e.size <= self.spec.get("longest", math.inf)]
        random.Random(derive(self.seed, "half-batch/order", task)).shuffle(encoded)
        # At every theta the trials draw from the same rows, which no theta was trained on
        used = max(t["steps"] * t.get("batch_size", 0) for t in plan.data["thetas"].values())
        self.pool, train_examples, size = encoded[used:], encoded[:used], how.get("batch_size", 0)
        batches = [self.batch(train_examples[k * size : (k + 1) * size]) for k in range(how["steps"])]
        loss, point = self.session.problem.loss, self.session.backbone
        self.train_losses = train(point, loss, batches, how["lr"]) if batches else []
        self.digest = point.digest()
        self.bench = Bench(point, loss, sorted({arm.band for arm in plan.arms if arm.band}))

    def batch(self, encoded: list[Any]) -> Any:
        """Sorted by length, so that micro-batches hold little padding."""
        from zofo.data.batch import collate

        return collate(sorted(encoded, key=lambda e: e.size), self.session.loaded.pad_id)

    def trial(self, i: int) -> dict[str, Any]:
        half = self.spec["half"]
        rng = random.Random(derive(self.seed, "half-batch/rows", self.task, i))
        rows = rng.sample(self.pool, 2 * half)
        a, b = self.batch(rows[:half]), self.batch(rows[half:])
        settings = self.session.config.estimator
        z = Direction(derive(self.seed, "half-batch/z", self.task, i), settings.law)
        return {"trial": i, **Trial(self.bench, a, b, z, settings.eps).run(self.plan.arms)}

    def run(self, part: Part) -> None:
        """Raises RuntimeError where finished parts of this theta began elsewhere."""
        from zofo.train import record

        for other in self.plan.found(task=part.task, theta=part.theta):
            if other["sha256"] != self.digest:
                raise RuntimeError(f"{part.name}: theta differs from that of the finished parts; delete those")
        cpu, trials = time.process_time(), [self.trial(i) for i in range(part.start, part.stop)]
        result: dict[str, Any] = {"task": part.task, "theta": part.theta, "model": self.model, "sha256": self.digest}
        result |= {"settings": self.plan.data["shared"], "spec": self.spec, "how": self.plan.data["thetas"][part.theta]}
        result |= {"law": self.session.config.estimator.law, "weights": self.bench.theta.size, "pool": len(self.pool)}
        result |= {"train_losses": self.train_losses, "environment": record.environment(), "trials": trials}
        result |= {"cpu_seconds": round(time.process_time() - cpu, 1)}
        self.plan.results.mkdir(parents=True, exist_ok=True)
        partial = self.plan.file(part).with_suffix(".partial")
        partial.write_text(dumps(result, indent=1, sort_keys=True) + "\n")
        partial.replace(self.plan.file(part))


def run(plan: Plan, model: str, data: Sequence[Path], minutes: float, say: Callable[[str], None] = print) -> None:
    """Every part whose file is not there; none is begun after so many CPU-minutes of this process."""
    runner, cell = None, ("", "")
    for part in plan.parts():
        if plan.file(part).is_file():
            continue
        if time.process_time() > 60 * minutes:
            say(f"stopped before {part.name}: {minutes:g} CPU-minutes are over")
            return
        if cell != (part.task, part.theta):
            runner = None  # the old model goes first
            cell, folders = (part.task, part.theta), [d / part.task for d in data if (d / part.task).exists()]
            if not folders:
                raise FileNotFoundError(f"no folder {part.task} in {', '.join(map(str, data))}")
            runner = Runner(plan, *cell, model, folders[0])
        assert runner is not None
        runner.run(part)
        say(f"{part.name} {time.process_time() / 60:.1f} CPU-minutes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--data", type=Path, nargs="+")
    parser.add_argument("--minutes", type=float, default=60, help="begin no part after so many CPU-minutes")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--by-task", action="store_true", help="with --table: a line for each task")
    args = parser.parse_args()
    plan = Plan(args.plan)
    if args.table:
        from experiments.half_batch_table import tables

        print(tables(plan, args.by_task))
        return
    if args.model is None or args.data is None:
        parser.error("--model and --data are needed")
    run(plan, args.model, args.data, args.minutes, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
