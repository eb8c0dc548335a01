"""Evaluate anything that is a model: a run, an export, a PEFT directory, a hub id."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from zofo.config import TaskConfig
from zofo.data import Encoded, encode_all
from zofo.deploy import is_run, load_export, restore
from zofo.errors import InputError
from zofo.objective import OBJECTIVES, LabelHead, Loss
from zofo.scoring import Evaluation, evaluate
from zofo.tasks import load_task

SPLITS = ("train", "dev", "test")


def evaluate_target(
    target: Path,
    task: str | None,
    data: str | None,
    template: str | None,
    split: str,
    adapter: str | None,
    limit: int | None,
) -> tuple[Evaluation, list[Encoded]]:
    """See `zofo.evaluate`. Returns the evaluation and the examples it was made on."""
    if split not in SPLITS:
        raise InputError(f"split: unknown {split!r}; known: {', '.join(SPLITS)}")
    if is_run(target) or (target / "config.yaml").is_file():
        restored = restore(target, adapter)
        cfg, seed = restored.config.task, restored.config.train.seed
        loaded, model = restored.loaded, restored.model
        batch_size = restored.config.train.eval_batch_size
        cfg = TaskConfig(name=task) if task else cfg
    else:
        if "/" in str(target) and not target.exists() and task is None:
            raise InputError(f"{target}: no such directory; a hub id needs --task")
        if task is None:
            raise InputError(f"{target} is no run, so it names no task: give --task")
        if adapter is not None:
            raise InputError(f"{target} is no run, so it has no adapters to choose from: leave out --adapter")
        cfg, seed, batch_size = TaskConfig(name=task), 0, 32
        loaded, model = load_export(target)
    changes = {k: v for k, v in {"data": data, "template": template}.items() if v is not None}
    cfg = dataclasses.replace(cfg, **changes)
    problems = cfg.problems()
    if problems:
        raise InputError("\n".join(f"task.{p}" for p in problems))
    found = load_task(cfg, seed, loaded.tokenizer)
    examples = getattr(found, split)[:limit]
    eos = found.objective == "lm"
    encoded = encode_all(loaded.tokenizer, examples, loaded.max_length, found.objective, eos, for_eval=True)
    head = LabelHead(model.get_base_model() if hasattr(model, "peft_config") else model)
    loss = Loss(model, head, OBJECTIVES[found.objective], loaded.pad_id, loaded.device)
    return evaluate(loss, encoded, found.metric, batch_size), encoded
