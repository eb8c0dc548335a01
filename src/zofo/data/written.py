"""Rows of one's own to which texts are written and rewarded: prompts with or without a completion, conversations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from zofo.config.reward_name import reward_name
from zofo.config.sections import TaskConfig
from zofo.data.chat import Chat, Make, check_loss_on
from zofo.data.conversations import asked_in, conversation_in, turns_of
from zofo.data.example import Example, Source
from zofo.data.files import Record, Tables, columns_of, file_of, missing_column
from zofo.data.layouts import check_template, columns_asked, template_of, text_of
from zofo.data.own_files import OwnTask, own_task
from zofo.errors import InputError


def rewarded_task(tables: Tables, cfg: TaskConfig, chat: Chat) -> OwnTask:
    """As `own_files.own_task` for rows that a reward measures, which need no completion: then they have no loss.

    Raises InputError naming file, line and fix.
    """
    check_template(cfg.template)
    columns, template = columns_asked(cfg), template_of(cfg)
    rows = tables.get("train") or next(iter(tables.values()))
    has, file = columns_of(rows), file_of(rows)
    if (
        cfg.choices is not None
        or cfg.label_column is not None
        or (not {"messages", "prompt"} & set(has) and {"text", "label"} <= set(has))
    ):
        raise not_written(file)
    prompt = cfg.text_column or "prompt"
    talks = next((name for name in ("messages", "conversations") if name in has and cfg.text_column is None), None)
    if talks == "conversations" and prompt in has:
        talks = None
    if talks is None and ("completion" in has or prompt not in has):
        task = own_task(tables, template, None, chat, columns=columns)
        if task.kind == "options":
            raise not_written(file)
        return replace(task, kind="generation")
    column = talks or prompt
    check_loss_on(chat.loss_on, (column,), file)
    for records in tables.values():
        if column not in columns_of(records):
            raise missing_column(column, records, taken=(column,))
    answered = own_task(tables, template, None, chat).make if talks else None
    return OwnTask(lambda record: _asked(record, column, chat, answered), "generation", ())


def not_written(name: str) -> InputError:
    """What to say of a reward where an answer is chosen."""
    return InputError(
        f"task.metric: {name} has options to choose from, and a reward is of texts that are written; use rows with a "
        f"column prompt, or a task that generates, such as squad or gsm8k"
    )


def _asked(record: Record, column: str, chat: Chat, answered: Make | None) -> Example:
    value = record.row.get(column)
    if isinstance(value, list) or answered is not None:
        turns = turns_of(record, column, chat)
        if answered is not None and turns and turns[-1]["role"] == "assistant":
            return answered(record)
        return replace(asked_in(record, column, chat), unanswered=True)
    return Example(record.id, text_of(record, column), ("",), (0,), place=record.place, unanswered=True)


def with_sources(make: Make, cfg: TaskConfig, own: bool) -> Make:
    """`make`, keeping what a reward is called with, where the task has one. own: rows of one's own, whose prompts may
    be messages."""
    if reward_name(cfg.metric) is None:
        return make

    def made(record: Record) -> Example:
        example = make(record)
        prompt = _prompt(record, cfg.text_column, example) if own else example.prompt
        return replace(example, source=Source(record.row, prompt))

    return made


def _prompt(record: Record, text: str | None, example: Example) -> str | list[dict[str, Any]]:
    column = next((name for name in (text, "messages", "prompt", "conversations") if name in record.row), "prompt")
    talks = column in ("messages", "conversations") or isinstance(record.row.get(column), list)
    turns = conversation_in(record, column) if talks and record.row.get(column) is not None else None
    if not isinstance(turns, list):
        return example.prompt
    answered = turns and isinstance(turns[-1], dict) and turns[-1].get("role") == "assistant"
    return turns[:-1] if answered else turns
