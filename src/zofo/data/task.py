"""From a task's name, or one's own files, to three lists of examples, fixed by a seed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zofo.config import registry
from zofo.config.reward_name import reward_name
from zofo.config.sections import TaskConfig, kind_of_task
from zofo.data.balance import measured_too
from zofo.data.chat import Chat, Make, NoTokenizerYet
from zofo.data.checks import check_choices, check_metrics, say_borders, say_cut_answers, say_what_repeats
from zofo.data.example import Decoding, Example, TaskData, objective_of
from zofo.data.fewshot import dressed
from zofo.data.files import BadRows, Record, Tables, columns_of
from zofo.data.heap import growing
from zofo.data.hub import from_hub
from zofo.data.labels import say_labels, say_slips
from zofo.data.layouts import columns_asked, template_of
from zofo.data.multitask.setting import find_setting, load_setting
from zofo.data.own_files import Answers, OwnTask, own_task, say_what_runs_together
from zofo.data.samples import carved, sample
from zofo.data.spec import METRICS, TaskSpec, check_columns, load_spec, maker, metrics_of
from zofo.data.tables import hub_tables, no_train_file, own_tables, read_tables, tables_of_files
from zofo.data.written import not_written, rewarded_task, with_sources
from zofo.errors import InputError, did_you_mean

log = logging.getLogger("zofo")


@growing()
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
        local = cfg.data or cfg.files
        tables = tables_at(cfg, spec, name, only, bad) if local else from_hub(spec, name, only)
        check_columns(spec, cfg.template, tables)
        shown = shown_of(spec, make, name)
        tables = carved(tables, spec, seed, only, name)
        objective = _objective(cfg, spec.objective)
        make = Chat(tokenizer, cfg.system).checked(make) if cfg.apply_chat_template else make
        examples = sample(tables, with_sources(make, cfg, own=False), cfg, seed, only, spec.dev_rows, bad)
    repeated = _repeated(examples)
    decoding, metrics = decoding_of(spec, cfg), _led(metrics_of(spec), cfg, METRICS[spec.kind])
    kind = "generation" if reward_name(cfg.metric) is not None else spec.kind
    check_metrics(metrics, [e for split in ("train", "dev", "test") for e in examples[split]], name)
    if only is None and answers is None and spec.kind == "options":
        say_labels(examples, spec.labels, name, None)
    _say(examples, spec, cfg, decoding, tokenizer)
    examples = dressed(examples, cfg, seed, objective, spec.kind, tokenizer, shown)
    return TaskData(
        name=name,
        version=spec.version,
        objective=objective,
        metrics=metrics,
        train=examples["train"],
        dev=examples["dev"],
        test=examples["test"],
        labels=tuple(spec.labels),
        kind=kind,
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


def tables_at(
    cfg: TaskConfig, spec: TaskSpec, name: str, only: str | None = None, bad: BadRows | None = None, heads: bool = False
) -> Tables:
    """A known task's local tables: the files of the splits, or see `local_tables` of task.data."""
    if cfg.files:
        return tables_of_files(cfg, name, bad, heads)
    return local_tables(Path(str(cfg.data)), spec, name, only, bad, heads)


def _led(metrics: tuple[str, ...], cfg: TaskConfig, known: tuple[str, ...]) -> tuple[str, ...]:
    """The task's metrics, with the configured one in front."""
    if cfg.metric is None:
        return metrics
    if (named := reward_name(cfg.metric)) is not None:
        if "accuracy" in known:
            raise not_written(cfg.name)
        return (named.function, *(name for name in metrics if name != "loss"))
    if cfg.metric not in known:
        near = did_you_mean(cfg.metric, known)
        raise InputError(f'task.metric: "{cfg.metric}" does not measure this task{near}; known: {", ".join(known)}')
    return (cfg.metric, *(name for name in metrics if name != cfg.metric))


def decoding_of(spec: TaskSpec, cfg: TaskConfig) -> Decoding:
    """The task's way of generating, with what the configuration says otherwise."""
    return _decoding(spec.generation, cfg)


def _decoding(usual: Decoding, cfg: TaskConfig) -> Decoding:
    names = ("max_new_tokens", "temperature", "top_p", "samples")
    decoding = replace(usual, **{n: v for n in names if (v := getattr(cfg, n)) is not None})
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
    if unused and spec.kind != "generation" and reward_name(cfg.metric) is None:
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
        tables = own_tables(cfg, bad=BadRows(cfg.on_bad_row == "skip"))
        return Answers(own_task(tables, cfg.template, None, Chat(None), columns=columns_asked(cfg)).labels)
    except InputError as error:
        log.info("the answers of %s are not known: %s", cfg.place, error)
        return Answers()


def _own_files(
    cfg: TaskConfig, seed: int, tokenizer: Any, only: str | None, bad: BadRows, answers: Answers
) -> TaskData:
    path = Path(cfg.name or cfg.place)
    with bad.gathered():
        tables = own_tables(cfg, only or "train", bad)
        if "train" not in tables and only not in tables:
            raise no_train_file(cfg, only)
        chat = Chat(tokenizer, cfg.system, cfg.loss_on)
        rewarded = reward_name(cfg.metric) is not None
        task = (
            own_task(
                tables, template_of(cfg), cfg.choices, chat, answers, bad, cfg.numbers_are_classes, columns_asked(cfg)
            )
            if not rewarded
            else rewarded_task(tables, cfg, chat)
        )
        objective, metrics = measures(cfg, task.kind)
        make = chat.checked(task.make) if cfg.apply_chat_template else task.make
        examples = sample(tables, with_sources(make, cfg, own=True), cfg, seed, only, bad=bad)
    if cfg.numbers_are_classes and task.seen is None and not answers.labels:
        raise InputError(f"task.numbers_are_classes: {path.name} has no labels that could be numbers; leave it out")
    slips: set[str] = set()
    if only is None and not answers.labels:
        slips = say_labels(examples, task.labels, path.name, task.seen)
    elif task.seen is not None:
        say_slips(task.seen, path.name)
    if task.labels:
        metrics = measured_too(metrics, examples, task.labels, path.name, not answers.labels, slips)
    say_what_runs_together(examples, path.name)
    repeated = _repeated(examples)
    check_choices(examples)
    say_borders(examples, path.name, _of_plain_texts(cfg, tokenizer))
    examples = dressed(examples, cfg, seed, objective, task.kind, tokenizer, [])
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
        decoding=_decoding(Decoding(), cfg) if rewarded else Decoding(),
        scoring=cfg.scoring,
        repeated=repeated,
        given={split: len(records) for split, records in tables.items()},
        bad_rows=bad.say(path.name),
        unread=_unread(tables, task),
    )


def _unread(tables: Tables, task: OwnTask) -> tuple[str, ...]:
    """Columns of the rows that nothing is made of."""
    if not task.reads:
        return ()
    return tuple(dict.fromkeys(c for rows in tables.values() for c in columns_of(rows) if c not in task.reads))


def measures(cfg: TaskConfig, kind: str) -> tuple[str, tuple[str, ...]]:
    """(objective, metrics) of own files of that kind."""
    objective = _objective(cfg, "options" if kind == "options" else "lm")
    if objective_of(objective).encodes == "options" and kind != "options":
        raise InputError(f"task.objective: {cfg.title} has completions, no options; use lm")
    return objective, _led(("accuracy",) if kind == "options" else ("loss",), cfg, METRICS[kind])
