"""Evaluate anything that is a model: a run, an export, a PEFT directory, a hub id."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from zofo.config import TaskConfig
from zofo.data import Encoded, encode_all
from zofo.deploy import is_run, open_target, recorded
from zofo.errors import InputError
from zofo.head import LabelHead
from zofo.objective import OBJECTIVES, Loss
from zofo.packing import share_prompts
from zofo.scoring import Evaluation, evaluate
from zofo.tasks import load_task

SPLITS = ("train", "dev", "test")


def evaluate_target(
    target: Path, task: str | None, changes: dict[str, Any], split: str, adapter: str | None, limit: int | None
) -> tuple[Evaluation, list[Encoded]]:
    """See `zofo.evaluate`. changes: fields of the task section; None leaves one as it is.

    Returns the evaluation and the examples it was made on.
    """
    if split not in SPLITS:
        raise InputError(f"split: unknown {split!r}; known: {', '.join(SPLITS)}")
    if task is None and not (is_run(target) or (target / "config.yaml").is_file() or recorded(target)):
        if not target.exists():
            raise InputError(f"{target}: no such directory; a model on the hub needs --task")
        raise InputError(f"{target} is no run, so it names no task: give --task")
    loaded, model, config = open_target(target, adapter)
    seed, batch_size = (config.train.seed, config.train.eval_batch_size) if config else (0, 32)
    cfg = config.task if config else TaskConfig(name=str(task))
    if config and task is not None:  # another task in the run's chat
        cfg = TaskConfig(name=task, apply_chat_template=cfg.apply_chat_template, system=cfg.system)
    cfg = dataclasses.replace(cfg, **{key: value for key, value in changes.items() if value is not None})
    problems = [*cfg.problems(), *cfg.files()]
    if problems:
        other = "" if task else "; --task names other data"
        raise InputError("\n".join(f"task.{p}{other}" for p in problems))
    found = load_task(cfg, seed, loaded.tokenizer)
    examples = getattr(found, split)[:limit]
    eos = found.objective == "lm"
    encoded = encode_all(loaded.tokenizer, examples, loaded.max_length, found.objective, eos, True, split)
    head = LabelHead(model.get_base_model() if hasattr(model, "get_base_model") else model)
    loss = Loss(model, head, OBJECTIVES[found.objective], loaded.pad_id, loaded.device)
    encoded = share_prompts(loss, {split: encoded}, loaded.max_length)[split]
    return evaluate(loss, encoded, found.metric, batch_size), encoded
