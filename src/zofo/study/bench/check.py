"""Whether an entry may stand beside the others: what the schema cannot say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from zofo.study.bench.entry import Entry, Task
from zofo.study.bench.plan import BASELINE, common, digest

OVER = 1.05  # forwards beyond the common ones: a last step is whole


def faults(entry: Entry, others: Mapping[str, Entry]) -> Iterator[str]:
    """A line for each. others: by name, those of the leaderboard, the baseline among them."""
    plan, base = common(), others.get(BASELINE)
    if entry.common != digest():
        yield "common: was run by another common plan than this version's"
    shared = plan["shared"]
    budget = 2 * shared["train.max_steps"]
    if missing := [task for task in plan["tasks"] if task not in entry.tasks]:
        yield f"tasks: no {', '.join(missing)}"
    if base is not None and entry.base_sha256 != base.base_sha256:
        yield f"base_sha256: other weights than those of {BASELINE}'s entry"
    for name, task in entry.tasks.items():
        if name not in plan["tasks"]:
            yield f"tasks.{name}: is none of the common plan's"
            continue
        yield from (f"tasks.{name}.{fault}" for fault in _task(task, plan))
        for key, value in shared.items():
            if not key.endswith("_steps") and task.settings.get(key) != value:
                yield f"tasks.{name}.settings: {key} is {task.settings.get(key)!r}, and {value!r} for all"
        theirs = {} if base is None or name not in base.tasks else {run.seed: run.rows for run in base.tasks[name].runs}
        for run in task.runs:
            if run.dev[-1].forwards > OVER * budget:
                yield f"tasks.{name}: seed {run.seed} made {run.dev[-1].forwards:.0f} forwards, and all have {budget}"
            if run.seed in theirs and theirs[run.seed] != run.rows:
                yield f"tasks.{name}: seed {run.seed} has other rows than {BASELINE}'s entry"
            if [point.forwards for point in run.dev] != sorted(point.forwards for point in run.dev):
                yield f"tasks.{name}: seed {run.seed}: evaluations are not in their order"


def _task(task: Task, plan: Mapping[str, Any]) -> Iterator[str]:
    if len(task.trials) > plan["trials"]:
        yield f"trials: {len(task.trials)}, and each contender has {plan['trials']} at most"
    if sorted(run.seed for run in task.runs) != sorted(plan["seeds"]):
        yield f"runs: seeds {sorted(run.seed for run in task.runs)}, and all have {plan['seeds']}"
    if task.chosen >= len(task.trials):
        yield f"chosen: {task.chosen} is no number of a trial"
        return
    losses = [math.inf if trial.dev_loss is None else trial.dev_loss for trial in task.trials]
    if len(losses) > 1 and losses[task.chosen] > min(losses):
        yield f"chosen: trial {task.chosen} has dev loss {losses[task.chosen]:.4f}, and the best {min(losses):.4f}"
    for key, value in task.trials[task.chosen].set.items():
        if task.settings.get(key) != value:
            yield f"settings: {key} is not that of the chosen trial"
