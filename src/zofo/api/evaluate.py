"""Evaluate anything that is a model: a run, an export, a PEFT directory, a hub id."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zofo.api.configure import named_files
from zofo.api.restore import Given, with_given
from zofo.api.scored_rows import load_rows
from zofo.api.states import is_state
from zofo.api.targets import open_target, recorded, refuse_half_written
from zofo.config.layers import Layer
from zofo.config.resolve import Config
from zofo.config.sections import TaskConfig, exists, field_of_rows, kind_of_task
from zofo.config.typed import build
from zofo.data.checks import check_scoring, check_words
from zofo.data.files import BadRows
from zofo.data.heads import check_rows
from zofo.data.loader import shorter
from zofo.data.preview import few, unused
from zofo.data.tokenization import Encoded, tokenize_all
from zofo.errors import InputError, printable, unheard
from zofo.eval.evaluator import make_evaluator
from zofo.eval.likelihood import Evaluation
from zofo.models.sealed import check_export
from zofo.models.tree_probe import share_prompts
from zofo.train.progress import counter
from zofo.train.run_dir import RunDir

SPLITS = ("train", "dev", "test")


def evaluate_target(
    target: Path,
    task: str | None,
    changes: Mapping[str, Any],
    overrides: Sequence[str] = (),
    split: str = "test",
    adapter: str | None = None,
    limit: int | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    given: Given | None = None,
) -> tuple[Evaluation, list[Encoded], dict[str, Any]]:
    """See `zofo.evaluate`. changes: fields of the task section; None leaves one as it is.

    Returns the evaluation, the examples it was made on, and what it was: task, template, scoring, seed, ...
    """
    if split not in SPLITS:
        raise InputError(f"split: unknown {split!r}; known: {', '.join(SPLITS)}")
    if task is None and not (is_state(target) or recorded(target)):
        raise _without_a_task(target)
    _check_sections(target, task, changes, overrides, given or {}, seed, split)
    opened = open_target(target, adapter, given)
    loaded, config = opened.loaded, opened.config
    cfg = task_config(config, task, changes, overrides)
    if config:
        seed = config.train.seed if seed is None else seed
        batch_size = batch_size or config.train.eval_batch_size
    seed, batch_size = seed or 0, batch_size or 32
    data = load_rows(opened, cfg, task is not None, seed, split)
    loaded.max_length = shorter(loaded.max_length, data.max_length)
    examples = getattr(data, split)[:limit]
    if not examples:
        raise InputError(f"task {data.name}: no {split} examples")
    bad = BadRows(cfg.on_bad_row == "skip")
    encoded = tokenize_all(loaded.tokenizer, examples, loaded.max_length, data.encodes, data.ends, True, split, bad)
    bad.check(f"{data.name} ({split})", len(examples), 0)
    examples = [each.example for each in encoded]
    check_words(encoded, loaded.beyond)
    check_scoring(examples, data.scoring, loaded.tokenizer, loaded.max_length, loaded.beyond)
    scorer = loaded.scorer(opened.model)
    encoded = share_prompts(scorer, {split: encoded}, loaded.max_length)[split]
    evaluator = make_evaluator(scorer, data, loaded, batch_size, seed, cfg.run_generated_code)
    if data.kind == "generation":
        evaluator.prepare(examples)
    facts = {"model": str(target), "adapter": adapter, "task": data.name, "task_version": data.version, "split": split}
    facts |= {"bad_rows": {**data.bad_rows, **bad.say(data.name)}}
    facts |= {key: getattr(cfg, key) for key in ("template", "num_fewshot", "scoring")} | {"seed": seed}
    how = f", {cfg.scoring} scores" if data.kind == "options" else ""
    rows = f"{len(encoded)} of {len(getattr(data, split))}" if limit else f"{len(encoded)}"
    with counter(f"evaluating {data.name} ({split})", len(encoded)) as (say, progress):
        for line in (*unused(data, cfg, (split,)), *few(data, cfg, (split,), trains=False)) if limit is None else ():
            say(line)
        say(f"{data.name}, {split}: {rows} examples, {cfg.num_fewshot}-shot, template {cfg.template}{how}")
        return evaluator(encoded, progress).checked(f"task {data.name}, {split}"), encoded, facts


def _check_sections(
    target: Path,
    task: str | None,
    changes: Mapping[str, Any],
    overrides: Sequence[str],
    given: Given,
    seed: int | None,
    split: str,
) -> None:
    """Before a model is loaded: the task, and of a run the place of its model. Raises InputError with all faults."""
    config = None
    if is_state(target):
        config = RunDir(target if (target / "config.yaml").is_file() else target.parent).read_config()
    elif task is None:
        config = recorded(target)
    faults = []
    try:
        if config is not None and is_state(target):
            with_given(config.model, given)
    except InputError as error:
        faults.append(str(error))
    try:
        cfg = task_config(config if task is None else None, task, changes, overrides)
        if task is not None and not is_state(target) and recorded(target) is None:  # else the run's labels decide
            with unheard():
                check_rows(cfg, seed or 0, split)
    except InputError as error:
        faults.append(str(error))
    if faults:
        raise InputError("\n".join(faults))


def _without_a_task(target: Path) -> InputError:
    """What to say where no task is known. Raises InputError for an export that would name one, were it whole."""
    refuse_half_written(target)
    if not target.exists():
        return InputError(f"{target}: no such directory; a model on the hub needs --task")
    check_export(target)
    return InputError(f"{target} is no run, so it names no task: give --task")


def task_config(
    config: Config | None,
    task: str | None,
    changes: Mapping[str, Any],
    overrides: Sequence[str],
    reads: bool = True,
) -> TaskConfig:
    """The run's task section, or another task in the run's chat, with the changes. Of a run on a file of one's own
    `data` is the file's place now. reads: whether the task's rows must be there. Raises InputError
    with all faults."""
    base: dict[str, Any] = {"name": task}
    if config and task is None:
        base = dataclasses.asdict(config.task)
    elif config:
        base |= {key: getattr(config.task, key) for key in ("apply_chat_template", "system")}
    errors: list[str] = []
    layer = Layer("caller").add({"task": base}, errors)
    layer.add({"task": {key: value for key, value in changes.items() if value is not None}}, errors)
    layer.add_overrides(overrides, errors)
    place, gone = layer.sections["task"].get("data"), False
    if config and task is None and place and place.value is not None and field_of_rows(config.task.name) == "name":
        gone = isinstance(place.value, str) and not exists(place.value)
        layer.add({"task": {"name": place.value, "data": None}}, errors)
    cfg = build("task.", TaskConfig, layer.sections["task"], errors, named_files if reads and not gone else None)
    if gone and place is not None:
        errors.append(f"task.data: no such file or directory: {printable(str(place.value), 300)}")
    if errors or cfg is None:
        kind = kind_of_task(config.task.name) if config is not None else "known"
        option = {"rows": "--data FILE", "file": "task.name=FILE"}.get(kind, "--data DIR")
        fix = f"; give where it is as {option}, or other data with --task"
        absent = ("task.name: no such", "task.data: no such")
        fix = fix if config is not None and task is None and not gone else ""
        lines = [f"{e}{fix}" if e.startswith(absent) else e for e in errors]
        raise InputError("\n".join(lines))
    return cfg
