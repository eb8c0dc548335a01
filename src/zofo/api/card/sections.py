"""The sections of a card: what it was trained on, how, what was measured. No path, no row, no name of a machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from zofo.api.card.base import Base
from zofo.config.paths import own_name
from zofo.config.resolve import Config
from zofo.config.sections import TaskConfig, kind_of_task
from zofo.config.yaml_reader import dump
from zofo.data.asking import fenced, plain, span
from zofo.data.multitask.setting import find_setting
from zofo.data.spec import TaskSpec
from zofo.data.task import find_spec
from zofo.errors import InputError, first_few, printable

Numbers = Mapping[str, float | None]
LISTED = 20  # tasks of a setting
SHOWN = {
    "task": ("template", "apply_chat_template", "num_fewshot", "scoring", "objective", "loss_on"),
    "train": ("max_steps", "count", "batch_size", "lr_scheduler_type", "warmup_steps", "max_grad_norm", "seed"),
    "model": ("dtype", "quantization", "max_length"),
}  # of the sections that have more to them than how it was trained
WHOLE = ("method", "adapter", "estimator", "rule", "mask")
PACKAGES = ("zofo", "torch", "transformers", "peft")


def hub_data(cfg: TaskConfig) -> tuple[str, str | None] | None:
    """(a data set of the hub, its configuration) where the rows were read from there."""
    spec = known_task(cfg)
    return None if cfg.data or cfg.files or spec is None or spec.hub is None else (spec.hub.path, spec.hub.name)


def known_task(cfg: TaskConfig) -> TaskSpec | None:
    """None for rows of one's own, a setting, and a task file that is gone."""
    try:
        return find_spec(cfg.name) if find_setting(cfg.name) is None else None
    except (InputError, OSError):
        return None


def numbers(info: Mapping[str, Any], name: str) -> dict[str, Numbers]:
    """{split: what was measured there of the candidate `name`}, for those where something was."""
    measured = {"test": info["test"].get(name), "dev": info.get("dev", {}).get(name)}
    return {split: values for split, values in measured.items() if values}


def data(cfg: TaskConfig, info: Mapping[str, Any], trained: bool) -> str:
    kind, hub = kind_of_task(cfg.name), hub_data(cfg)
    places = list(cfg.files.values()) or [cfg.data or ""]
    own = f" ({', '.join(span(own_name(place)) for place in places)})" if any(places) else ""
    if kind == "rows":
        places = list(cfg.files.values()) or [cfg.name]
        named = ", ".join(span(own_name(place)) for place in places)
        words = f"Rows of the user's own, which are not here: {named}."
    elif info.get("tasks"):
        words = _setting(info["tasks"], cfg, own)
    elif hub is not None:
        config = f", {span(hub[1])}" if hub[1] else ""
        words = f"The task {span(info['task'])} on [{plain(hub[0])}](https://huggingface.co/datasets/{hub[0]}){config}."
    else:
        what = "the user's own task" if kind == "file" else "the task"
        words = f"Rows of {what} {span(info['task'])} from files of the user's own{own}."
    if (spec := known_task(cfg)) is not None and kind == "known" and spec.source:
        words += f" The task's source: {plain(' '.join(spec.source.split()), 200)}."
    if sizes := info.get("examples"):
        counted = {"to test": sizes.get("test", 0)}
        if trained:  # of a bilevel method the training examples are two sets, f and p
            learnt = sum(size for split, size in sizes.items() if split not in ("dev", "test"))
            counted = {"to train": learnt, "to select by": sizes.get("dev", 0), **counted}
        words += f" Examples taken: {', '.join(f'{size} {use}' for use, size in counted.items())}."
    return words


def _setting(tasks: Mapping[str, list[str]], cfg: TaskConfig, own: str) -> str:
    held = f", held out of training: {_names(tasks['held_out'])}" if tasks.get("held_out") else ""
    return (
        f"The setting {span(own_name(cfg.name))}{own} of {len(tasks['train'])} tasks: {_names(tasks['train'])}{held}."
    )


def _names(tasks: list[str]) -> str:
    return first_few([span(name) for name in tasks], LISTED)


def results(measured: Mapping[str, Numbers], info: Mapping[str, Any], trained: bool) -> str:
    """A table of the splits that were measured."""
    every, leads = {key for values in measured.values() for key in values if key != "n"}, info.get("metric")
    names = sorted(every, key=lambda name: (name != leads, name == "loss", name))
    rows = [["split", "examples", *names], ["---"] * (2 + len(names))]
    for split, values in measured.items():
        at = f"dev, at step {info['best_step']}" if split == "dev" and trained else split
        size = values.get("n") or info.get("examples", {}).get(split)
        rows.append([at, str(int(size)) if size else "", *(_number(values.get(name)) for name in names)])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    said = "" if "test" in measured else "Test: not measured."
    words = "Dev chose what is deployed, so its numbers are better than those of new data." if trained else ""
    if "dev" not in measured:
        words = ""
    return "\n\n".join(part for part in (said, table if measured else "", words) if part)


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "" if value is None else str(value)
    return f"{value:.4f}"


def began(config: Config, info: Mapping[str, Any]) -> str:
    """A sentence on the trained adapter that a run began with, without its path; "" where it began with a fresh one."""
    start = (config.to_dict().get("adapter") or {}).get("start")
    if not start:
        return ""
    sha256 = ((info.get("inputs") or {}).get("start") or {}).get("sha256")
    digest = f" (SHA-256 of its weights {plain(str(sha256)[:16])}...)" if sha256 else ""
    return f" The adapter did not begin fresh: it went on from a trained one, {span(own_name(start))}{digest}."


def how(config: Config, info: Mapping[str, Any], trained: bool) -> str:
    """The method's updates and every setting that tells how the model computes or was trained."""
    content = config.to_dict()
    if (adapter := content.get("adapter")) and (start := adapter.pop("start", None)):
        adapter["start"] = own_name(start)
    parts: dict[str, Any] = {name: content[name] for name in WHOLE if content.get(name)}
    for section, names in SHOWN.items():
        if section != "train" or trained:
            chosen = {name: content[section][name] for name in names if content[section][name] is not None}
            parts[section] = chosen
    words = "Nothing was trained. The settings:"
    if trained:
        steps, position = info.get("steps"), f"best evaluation on dev: step {info['best_step']}"
        updates = f"{steps['lower']} lower-level and {steps['upper']} upper-level updates; " if steps else ""
        words = f"{updates}{position}. The settings, as `zofo show` explains them:"
        words = words[0].upper() + words[1:]
    return f"{words}\n\n{fenced(printable(dump(parts).rstrip(), plain=chr(10)), 'yaml')}"


def versions(info: Mapping[str, Any]) -> str:
    found = info.get("environment", {}).get("packages", {"zofo": info.get("zofo")})
    lines = [f"- {name} {plain(str(found[name]))}" for name in PACKAGES if found.get(name)]
    if python := info.get("environment", {}).get("python"):
        lines.append(f"- Python {plain(str(python))}")
    return "\n".join(lines)


def licence(base: Base) -> str:
    if not base.licence:
        return (
            f"Not known: no card and no LICENSE that could be read says that of the base, {base.words}. What it allows "
            "holds for this model too: look it up before you pass it on."
        )
    name = base.licence.get("license_name") or base.licence["license"]
    return (
        f"The base model's {base.where} says {span(name)}, and what it allows holds for this model too. The training "
        "data may have a licence of its own."
    )


def limits(info: Mapping[str, Any], measured: Mapping[str, Numbers], trained: bool) -> str:
    task, size = span(info["task"]), (measured.get("test") or {}).get("n")
    asked = f"by {int(size)} examples of {task}" if size else f"by no test examples of {task}"
    words = f"It was measured {asked} and by nothing else: not on other tasks or languages, nor for safety or bias."
    if trained:
        words += f" Beside {task} it may do worse than its base, whose limits it has too."
    return words
