"""One's own files: columns text + label (+ choices), prompt + completion, conversations, or other layouts of texts.

text + label: the answer is the label's word after a space (`true`, `false` for booleans); `task.choices` names the
words instead, and then integers and booleans count into it. Nothing else is added to the text.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from zofo.data.balance import check_numbers
from zofo.data.chat import Chat, Make, check_loss_on
from zofo.data.conversations import from_completion, from_conversation
from zofo.data.example import Example
from zofo.data.files import BadRows, Record, Records, Tables, columns_of, file_of
from zofo.data.labels import Seen
from zofo.data.layouts import (
    BESIDE,
    CHATS,
    Columns,
    cell,
    check_layout,
    text_of,
    written_answer,
    written_prompt,
)
from zofo.errors import InputError, did_you_mean, printable

log = logging.getLogger("zofo")
MAX_LABELS = 200  # more options than this are a text to generate, not a class to choose


class Answers(NamedTuple):
    """Those of the run that is evaluated. counted: integers and booleans count into them, as with task.choices."""

    labels: tuple[str, ...] = ()
    counted: bool = False


@dataclass(frozen=True)
class OwnTask:
    make: Make
    kind: Literal["options", "completion", "generation"]
    labels: tuple[str, ...]
    seen: Seen | None = None  # where the rows say which labels there are
    reads: tuple[str, ...] = ()  # columns, all others being left alone; (): not known


def own_task(
    tables: Tables,
    template: str,
    choices: Sequence[str] | None,
    chat: Chat,
    answers: Answers = Answers(),  # noqa: B008 (immutable)
    bad: BadRows | None = None,
    numbers: bool = True,
    columns: Columns = Columns(),  # noqa: B008 (immutable)
) -> OwnTask:
    """How the rows of one's own files become examples. Raises InputError naming file, line and fix.

    answers: of the run that is evaluated, where there is one: rows must have one of them. bad: what is done with rows
    that cannot be used; they decide no label. numbers: whether labels may be many different numbers. columns: the
    file's own names for text and label.
    """
    rows, layout = check_layout(tables, template, choices, columns)
    needed = columns.of(layout)
    check_loss_on(chat.loss_on, needed, file_of(rows))
    reads = (*needed, *BESIDE.get(layout, ()))
    if layout != "options":
        return OwnTask(_maker(layout, template, chat, columns), "completion", (), reads=reads)
    text, label = needed
    if choices is None and "choices" in columns_of(rows):
        return OwnTask(lambda record: from_choices(record, text, label=label), "options", (), reads=reads)
    seen = None if choices or answers.labels else _labels(rows, bad or BadRows(), label, numbers)
    known = tuple(choices or answers.labels) if seen is None else _in_order(seen.counts)
    if len(set(known)) < len(known) or len(known) < 2:
        raise InputError(f"task.choices: needs two or more different labels, got: {', '.join(known)}")
    of_a_run = bool(answers.labels) and choices is None
    counted = answers.counted if of_a_run else choices is not None

    def make(record: Record) -> Example:
        return _from_label(record, known, counted, of_a_run, needed)

    return OwnTask(make, "options", known, seen, needed)


def _maker(layout: str, template: str, chat: Chat, columns: Columns) -> Make:
    """Of layouts whose answer is a text."""
    if layout in CHATS:
        return lambda record: from_conversation(record, layout, chat)
    if layout == "completion":
        return lambda record: from_completion(record, columns.of(layout)[0], chat)

    def make(record: Record) -> Example:
        prompt, answer = written_prompt(record, layout, template), written_answer(record, layout)
        return Example(record.id, prompt, (answer,), (0,), place=record.place)

    return make


# --------------------------------------------------------------------------------------------------- text and label


def _label_name(record: Record, column: str) -> str:
    value = cell(record, column)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:  # pandas makes them of a column with gaps
        value = int(value)
    if isinstance(value, float) and math.isfinite(value):  # as a CSV file has it
        return str(value)
    if (isinstance(value, int) and abs(value) < 1e15) or (isinstance(value, str) and value.strip()):
        return str(value).strip()
    if isinstance(value, str):
        raise InputError(f'{record.place}: "{column}" is empty; mend or drop the row')
    raise InputError(
        f'{record.place}: "{column}" must be a word, a number or true/false, not {_brief(value)}; mend or drop the row'
    )


def _brief(value: Any) -> str:
    return printable(repr(value), 80)


def _labels(records: Records, bad: BadRows, column: str, numbers: bool) -> Seen:
    """Of all records; one without a label is none of theirs, and left out where it is drawn."""
    counts: Counter[str] = Counter()
    places: dict[str, str] = {}
    for record in records:
        try:
            name = _label_name(record, column)
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
    if not numbers:
        check_numbers(counts, file_of(records))
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


def _from_label(
    record: Record, labels: tuple[str, ...], may_count: bool, of_a_run: bool, columns: tuple[str, ...]
) -> Example:
    prompt, name = text_of(record, columns[0]), _label_name(record, columns[1])
    index = labels.index(name) if name in labels else _index(name) if may_count else -1
    if not 0 <= index < len(labels):
        known = "the run's" if of_a_run else "known"
        raise InputError(
            f'{record.place}: unknown label "{printable(name, 60)}"; {known}: {", ".join(labels)}'
            f"{did_you_mean(name[:60], labels)}"
        )
    return Example(record.id, prompt, option_texts(prompt, labels), (index,), place=record.place)


def from_choices(record: Record, column: str = "text", answered: bool = True, label: str = "label") -> Example:
    """A row with options of its own. answered: False where nobody knows which is right: the first stands for it."""
    prompt, choices = text_of(record, column), cell(record, "choices")
    right = cell(record, label) if answered else 0
    if isinstance(choices, str):  # a CSV cell
        try:
            choices = json.loads(choices)
        except (ValueError, RecursionError):
            choices = None
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c.strip() for c in choices):
        raise InputError(f'{record.place}: "choices" must be a list of two or more texts')
    if isinstance(right, str) and right in choices:
        index = choices.index(right)
    else:
        index = -1 if isinstance(right, (bool, list, dict)) else _index(str(right)[:20])
    if not 0 <= index < len(choices):
        raise InputError(f"{record.place}: {label} {_brief(right)} is neither one of the choices nor an index of one")
    return Example(record.id, prompt, option_texts(prompt, choices), (index,), place=record.place)


# ----------------------------------------------------------------------------------------------------- where texts meet


def say_what_runs_together(examples: Mapping[str, Sequence[Example]], file: str) -> None:
    """Warns of texts and answers that meet in a way that is rarely meant: once for each kind, with the first row."""
    every = [example for listed in examples.values() for example in listed if example.cuttable is None]
    every = [example for example in every if not example.unanswered]
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
