"""The layouts that rows of one's own come in, and which of them a file has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from zofo.config.sections import TaskConfig
from zofo.data.files import Record, Records, Tables, columns_of, file_of, missing_column, renamed, unknown_column
from zofo.errors import InputError, did_you_mean, printable

LAYOUTS = {
    "messages": ("messages",),
    "completion": ("prompt", "completion"),
    "options": ("text", "label"),
    "sharegpt": ("conversations",),
    "alpaca": ("instruction", "output"),
    "question": ("question", "answer"),
}
BESIDE = {  # read where they are there
    "messages": ("tools",),
    "completion": ("tools",),
    "options": ("choices",),
    "sharegpt": ("system", "tools"),
    "alpaca": ("input",),
}
CHATS = ("messages", "sharegpt")  # conversations alone
KNOWN = "text and label, or prompt and completion, or messages"
OTHERS = (
    "also known: conversations; instruction and output; question and answer; others by task.text_column and "
    "task.label_column"
)


class Columns(NamedTuple):
    """task.text_column and task.label_column: the file's own names. None: as the layout has it."""

    text: str | None = None
    label: str | None = None

    def of(self, layout: str) -> tuple[str, ...]:
        """The columns that every row of a layout has, by the file's names."""
        first, *rest = LAYOUTS[layout]
        if layout in ("options", "completion"):
            first = self.text or first
            rest = [self.label or rest[0]] if layout == "options" else rest
        return (first, *rest)

    def layouts(self) -> list[str]:
        """Those that may be meant."""
        if self.label is not None:
            return ["options"]
        return ["completion", "options"] if self.text is not None else list(LAYOUTS)

    def fields(self) -> Iterator[tuple[str, str]]:
        """(field of the task section, column) of those that are given."""
        for field, column in zip(("text_column", "label_column"), self):
            if column is not None:
                yield f"task.{field}", column


def columns_asked(cfg: TaskConfig) -> Columns:
    """The file's own names that the section gives."""
    return Columns(cfg.text_column, cfg.label_column)


def template_of(cfg: TaskConfig) -> str:
    """Of rows of one's own: in a chat there are no words around a prompt."""
    return "plain" if cfg.apply_chat_template and cfg.template == "default" else cfg.template


def check_layout(
    tables: Tables, template: str, choices: Sequence[str] | None, columns: Columns | None = None
) -> tuple[Records, str]:
    """(the rows that decide, which of LAYOUTS they have). Raises InputError for what the columns alone show."""
    check_template(template)
    columns = columns or Columns()
    rows = tables.get("train") or next(iter(tables.values()))
    layout = _layout(rows, columns)
    needed = columns.of(layout)
    for records in tables.values():
        for column in needed:
            if column not in columns_of(records):
                raise missing_column(column, records, taken=needed)
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


def _layout(records: Records, columns: Columns) -> str:
    has = columns_of(records)
    for field, column in columns.fields():
        if column not in has:
            raise unknown_column(column, records, field)
    layouts = {layout: columns.of(layout) for layout in columns.layouts()}
    for layout, needed in layouts.items():
        if set(needed) <= set(has):
            return layout
    if columns.text is not None and columns.label is None:
        raise InputError(
            f'{file_of(records)}: needs a column label, or completion, beside task.text_column "{columns.text}"; '
            f"has: {printable(', '.join(has), 300)}; task.label_column names another one"
        )
    halves = [needed for needed in layouts.values() if set(needed) & set(has)]  # the other is missing or misspelt
    nearly = [needed for needed in layouts.values() if renamed(needed, records)]
    if halves:
        needed = next((needed for needed in halves if needed in nearly), halves[0])
        raise missing_column(next(column for column in needed if column not in has), records, taken=needed)
    near = renamed(max(nearly, key=lambda needed: renamed(needed, records).count(" for ")), records) if nearly else ""
    raise InputError(
        f"{file_of(records)}: needs the columns {KNOWN}; "
        f"has: {printable(', '.join(has), 300) or 'none'}{near or f' ({OTHERS})'}"
    )


def cell(record: Record, column: str) -> Any:
    """Raises InputError where there is nothing in it."""
    if column not in record.row or record.row[column] is None:
        raise InputError(f'{record.place}: no "{column}"')
    return record.row[column]


def text_of(record: Record, column: str, may_be_empty: bool = False) -> str:
    value = cell(record, column)
    if not isinstance(value, str):
        raise InputError(f'{record.place}: "{column}" must be text, not {type(value).__name__}')
    if not may_be_empty and not value.strip():
        raise InputError(f'{record.place}: "{column}" is empty; mend or drop the row')
    return value


# ----------------------------------------------------------------------------------------- prompts that a layout writes

# Of Stanford's Alpaca (Taori et al. 2023, https://github.com/tatsu-lab/stanford_alpaca, Apache-2.0), train.py; the line
# break behind the last line is of the copies that came after it (alpaca-lora, torchtune)
ALPACA = (
    "Below is an instruction that describes a task{}. Write a response that appropriately completes the request.\n\n"
)
PAIRED = ", paired with an input that provides further context"
ASKED = {
    "alpaca": "instruction",
    "question": "question",
}  # layout: the column by which a row without its answer is known


def written_prompt(record: Record, layout: str, template: str) -> str:
    """The prompt of a row with instruction and input, or with a question. template: "plain", no words around them."""
    if layout == "question":
        question = text_of(record, "question").strip()
        return question if template == "plain" else f"Question: {question}\nAnswer:"
    instruction, given = text_of(record, "instruction").strip(), record.row.get("input")
    more = "" if given is None else text_of(record, "input", may_be_empty=True).strip()
    if template == "plain":
        return f"{instruction}\n\n{more}\n\n" if more else f"{instruction}\n\n"
    asked = f"### Instruction:\n{instruction}\n\n" + (f"### Input:\n{more}\n\n" if more else "")
    return f"{ALPACA.format(PAIRED if more else '')}{asked}### Response:\n"


def written_answer(record: Record, layout: str) -> str:
    """What follows the prompt: a space before an answer, as before a label, and none on a line of its own."""
    answer = text_of(record, LAYOUTS[layout][1])
    return answer if layout == "alpaca" or answer[:1].isspace() else f" {answer}"
