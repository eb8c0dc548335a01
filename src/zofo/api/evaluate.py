"""Evaluate anything that is a model: a run, an export, a PEFT directory, a hub id."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zofo.api.configure import named_files
from zofo.api.restore import MOVED, Given, is_run
from zofo.api.targets import Opened, open_target, recorded
from zofo.config.instantiate import make_method
from zofo.config.layers import Layer
from zofo.config.resolve import Config
from zofo.config.sections import TaskConfig
from zofo.config.typed import build
from zofo.data import TaskData, load_task
from zofo.data.checks import check_scoring, check_words
from zofo.data.files import BadRows
from zofo.data.loader import shorter
from zofo.data.preview import few, unused
from zofo.data.task import answers_of
from zofo.data.tokenization import Encoded, tokenize_all
from zofo.errors import InputError
from zofo.eval.evaluator import make_evaluator
from zofo.eval.likelihood import Evaluation
from zofo.models.sealed import check_export
from zofo.models.tree_probe import share_prompts
from zofo.train.inputs import check_inputs, examples_digest
from zofo.train.progress import counter

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
    if task is None and not (is_run(target) or (target / "config.yaml").is_file() or recorded(target)):
        raise _without_a_task(target)
    if task is not None:
        task_config(None, task, changes, overrides)  # what is wrong with it is said before a model is loaded
    opened = open_target(target, adapter, given)
    loaded, config = opened.loaded, opened.config
    cfg = task_config(config, task, changes, overrides)
    if config:
        seed = config.train.seed if seed is None else seed
        batch_size = batch_size or config.train.eval_batch_size
    seed, batch_size = seed or 0, batch_size or 32
    same = config is not None and (cfg.name, cfg.data) == (config.task.name, config.task.data)
    answers = answers_of(config.task, _labels(opened)) if config else None
    data = load_task(cfg, seed, loaded.tokenizer, None if same else split, answers=answers)
    if same and task is None and changes.get("data") is None:
        _check_same_rows(opened, data, cfg, seed, split)
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
        for line in (*unused(data, cfg, (split,)), *few(data, cfg, (split,))) if limit is None else ():
            say(line)
        say(f"{data.name}, {split}: {rows} examples, {cfg.num_fewshot}-shot, template {cfg.template}{how}")
        return evaluator(encoded, progress).checked(f"task {data.name}, {split}"), encoded, facts


def _without_a_task(target: Path) -> InputError:
    """What to say where no task is known. Raises InputError for an export that would name one, were it whole."""
    if not target.exists():
        return InputError(f"{target}: no such directory; a model on the hub needs --task")
    check_export(target)
    return InputError(f"{target} is no run, so it names no task: give --task")


def _check_same_rows(opened: Opened, data: TaskData, cfg: TaskConfig, seed: int, split: str) -> None:
    """Raises InputError where the run's own task has other rows in this split than it had then."""
    config, then = opened.config, opened.inputs.get("examples", {})
    assert config is not None
    demonstrates = split == "train" and make_method(config).demonstrates
    if split not in then or demonstrates:
        return
    if (cfg, seed) != (config.task, config.train.seed):  # other prompts: the rows are compared in the run's own
        data = load_task(config.task, config.train.seed, opened.loaded.tokenizer)
    now = {"examples": {split: examples_digest(getattr(data, split))}}
    check_inputs(opened.inputs, now, config.task.data or config.task.name, MOVED)


def _labels(opened: Opened) -> list[str]:
    """What the run can answer, of which nothing may be lost where another file lacks it; []: its data says so."""
    labels = opened.info.get("labels")
    return [str(label) for label in labels] if isinstance(labels, list) else []


def task_config(
    config: Config | None, task: str | None, changes: Mapping[str, Any], overrides: Sequence[str]
) -> TaskConfig:
    """The run's task section, or another task in the run's chat, with the changes. InputError with all faults."""
    base: dict[str, Any] = {"name": task}
    if config and task is None:
        base = dataclasses.asdict(config.task)
    elif config:
        base |= {key: getattr(config.task, key) for key in ("apply_chat_template", "system")}
    errors: list[str] = []
    layer = Layer("caller").add({"task": base}, errors)
    layer.add({"task": {key: value for key, value in changes.items() if value is not None}}, errors)
    layer.add_overrides(overrides, errors)
    errors += [f"{key}: an evaluation takes task.key=value alone" for key in layer.unknown]
    errors += [
        f"{section}: an evaluation takes task.key=value alone" for section in sorted(layer.sections.keys() - {"task"})
    ]
    cfg = build("task.", TaskConfig, layer.sections["task"], errors, named_files)
    if errors or cfg is None:
        other = "" if task or config is None else "; --task names other data"
        raise InputError("\n".join(f"{error}{other}" for error in errors))
    return cfg
