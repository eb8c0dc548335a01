"""Evaluate anything that is a model: a run, an export, a PEFT directory, a hub id."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zofo.api.configure import named_files
from zofo.api.restore import Given, with_given
from zofo.api.scored_rows import load_rows
from zofo.api.states import is_state
from zofo.api.targets import Opened, config_of, open_target, recorded, refuse_half_written
from zofo.config.layers import Layer
from zofo.config.places import somewhere_else
from zofo.config.resolve import Config
from zofo.config.reward_name import reward_name
from zofo.config.sections import SPLIT_FIELDS, ModelConfig, TaskConfig, exists, kind_of_task
from zofo.config.task_rows import field_of_rows, moved, names_files
from zofo.config.typed import build
from zofo.data.checks import check_scoring, check_words
from zofo.data.example import TaskData
from zofo.data.files import BadRows
from zofo.data.heads import check_rows
from zofo.data.loader import shorter
from zofo.data.preview import few, unused
from zofo.data.rewards import Reward, load_reward
from zofo.data.tokenization import Encoded, tokenize_all
from zofo.errors import InputError, printable, unheard
from zofo.eval.confusion import confusion
from zofo.eval.evaluator import make_evaluator
from zofo.eval.likelihood import Evaluation
from zofo.models.backbone import Loaded
from zofo.models.sealed import check_export
from zofo.models.tree_probe import share_prompts
from zofo.train.agreement import same_start, sum_of
from zofo.train.inputs import examples_digest, other_reward
from zofo.train.progress import counter
from zofo.zo.ranks import ALONE, Ranks

log = logging.getLogger("zofo")
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
    metric: Callable[..., Any] | None = None,
    ranks: Ranks = ALONE,
) -> tuple[Evaluation, list[Encoded], dict[str, Any]]:
    """See `zofo.evaluate`. changes: fields of the task section; None leaves one as it is. metric: a reward, where it is
    a function. ranks: those that share the examples.

    Returns the evaluation, the examples it was made on, and what it was: task, template, scoring, seed, ...
    """
    if split not in SPLITS:
        raise InputError(f"split: unknown {split!r}; known: {', '.join(SPLITS)}")
    if task is None and names_files(changes, overrides):
        task = ""  # files of the splits are other rows, as --task FILE is
    if task is None and not (is_state(target) or recorded(target)):
        raise _without_a_task(target)
    reward = _check_sections(target, task, changes, overrides, given or {}, seed, split, metric)
    opened = open_target(target, adapter, given, ranks)
    loaded, config = opened.loaded, opened.config
    cfg = task_config(config, task, changes, overrides)
    if config:
        seed = config.train.seed if seed is None else seed
        batch_size = batch_size or config.train.eval_batch_size
    seed, batch_size = seed or 0, batch_size or 32
    data = load_rows(opened, cfg, task is not None, seed, split)
    reward = None if reward is None else _fitted(reward, data, opened, target)
    loaded.max_length = shorter(loaded.max_length, data.max_length)
    bad = BadRows(cfg.on_bad_row == "skip")
    encoded = _encoded(loaded, data, split, limit, bad)
    scorer = loaded.scorer(opened.model)
    if not ranks.alone:
        asked = {"scoring": cfg.scoring, "metric": cfg.metric, "generate": data.decoding.max_new_tokens}
        _same_asked(ranks, opened, encoded, asked | {"seed": seed, "batch_size": batch_size})
    encoded = share_prompts(scorer, {split: encoded}, loaded.max_length, ranks.every)[split]
    how_run = (cfg.run_generated_code, reward)
    evaluator = make_evaluator(scorer, data, loaded, batch_size, seed, *how_run, ranks=ranks)
    if data.kind == "generation":
        evaluator.prepare([each.example for each in encoded])
    facts = {"model": str(target), "adapter": adapter, "task": data.name, "task_version": data.version, "split": split}
    facts |= {"bad_rows": {**data.bad_rows, **bad.say(data.name)}}
    facts |= {key: getattr(cfg, key) for key in ("template", "num_fewshot", "scoring", "loss_on")} | {"seed": seed}
    how = f", {cfg.scoring} scores" if data.kind == "options" else ""
    rows = f"{len(encoded)} of {len(getattr(data, split))}" if limit else f"{len(encoded)}"
    with counter(f"evaluating {data.name} ({split})", len(encoded), silent=not ranks.leads) as (say, progress):
        for line in (*unused(data, cfg, (split,)), *few(data, cfg, (split,), trains=False)) if limit is None else ():
            say(line)
        say(f"{data.name}, {split}: {rows} examples, {cfg.num_fewshot}-shot, template {cfg.template}{how}")
        evaluation = evaluator(encoded, progress).checked(f"task {data.name}, {split}")
        for line in confusion(evaluation):
            say(line)
    return evaluation, encoded, facts


def _same_asked(ranks: Ranks, opened: Opened, encoded: Sequence[Encoded], asked: Mapping[str, Any]) -> None:
    """Raises InputError, on all, where the ranks do not evaluate the same thing."""
    facts = {"asked": {**asked, "device": opened.loaded.device.type}, "model": sum_of(opened.model, ranks.shards)}
    same_start(ranks, {**facts, "examples": examples_digest([each.example for each in encoded])})


def _encoded(loaded: Loaded, data: TaskData, split: str, limit: int | None, bad: BadRows) -> list[Encoded]:
    """The split's examples as the model reads them. Raises InputError for none, and for some that it cannot score."""
    examples = getattr(data, split)[:limit]
    if not examples:
        raise InputError(f"task {data.name}: no {split} examples")
    encoded = tokenize_all(loaded.tokenizer, examples, loaded.max_length, data.encodes, data.ends, True, split, bad)
    bad.check(f"{data.name} ({split})", len(examples), 0)
    check_words(encoded, loaded.beyond)
    check_scoring([e.example for e in encoded], data.scoring, loaded.tokenizer, loaded.max_length, loaded.beyond)
    return encoded


def _check_sections(
    target: Path,
    task: str | None,
    changes: Mapping[str, Any],
    overrides: Sequence[str],
    given: Given,
    seed: int | None,
    split: str,
    metric: Callable[..., Any] | None,
) -> Reward | None:
    """Before a model is loaded: the task, and of a run the place of its model. Raises InputError with all faults.

    Returns the reward that the task is measured by, where one is named here.
    """
    config = config_of(target)
    faults, reward = [], None
    try:
        if config is not None and is_state(target):
            with_given(config.model, given)
    except InputError as error:
        faults.append(str(error))
    try:
        cfg = task_config(config, task, changes, overrides)
        if reward_name(cfg.metric) is not None:
            reward = _reward(cfg, changes, overrides, metric)
        if task is not None and not is_state(target) and recorded(target) is None:  # else the run's labels decide
            with unheard():
                check_rows(cfg, seed or 0, split, reward=reward)
    except InputError as error:
        faults.append(str(error))
    if faults:
        raise InputError("\n".join(faults))
    return reward


def _reward(
    cfg: TaskConfig, changes: Mapping[str, Any], overrides: Sequence[str], metric: Callable[..., Any] | None
) -> Reward:
    """Raises InputError for one that the run's or the export's files name, and not this command."""
    here = changes.get("metric") is not None or any(text.startswith("task.metric=") for text in overrides)
    if not here:
        named = printable(str(cfg.metric), 300)
        how = f"task.metric={named}" if ".py:" in named else "metric=FUNCTION in Python"
        raise InputError(
            f"task.metric: the run's metric is {named}, and no file of a run may let code run; give {how} again to run "
            f"it, or task.metric=null for the task's own measures"
        )
    return load_reward(str(cfg.metric), metric)


def _fitted(reward: Reward, data: TaskData, opened: Opened, target: Path) -> Reward:
    """A reward for these rows; a warning where it is not the one that the run had."""
    fitted = reward.fitted(data)
    for line in other_reward(opened.inputs, fitted.recorded, str(target)):
        log.warning("%s", line.partition(";")[0])
    return fitted


def _as_the_run_writes(layer: Layer, of_run: TaskConfig) -> None:
    """Other rows are rewarded for what is written as the run's were: no task's file says how long a text may be."""
    section = layer.sections["task"]
    if "metric" not in section or None in (reward_name(section["metric"].value), reward_name(of_run.metric)):
        return
    for key in ("max_new_tokens", "temperature", "top_p", "samples"):
        if key not in section:
            layer.put("task", key, getattr(of_run, key))


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
        if task is not None and kind_of_task(task) == "rows":
            base |= {key: getattr(config.task, key) for key in ("loss_on", "text_column", "label_column")}
    errors: list[str] = []
    layer = Layer("caller").add({"task": base}, errors)
    layer.add({"task": {key: value for key, value in changes.items() if value is not None}}, errors)
    layer.add_overrides(overrides, errors)
    if config and task is not None:
        _as_the_run_writes(layer, config.task)
    place, gone = layer.sections["task"].get("data"), False
    if config and task is None and place and place.value is not None and field_of_rows(config.task) != "data":
        gone = isinstance(place.value, str) and not exists(place.value)
        layer.add({"task": {"data": None}}, errors)
        try:
            layer.add({"task": moved(config.task, str(place.value))}, errors)
        except InputError as error:
            gone = True
            errors.append(str(error))
    cfg = build("task.", TaskConfig, layer.sections["task"], errors, named_files if reads and not gone else None)
    if gone and place is not None and not errors:
        errors.append(f"task.data: no such file or directory: {printable(str(place.value), 300)}")
    if errors or cfg is None:
        kind = kind_of_task(config.task.name) if config is not None else "known"
        option = {"rows": "--data FILE", "file": "task.name=FILE"}.get(kind, "--data DIR")
        option = "--data DIR" if config is not None and len(config.task.files) > 1 else option
        fix = f"; give where it is as {option}, or other data with --task"
        absent = tuple(f"task.{key}: no such" for key in ("name", "data", *SPLIT_FIELDS.values()))
        fix = fix if config is not None and task is None and not gone else ""
        both = {"task": TaskConfig, "model": ModelConfig}
        lines = [f"{e}{fix}" if e.startswith(absent) else somewhere_else(e, both) for e in errors]
        raise InputError("\n".join(lines))
    return cfg
