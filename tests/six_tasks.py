"""Meta-training on six small tasks, one of them held out, and two targets: their files, sessions and short runs."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.setting_files import JsonRow, as_task, write_setting
from zofo.api.configure import resolve
from zofo.api.finetune import train
from zofo.data.tokenization import Encoded
from zofo.train.setup import Session, build

# names that begin like others, and those with what file names and torch's names are split at
TRAINED = ("trec", "trec-finegrained", "notes:home", "v1.0-mail", "yes_no")
HELD_OUT = "riddles"
TARGETS = ("weather", "moods")
LABELS = {
    "trec": ["number", "person"],
    "trec-finegrained": ["number", "date", "city"],
    "notes:home": ["kitchen", "garden"],
    "notes.a": ["x", "y"],
    "v1.0-mail": ["open", "closed", "lost"],
    "yes_no": ["yes", "no"],
    "riddles": ["one", "two"],
    "weather": ["rain", "sun"],
    "moods": ["good", "bad", "calm"],
}
SIZES: dict[str, int] = dict(zip(TRAINED, (12, 9, 15, 24, 10)))  # train rows; of the other tasks there are 9
WORDS = ["film", "dog", "great", "dull", "plot", "story", "warm", "one", "two", "word"]


def rows_of(task: str, n: int) -> list[JsonRow]:
    draw, options, rows = random.Random(task), LABELS[task], []
    for i in range(n):
        text = f"{task} {i}: " + " ".join(draw.choice(WORDS) for _ in range(2 + i % 4))
        rows.append({"task": task, "input": text, "output": options[i % len(options)], "options": options})
    return rows


def make_tasks(root: Path, trained: Sequence[str] = TRAINED, sizes: Mapping[str, int] = SIZES) -> Path:
    """The setting's file, beside data/ with a directory of each task."""
    files = {f"{task}/train.jsonl": rows_of(task, sizes.get(task, 9)) for task in (*trained, HELD_OUT, *TARGETS)}
    files |= {f"{task}/test.jsonl": rows_of(task, 16)[9:] for task in TARGETS}
    content = {"train": [*trained, HELD_OUT], "target": list(TARGETS), "held_out": [HELD_OUT]}
    return write_setting(root, files, content)


META: dict[str, Any] = {
    "name": "meta-bilevel-zofo",
    "inner_steps": 2,
    "tasks_per_step": 3,
    "lr_s": 1e-2,
    "lr_theta": 1e-5,
}


def sections(model: Path, setting: Path, out: Path, method: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A configuration. more: other sections, and what differs in `task` and `train`; none of it is changed."""
    more = copy.deepcopy(more)
    task = {"name": str(setting), "data": as_task(setting)["data"], "test_examples": 5, "dev_examples": 6}
    task |= more.pop("task", {})
    lengths = {"output_dir": str(out), "max_steps": 12, "eval_steps": 6, "save_steps": 6, "threads": 1}
    lengths |= more.pop("train", {})
    return {"model": str(model), "task": task, "method": dict(method), "train": lengths, **more}


def session_of(model: Path, setting: Path, method: dict[str, Any], **more: Any) -> Session:
    return build(resolve(**sections(model, setting, Path("unused"), method, **more)))


def meta_session(model: Path, setting: Path, method: dict[str, Any] | None = None, **more: Any) -> Session:
    """method: what differs from META."""
    return session_of(model, setting, {**META, **(method or {})}, **more)


def train_on(model: Path, setting: Path, out: Path, method: dict[str, Any], callbacks: Any = (), **more: Any) -> Any:
    return train(resolve(**sections(model, setting, out, method, **more)), callbacks=callbacks)


def sampled(session: Session, k: int) -> list[str]:
    """The tasks that meta-training samples for iteration k."""
    method: Any = session.method
    return method.sampled(k)


def watch_batches(session: Session) -> dict[str, list[list[Encoded]]]:
    """The batches of each stream, as they are drawn."""
    seen: dict[str, list[list[Encoded]]] = {name: [] for name in session.streams}

    class Watched:
        def __init__(self, name: str, stream: Any) -> None:
            self.name, self.stream = name, stream

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> Any:
            batch = next(self.stream)
            seen[self.name].append(list(batch.source))
            return batch

    watched: dict[str, Any] = {name: Watched(name, stream) for name, stream in session.streams.items()}
    for target, name in (("data", "train"), ("data_f", "f"), ("data_p", "p")):
        if hasattr(session.method, target):
            setattr(session.method, target, watched[name])
    return seen
