"""One's own files: columns text + label (+ choices), prompt + completion (texts or messages), or messages.

text + label: the answer is the label's word after a space (`true`, `false` for booleans); `task.choices` names the
words instead, and then integers and booleans count into it. Nothing else is added to the text.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from zofo.data.chat import Chat, Make
from zofo.data.example import Example
from zofo.data.files import BadRows, Record, Records, Tables, columns_of, file_of, missing_column, renamed
from zofo.data.labels import Seen
from zofo.errors import InputError, did_you_mean, printable

log = logging.getLogger("zofo")
LAYOUTS = {"messages": ("messages",), "completion": ("prompt", "completion"), "options": ("text", "label")}
MAX_LABELS = 200  # more options than this are a text to generate, not a class to choose


class Answers(NamedTuple):
    """Those of the run that is evaluated. counted: integers and booleans count into them, as with task.choices."""

    labels: tuple[str, ...] = ()
    counted: bool = False


@dataclass(frozen=True)
class OwnTask:
    make: Make
    kind: Literal["options", "completion"]
    labels: tuple[str, ...]
    seen: Seen | None = None  # where the rows say which labels there are


def own_task(
    tables: Tables,
    template: str,
    choices: Sequence[str] | None,
    chat: Chat,
    answers: Answers = Answers(),  # noqa: B008 (immutable)
    bad: BadRows | None = None,
) -> OwnTask:
    """How the rows of one's own files become examples. Raises InputError naming file, line and fix.

    answers: of the run that is evaluated, where there is one: rows must have one of them. bad: what is done with rows
    that cannot be used; they decide no label.
    """
    rows, layout = check_layout(tables, template, choices)
    if layout == "messages":
        return OwnTask(lambda record: _from_messages(record, chat), "completion", ())
    if layout == "completion":
        return OwnTask(lambda record: _from_completion(record, chat), "completion", ())
    if choices is None and "choices" in columns_of(rows):
        return OwnTask(from_choices, "options", ())
    seen = None if choices or answers.labels else _labels(rows, bad or BadRows())
    known = tuple(choices or answers.labels) if seen is None else _in_order(seen.counts)
    if len(set(known)) < len(known) or len(known) < 2:
        raise InputError(f"task.choices: needs two or more different labels, got: {', '.join(known)}")
    of_a_run = bool(answers.labels) and choices is None
    counted = answers.counted if of_a_run else choices is not None
    return OwnTask(lambda record: _from_label(record, known, counted, of_a_run), "options", known, seen)


def check_layout(tables: Tables, template: str, choices: Sequence[str] | None) -> tuple[Records, str]:
    """(the rows that decide, which of LAYOUTS they have). Raises InputError for what the columns alone show."""
    check_template(template)
    rows = tables.get("train") or next(iter(tables.values()))
    layout = _layout(rows)
    for records in tables.values():
        for column in LAYOUTS[layout]:
            if column not in columns_of(records):
                raise missing_column(column, records, taken=LAYOUTS[layout])
    if layout != "options" and choices is not None:
        raise InputError(f"task.choices: {file_of(rows)} has completions; choices are for text + label")
    return rows, layout


def check_template(template: str) -> None:
    """Raises InputError for one that rows of one's own do not have."""
    if template not in ("default", "plain"):
        near = did_you_mean(template, ("default", "plain"))
        raise InputError(
            f'task.template: own files have "default" and "plain", not "{template}"{near}; '
            "for others write a task file (.yaml)"
        )


def _layout(records: Records) -> str:
    has = columns_of(records)
    for layout, columns in LAYOUTS.items():
        if set(columns) <= set(has):
            return layout
    halves = [columns for columns in LAYOUTS.values() if set(columns) & set(has)]  # the other is missing or misspelt
    nearly = [columns for columns in LAYOUTS.values() if renamed(columns, records)]
    if halves:
        columns = next((columns for columns in halves if columns in nearly), halves[0])
        raise missing_column(next(column for column in columns if column not in has), records, taken=columns)
    near = renamed(max(nearly, key=lambda columns: renamed(columns, records).count(" for ")), records) if nearly else ""
    raise InputError(
        f"{file_of(records)}: needs the columns text and label, or prompt and completion, or messages; "
        f"has: {printable(', '.join(has), 300) or 'none'}{near}"
    )


def _get(record: Record, column: str) -> Any:
    if column not in record.row or record.row[column] is None:
        raise InputError(f'{record.place}: no "{column}"')
    return record.row[column]


def text_of(record: Record, column: str, may_be_empty: bool = False) -> str:
    value = _get(record, column)
    if not isinstance(value, str):
        raise InputError(f'{record.place}: "{column}" must be text, not {type(value).__name__}')
    if not may_be_empty and not value.strip():
        raise InputError(f'{record.place}: "{column}" is empty; mend or drop the row')
    return value


# --------------------------------------------------------------------------------------------------- text and label


def _label_name(record: Record) -> str:
    value = _get(record, "label")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:  # pandas makes them of a column with gaps
        value = int(value)
    if (isinstance(value, int) and abs(value) < 1e15) or (isinstance(value, str) and value.strip()):
        return str(value).strip()
    if isinstance(value, str):
        raise InputError(f'{record.place}: "label" is empty; mend or drop the row')
    raise InputError(
        f'{record.place}: "label" must be a word, an integer or true/false, not {_brief(value)}; mend or drop the row'
    )


def _brief(value: Any) -> str:
    return printable(repr(value), 80)


def _labels(records: Records, bad: BadRows) -> Seen:
    """Of all records; one without a label is none of theirs, and left out where it is drawn."""
    counts: Counter[str] = Counter()
    places: dict[str, str] = {}
    for record in records:
        try:
            name = _label_name(record)
            counts[name] += 1
            places.setdefault(name, record.place)
        except InputError as error:
            if not bad.skip:
                bad.refuse(error, record.place)
    if bad.faults:
        bad.check(file_of(records), len(records), bad.counts.total())
    if not counts:
        raise InputError(f"{file_of(records)}: no row has a label")
    names = set(counts)
    if len(names) < 2:
        raise InputError(f'{file_of(records)}: only one label, "{printable(min(names), 60)}"; needs two or more')
    if len(names) > MAX_LABELS:
        raise InputError(
            f"{file_of(records)}: {len(names)} different labels, at most {MAX_LABELS}; for free text name the columns "
            '"prompt" and "completion"'
        )
    return Seen(counts, places)


def _in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Numbers by their size, then words."""
    return tuple(sorted(names, key=lambda n: (0, int(n), n) if _counts(n.removeprefix("-")) else (1, 0, n)))


def option_texts(prompt: str, words: Sequence[str]) -> tuple[str, ...]:
    """A space before each word, unless the prompt already ends in white space."""
    gap = "" if not prompt or prompt[-1].isspace() else " "
    return tuple(word if word[:1].isspace() else gap + word for word in words)


def _counts(name: str) -> bool:
    """Whether a label is a number to count with: digits of no other script, and not thousands of them."""
    return name.isascii() and name.isdecimal() and len(name) <= 15


def _index(name: str) -> int:
    """Which of the choices a label counts to, as CSV has it too (True, FALSE, 1.0); -1: to none."""
    whole, point, zeros = name.partition(".")
    if point and not zeros.strip("0"):
        name = whole
    return {"false": 0, "true": 1}.get(name.lower(), int(name) if _counts(name) else -1)


def _from_label(record: Record, labels: tuple[str, ...], may_count: bool, of_a_run: bool) -> Example:
    prompt, name = text_of(record, "text"), _label_name(record)
    index = labels.index(name) if name in labels else _index(name) if may_count else -1
    if not 0 <= index < len(labels):
        known = "the run's" if of_a_run else "known"
        raise InputError(
            f'{record.place}: unknown label "{printable(name, 60)}"; {known}: {", ".join(labels)}'
            f"{did_you_mean(name[:60], labels)}"
        )
    return Example(record.id, prompt, option_texts(prompt, labels), (index,), place=record.place)


def from_choices(record: Record, column: str = "text", answered: bool = True) -> Example:
    """A row with options of its own. answered: False where nobody knows which is right: the first stands for it."""
    prompt, choices = text_of(record, column), _get(record, "choices")
    label = _get(record, "label") if answered else 0
    if isinstance(choices, str):  # a CSV cell
        try:
            choices = json.loads(choices)
        except (ValueError, RecursionError):
            choices = None
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c.strip() for c in choices):
        raise InputError(f'{record.place}: "choices" must be a list of two or more texts')
    if isinstance(label, str) and label in choices:
        index = choices.index(label)
    else:
        index = -1 if isinstance(label, (bool, list, dict)) else _index(str(label)[:20])
    if not 0 <= index < len(choices):
        raise InputError(f"{record.place}: label {_brief(label)} is neither one of the choices nor an index of one")
    return Example(record.id, prompt, option_texts(prompt, choices), (index,), place=record.place)


# ------------------------------------------------------------------------------------------------------ completions


def _from_completion(record: Record, chat: Chat) -> Example:
    prompt, completion = _get(record, "prompt"), _get(record, "completion")
    if isinstance(prompt, list) or isinstance(completion, list):  # both as messages, as TRL has them
        if not isinstance(completion, list) or len(completion) != 1 or not isinstance(prompt, list):
            raise InputError(
                f'{record.place}: "prompt" and "completion" must both be texts, or "prompt" a list of messages and '
                '"completion" a list of the one message that answers it'
            )
        return _conversation(record, [*prompt, *completion], '"prompt" and "completion"', chat)
    prompt, completion = text_of(record, "prompt", may_be_empty=True), text_of(record, "completion")
    return Example(record.id, prompt, (completion,), (0,), place=record.place)


def _from_messages(record: Record, chat: Chat) -> Example:
    """The last turn, the assistant's, is the completion; the tokenizer's chat template writes the rest."""
    return _conversation(record, _get(record, "messages"), '"messages"', chat)


def _conversation(record: Record, turns: Any, columns: str, chat: Chat) -> Example:
    turns = _turns(record, turns, columns)
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise InputError(f"{record.place}: the last of {columns} must be the assistant's, after at least one other")
    if not turns[-1]["content"].strip():
        raise InputError(f"{record.place}: the assistant's last message is empty")
    _check_chat(record, columns, chat)
    return chat.conversation(record.id, turns, record.place)


def turns_of(record: Record, column: str, chat: Chat) -> list[dict[str, Any]]:
    """The conversation in a column, whoever speaks last. Raises InputError for none, or a model that takes none."""
    turns = _turns(record, _get(record, column), f'"{column}"')
    _check_chat(record, f'"{column}"', chat)
    return turns


def _turns(record: Record, turns: Any, columns: str) -> list[dict[str, Any]]:
    if not isinstance(turns, list) or not all(
        isinstance(t, dict) and isinstance(t.get("role"), str) and isinstance(t.get("content"), str) for t in turns
    ):
        raise InputError(f'{record.place}: {columns} must be a list of {{"role": ..., "content": ...}}')
    return turns


def _check_chat(record: Record, columns: str, chat: Chat) -> None:
    if chat.missing:
        raise InputError(
            f"{record.place}: {columns} needs a model with a chat template and this one has none; "
            'use the columns "prompt" and "completion" with texts'
        )


# ----------------------------------------------------------------------------------------------------- where texts meet


def say_what_runs_together(examples: Mapping[str, Sequence[Example]], file: str) -> None:
    """Warns of texts and answers that meet in a way that is rarely meant: once for each kind, with the first row."""
    every = [example for listed in examples.values() for example in listed if example.cuttable is None]
    kinds = {
        "ends in a blank, and most tokens begin with one: move it to the answers": [
            e for e in every if e.prompt[-1:] in (" ", "\t")
        ],
        "runs together with its completion, without a blank between two words: begin the completion with one": [
            e for e in every if len(e.answers) == 1 and _is_of_a_word(e.prompt[-1:]) and _is_of_a_word(e.answers[0][:1])
        ],
    }
    for what, which in kinds.items():
        if 2 * len(which) > len(every):
            log.warning("%s: the text before the answer %s (%s)", file, what, which[0].where)
    ending = [e for e in every if any(answer != answer.rstrip(" \t") for answer in e.answers)]
    if ending:
        what = "label or completion ends in a blank, which is learnt and scored as a part of it: remove it"
        log.warning("%s: a %s (%d of %d rows, %s)", file, what, len(ending), len(every), ending[0].where)


def _is_of_a_word(char: str) -> bool:
    """In a script that puts blanks between words."""
    return char.isascii() and char.isalpha()
