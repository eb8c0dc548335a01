"""Answers to rows that have none: of a run, an export, a PEFT directory or a plain model."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zofo.api.evaluate import task_config
from zofo.api.out_of_memory import smaller, with_options
from zofo.api.restore import given_model
from zofo.api.scored_rows import recorded_labels
from zofo.api.targets import Opened, as_path, config_of, open_target
from zofo.config.layers import brief
from zofo.config.sections import TaskConfig, kind_of_task
from zofo.data import Example, load_task
from zofo.data.files import BadRows, Record
from zofo.data.own_files import Answers
from zofo.data.task import answers_of, settle, shown_of
from zofo.data.unlabelled import asking
from zofo.errors import InputError, RunError
from zofo.eval.predictor import Answer, Predictor
from zofo.zo.ranks import ALONE, Ranks

log = logging.getLogger("zofo")
OWN = "./rows.jsonl"  # the name of rows in memory, where no task is named


@dataclass(frozen=True)
class Asked:
    """What rows are asked, but for the rows: the command's settings. text_column: of the rows' columns."""

    task: str | None = None
    adapter: str | None = None
    model: str | None = None
    overrides: Sequence[str] = ()
    text_column: str | None = None
    max_new_tokens: int | None = None
    batch_size: int | None = None
    seed: int | None = None


def predict(
    target: str | Path,
    rows: Sequence[str | Sequence[Mapping[str, Any]] | Mapping[str, Any]],
    *,
    task: str | None = None,
    adapter: str | None = None,
    model: str | None = None,
    overrides: Sequence[str] = (),
    text_column: str | None = None,
    max_new_tokens: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
) -> list[dict[str, Any]]:
    """The answer to each row: {"prediction": label, "probability": {label: p}}, or {"text": what the model wrote}.

    rows: texts, conversations (lists of turns with role and content), or mappings with the columns that training had
    but for the answer. task: a task or file whose labels are chosen among, where the target is no run's.
    text_column: which column of the mappings holds the text. adapter: which of a run's ("p", "s", or "theta").
    model: where the base model is now. overrides: "task.key=value" and "model.key=value"; with task.on_bad_row=skip
    a row that cannot be used has the prediction None. max_new_tokens: of a text, 50 if left out and the task has no
    number of its own. seed: of texts that are sampled.

    The probabilities are the softmax of the options' scores (task.scoring), so the highest is the prediction's; nothing
    makes them frequencies. Raises InputError naming the row.
    """
    if isinstance(rows, (str, Mapping)) or not rows:
        raise InputError("rows: expected a list of at least one text, conversation or mapping")
    records = [Record(f"row {i}", f"row {i}", _row(row, i)) for i, row in enumerate(rows, 1)]
    asked = Asked(task, adapter, model, overrides, text_column, max_new_tokens, batch_size, seed)
    predictor, cfg = open_predictor(target, asked, records, OWN)
    bad = BadRows(cfg.on_bad_row == "skip")
    with with_options("the prediction", options(asked)):
        answers = answer(predictor, records, bad)
    bad.say("rows")
    if predictor.nan and predictor.nan == sum(bool(each.options) for each in answers):
        raise all_nan(records[0].place, predictor.nan)
    warn("rows", {"cut": predictor.cut, "nan": predictor.nan}, len(records))
    return [as_mapping(each) for each in answers]


def all_nan(place: str, rows: int) -> RunError:
    return RunError(
        f"{place}: the scores of all {rows} rows from here on are NaN, so there is no answer: the model's weights are "
        f"not finite, or overflow in its dtype (try model.dtype=float32)"
    )


def warn(where: str | Path, facts: Mapping[str, int], rows: int) -> None:
    """Of what became of some rows. facts: {"cut": how many, "nan": how many}."""
    for key, what in (
        ("cut", "rows were longer than the model takes and lost the beginning of their prompts"),
        ("nan", "rows have scores that are NaN: no prediction"),
    ):
        if facts[key]:
            log.warning("%s: %d of %d %s", where, facts[key], rows, what)


def _row(row: Any, number: int) -> dict[str, Any]:
    """A text stands in the column that training had it in, whichever that was."""
    if isinstance(row, str):
        return {"text": row, "prompt": row}
    if isinstance(row, Mapping):
        return dict(row)
    if isinstance(row, Sequence) and all(isinstance(turn, Mapping) for turn in row):
        return {"messages": [dict(turn) for turn in row]}
    raise InputError(f"row {number}: expected a text, a list of turns or a mapping, not {type(row).__name__}")


def _check_numbers(asked: Asked) -> None:
    for option, value, least in (
        ("--batch-size", asked.batch_size, 1),
        ("--max-new-tokens", asked.max_new_tokens, 1),
        ("--seed", asked.seed, None),
    ):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or (least is not None and value < least):
            at_least = "" if least is None else f" that is at least {least}"
            raise InputError(f"{option}: expected a whole number{at_least}, got {brief(value)}")


def options(asked: Asked) -> list[str]:
    """What takes less memory."""
    size = asked.batch_size or 32
    given, _ = given_model(asked.model, asked.overrides, "predict", tasks=True)
    return [f"--batch-size {max(1, size // 4)}" if size > 1 else "", *smaller(given)]


def open_predictor(
    target: str | Path, asked: Asked, records: Sequence[Record], file: str, ranks: Ranks = ALONE
) -> tuple[Predictor, TaskConfig]:
    """The model, and how these rows are asked. records: the first of them. file: their name, where no task is named.
    ranks: those that share them.

    Raises InputError for everything that is wrong before a row is answered.
    """
    _check_numbers(asked)
    given, rest = given_model(asked.model, asked.overrides, "predict", tasks=True)
    if asked.task is not None:
        then = config_of(as_path(target))
        task_config(then, asked.task, {}, rest)  # what is wrong with it is said before a model is loaded
    with with_options("the loading", options(asked)):
        opened = open_target(target, asked.adapter, given, ranks)
    config, task = opened.config, asked.task
    if config is None and task is None:
        task = file
    cfg = task_config(config, task, {}, rest, reads=asked.task is not None)
    seed, batch_size = asked.seed, asked.batch_size
    if config is not None:
        seed = config.train.seed if seed is None else seed
        batch_size = batch_size or config.train.eval_batch_size
    seed, tokenizer = seed or 0, opened.loaded.tokenizer
    answers = _answers(opened, cfg, asked.task)
    pool = _pool(cfg, seed, tokenizer, answers)
    how = asking(cfg, records, answers.labels, tokenizer, asked.text_column, pool, seed)
    if asked.max_new_tokens is not None:
        if how.kind == "options":
            raise InputError("--max-new-tokens: an option is chosen here and nothing is written; leave it out")
        decoding = dataclasses.replace(how.decoding, max_new_tokens=asked.max_new_tokens)
        how = dataclasses.replace(how, decoding=decoding)
    return Predictor(opened.loaded, opened.model, how, cfg.scoring, batch_size or 32, seed, ranks=ranks), cfg


def _answers(opened: Opened, cfg: TaskConfig, task: str | None) -> Answers:
    """What own files' rows answer: as the run did, or as the file does that is named as the task."""
    if task is not None or opened.config is None:
        return answers_of(cfg) if task is not None else Answers()
    answers = answers_of(opened.config.task, recorded_labels(opened))
    known = "labels" in opened.info or cfg.choices is not None or kind_of_task(cfg.name) != "rows"
    if not known and not answers.labels and "accuracy" in str(opened.info.get("test")):
        raise InputError(
            "task.choices: this run did not record its labels, and its rows are gone; name them, as in "
            "task.choices=[bad,good]"
        )
    return answers


def _pool(cfg: TaskConfig, seed: int, tokenizer: Any, answers: Answers) -> Sequence[Example]:
    """Answered examples for the demonstrations; none where the task shows none."""
    if not cfg.num_fewshot:
        return ()
    known = settle(cfg)
    shown = [] if known is None else shown_of(*known, Path(cfg.name).stem)
    if cfg.fewshot == "fixed" and len(shown) >= cfg.num_fewshot:
        return shown
    plain = dataclasses.replace(cfg, num_fewshot=0, apply_chat_template=False)
    data = load_task(plain, seed, tokenizer, answers=answers)
    return data.train or data.dev or shown


def answer(predictor: Predictor, records: Sequence[Record], bad: BadRows, progress: Any = None) -> list[Answer]:
    """Of each record; an empty answer where a row cannot be used and is skipped. Raises InputError naming the row."""
    examples = examples_of(predictor, records, bad)
    bad.stop("rows", len(records))
    answers = predictor(list(examples.values()), bad, progress)
    by_id = dict(zip(examples, answers))
    return [by_id.get(record.id, Answer()) for record in records]


def examples_of(predictor: Predictor, records: Sequence[Record], bad: BadRows) -> dict[str, Example]:
    """{record's id: its example} of those that can be used."""
    examples = {}
    for record in records:
        try:
            examples[record.id] = predictor.asking.make(record)
        except InputError as error:
            bad.refuse(error, record.place)
    return examples


def as_mapping(given: Answer) -> dict[str, Any]:
    if given.text is not None:
        return {"text": given.text}
    return {"prediction": given.prediction, "probability": dict(zip(given.options, given.probabilities))}
