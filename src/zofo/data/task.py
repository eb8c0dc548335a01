"""From a task's name, or one's own files, to three lists of examples, fixed by a seed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zofo.config import registry
from zofo.config.sections import TaskConfig, kind_of_task
from zofo.data.chat import Chat, Make, NoTokenizerYet
from zofo.data.checks import check_choices, check_metrics, say_borders, say_cut_answers, say_what_repeats
from zofo.data.example import Decoding, Example, TaskData, objective_of
from zofo.data.fewshot import demonstrate
from zofo.data.files import BadRows, Record, Tables, hub_tables, no_train, read_tables
from zofo.data.hub import from_hub
from zofo.data.labels import say_labels, say_slips
from zofo.data.multitask.setting import find_setting, load_setting
from zofo.data.own_files import Answers, own_task, say_what_runs_together
from zofo.data.samples import carved, sample
from zofo.data.spec import METRICS, TaskSpec, check_columns, load_spec, maker, metrics_of
from zofo.errors import InputError, did_you_mean

log = logging.getLogger("zofo")


def load_task(
    cfg: TaskConfig,
    seed: int,
    tokenizer: Any = None,
    only: str | None = None,
    demonstrates: bool = False,
    answers: Answers | None = None,
) -> TaskData:
    """Read and sample a task. The same seed gives the same examples in the same order.

    dev comes from `train` unless local data has a validation file, test from `train` only where there is no test file;
    of a task with test rows alone a run trains on a share of them (the task file's `carve`).
    only: the split that is evaluated, of a model that was trained on nothing of this data: then it is enough that there
    are rows for it, and it is whole. `tokenizer` is needed for chats, and to cut what a setting's layout cuts.
    demonstrates: of a setting, training prompts have demonstrations too. answers: of a run that is evaluated, which
    own files with text and label then have; a row with another one cannot be used.
    Raises InputError naming the file, the line and the fix.
    """
    if (setting := find_setting(cfg.name)) is not None:
        return load_setting(cfg, setting, seed, tokenizer, only, demonstrates)
    known, bad = settle(cfg), BadRows(cfg.on_bad_row == "skip")
    if known is None:
        return _own_files(cfg, seed, tokenizer, only, bad, answers or Answers())
    spec, make = known
    name = Path(cfg.name).stem.replace("_", "-")
    with bad.gathered():
        tables = local_tables(Path(cfg.data), spec, name, only, bad) if cfg.data else from_hub(spec, name, only)
        check_columns(spec, cfg.template, tables)
        shown = shown_of(spec, make, name)
        tables = carved(tables, spec, seed, only, name)
        objective = _objective(cfg, spec.objective)
        make = Chat(tokenizer, cfg.system).checked(make) if cfg.apply_chat_template else make
        examples = sample(tables, make, cfg, seed, only, spec.dev_rows, bad)
    repeated = _repeated(examples)
    decoding, metrics = decoding_of(spec, cfg), _led(metrics_of(spec), cfg, METRICS[spec.kind])
    check_metrics(metrics, [e for split in ("train", "dev", "test") for e in examples[split]], name)
    if only is None and answers is None and spec.kind == "options":
        say_labels(examples, spec.labels, name, None)
    _say(examples, spec, cfg, decoding, tokenizer)
    examples = _dressed(examples, cfg, seed, objective, spec.kind, tokenizer, shown)
    return TaskData(
        name=name,
        version=spec.version,
        objective=objective,
        metrics=metrics,
        train=examples["train"],
        dev=examples["dev"],
        test=examples["test"],
        labels=tuple(spec.labels),
        kind=spec.kind,
        decoding=decoding,
        scoring=cfg.scoring,
        repeated=repeated,
        given={split: len(records) for split, records in tables.items()},
        bad_rows=bad.say(name),
    )


def _objective(cfg: TaskConfig, usual: str) -> str:
    """The name of the objective that is asked for, or the task's, beside which one that encodes nothing stands."""
    if cfg.objective == "auto" or not objective_of(cfg.objective).encodes:
        return usual
    return registry.canonical(cfg.objective)


def local_tables(
    path: Path, spec: TaskSpec, name: str, only: str | None = None, bad: BadRows | None = None, heads: bool = False
) -> Tables:
    """A directory's tables, named as here or as the hub names them, or one file: of the split that is evaluated.

    heads: see `read_head`.
    """
    if path.is_dir() and (tables := hub_tables(path, name, spec.hub and spec.hub.name, spec.splits, bad, heads)):
        return tables
    return read_tables(path, name, only or ("test" if spec.carve else "train"), bad, heads)


def _led(metrics: tuple[str, ...], cfg: TaskConfig, known: tuple[str, ...]) -> tuple[str, ...]:
    """The task's metrics, with the configured one in front."""
    if cfg.metric is None:
        return metrics
    if cfg.metric not in known:
        near = did_you_mean(cfg.metric, known)
        raise InputError(f'task.metric: "{cfg.metric}" does not measure this task{near}; known: {", ".join(known)}')
    return (cfg.metric, *(name for name in metrics if name != cfg.metric))


def decoding_of(spec: TaskSpec, cfg: TaskConfig) -> Decoding:
    """The task's way of generating, with what the configuration says otherwise."""
    names = ("max_new_tokens", "temperature", "top_p", "samples")
    decoding = replace(spec.generation, **{n: v for n in names if (v := getattr(cfg, n)) is not None})
    if decoding.samples > 1 and decoding.temperature == 0:
        raise InputError(f"task.samples: {decoding.samples} greedy texts are all the same; give task.temperature too")
    if idle := decoding.idle():
        log.warning("task.%s", idle)
    return decoding


def _say(
    examples: dict[str, list[Example]], spec: TaskSpec, cfg: TaskConfig, decoding: Decoding, tokenizer: Any
) -> None:
    """What is odd about a known task's examples, and about the borders that a task file of one's own makes."""
    where = f"{spec.file}: template {cfg.template}"
    if spec.kind == "generation":
        say_cut_answers(examples, decoding, where)
    say_what_repeats(examples, where)
    if Path(cfg.name).suffix in (".yaml", ".yml"):
        say_borders(examples, where, _of_plain_texts(cfg, tokenizer))


def _of_plain_texts(cfg: TaskConfig, tokenizer: Any) -> Any:
    """The tokenizer, where it reads prompts and answers as they are."""
    return None if cfg.apply_chat_template or isinstance(tokenizer, NoTokenizerYet) else tokenizer


def _repeated(examples: dict[str, list[Example]]) -> dict[str, int]:
    train = {(e.prompt, e.answers) for e in examples["train"]}
    return {split: sum((e.prompt, e.answers) in train for e in examples[split]) for split in ("dev", "test")}


def _dressed(
    examples: dict[str, list[Example]],
    cfg: TaskConfig,
    seed: int,
    objective: str,
    kind: str,
    tokenizer: Any,
    shown: list[Example],
) -> dict[str, list[Example]]:
    """Demonstrations before the prompts that are evaluated, and the chat template around all."""
    pool = examples["train"] or examples["dev"] or shown
    if cfg.fewshot == "fixed" and len(shown) >= cfg.num_fewshot:
        pool = shown
    dressed = {
        split: listed if split == "train" else demonstrate(listed, pool, cfg.num_fewshot, cfg.fewshot, seed)
        for split, listed in examples.items()
    }
    if cfg.apply_chat_template:
        chat = Chat(tokenizer, cfg.system)
        learns = objective_of(objective).ends  # to end its turn; an option is scored without that
        ends = {split: learns and (split == "train" or kind != "options") for split in dressed}
        dressed = {split: [chat.dress(e, ends[split]) for e in listed] for split, listed in dressed.items()}
    return dressed


def settle(cfg: TaskConfig) -> tuple[TaskSpec, Make] | None:
    """A known task's spec and its template at work; None for own files.

    Raises InputError for all that can be found wrong before any data is read.
    """
    spec = find_spec(cfg.name)
    if spec is None:
        if cfg.data:
            raise InputError(f"task.data: is for known tasks; task.name={cfg.name} already names the data")
        return None
    name = Path(cfg.name).stem.replace("_", "-")
    if cfg.choices is not None:
        raise InputError(
            f"task.choices: is for own files with text and label; the answers of {name} are in {spec.file}"
        )
    if spec.kind != "options" and cfg.objective != "auto" and objective_of(cfg.objective).encodes == "options":
        raise InputError(f"task.objective: {name} has no options to choose from; use lm")
    metrics, make = _led(metrics_of(spec), cfg, METRICS[spec.kind]), maker(spec, cfg.template)
    check_metrics(metrics, shown_of(spec, make, name), name)
    unused = [n for n in ("max_new_tokens", "temperature", "top_p", "samples") if getattr(cfg, n) is not None]
    if unused and spec.kind != "generation":
        raise InputError(f"task.{unused[0]}: {name} generates nothing; leave it out")
    decoding_of(spec, cfg)
    if cfg.run_generated_code and "pass_at_k" not in metrics_of(spec):
        raise InputError(f"task.run_generated_code: {name} runs no programs; leave it out")
    if cfg.scoring != "mean" and spec.kind != "options":
        raise InputError(f"task.scoring: {name} has no options to score; leave it out")
    return spec, make


def shown_of(spec: TaskSpec, make: Make, name: str) -> list[Example]:
    """The task file's own demonstrations as examples."""
    return [make(Record(f"{name}/shown/{i}", spec.file, row)) for i, row in enumerate(spec.demonstrations)]


def find_spec(name: str) -> TaskSpec | None:
    """The spec of a known task or of a task file; None for a file or directory of one's own data."""
    kind = kind_of_task(name)
    if kind == "file":
        return load_spec(Path(name))
    return None if kind == "rows" else load_spec(registry.load("tasks", name))


def answers_of(cfg: TaskConfig, labels: Sequence[str] = ()) -> Answers:
    """What a run on own files with text and label answers, of all else nothing. labels: as the run recorded them.

    A run that did not has them in its training data; nothing is known where that is gone.
    """
    if kind_of_task(cfg.name) != "rows":
        return Answers()
    if labels or cfg.choices is not None:
        return Answers(tuple(labels or cfg.choices or ()), cfg.choices is not None)
    try:
        tables = read_tables(Path(cfg.name), bad=BadRows(cfg.on_bad_row == "skip"))
        return Answers(own_task(tables, cfg.template, None, Chat(None)).labels)
    except InputError as error:
        log.info("the answers of %s are not known: %s", cfg.name, error)
        return Answers()


def _own_files(
    cfg: TaskConfig, seed: int, tokenizer: Any, only: str | None, bad: BadRows, answers: Answers
) -> TaskData:
    path = Path(cfg.name)
    with bad.gathered():
        tables = read_tables(path, alone=only or "train", bad=bad)
        if "train" not in tables and only not in tables:
            raise no_train(path)
        chat = Chat(tokenizer, cfg.system)
        task = own_task(tables, cfg.template, cfg.choices, chat, answers, bad)
        objective, metrics = measures(cfg, task.kind)
        make = chat.checked(task.make) if cfg.apply_chat_template else task.make
        examples = sample(tables, make, cfg, seed, only, bad=bad)
    if only is None and not answers.labels:
        say_labels(examples, task.labels, path.name, task.seen)
    elif task.seen is not None:
        say_slips(task.seen, path.name)
    say_what_runs_together(examples, path.name)
    repeated = _repeated(examples)
    check_choices(examples)
    say_borders(examples, path.name, _of_plain_texts(cfg, tokenizer))
    examples = _dressed(examples, cfg, seed, objective, task.kind, tokenizer, [])
    check_metrics(metrics, [e for split in ("train", "dev", "test") for e in examples[split]], path.stem)
    return TaskData(
        name=path.stem,
        version=1,
        objective=objective,
        metrics=metrics,
        train=examples["train"],
        dev=examples["dev"],
        test=examples["test"],
        labels=task.labels,
        kind=task.kind,
        scoring=cfg.scoring,
        repeated=repeated,
        given={split: len(records) for split, records in tables.items()},
        bad_rows=bad.say(path.name),
    )


def measures(cfg: TaskConfig, kind: str) -> tuple[str, tuple[str, ...]]:
    """(objective, metrics) of own files of that kind."""
    objective = _objective(cfg, "options" if kind == "options" else "lm")
    if objective_of(objective).encodes == "options" and kind == "completion":
        raise InputError(f"task.objective: {Path(cfg.name).name} has completions, no options; use lm")
    return objective, _led(("accuracy",) if kind == "options" else ("loss",), cfg, METRICS[kind])
