"""Rows whose answer nobody knows yet, as examples: the prompts that training has, without the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from zofo.config.sections import TaskConfig
from zofo.data.chat import Chat, Make
from zofo.data.conversations import asked_in
from zofo.data.example import Decoding, Example
from zofo.data.fewshot import demonstrate
from zofo.data.files import Record, Records, columns_of, file_of, missing_column, unknown_column
from zofo.data.layouts import ASKED, check_template, template_of, text_of, written_prompt
from zofo.data.multitask.setting import find_setting
from zofo.data.own_files import from_choices, option_texts
from zofo.data.spec import TaskSpec, maker, used_columns
from zofo.data.task import decoding_of, settle
from zofo.errors import InputError, printable

TEXT_ALONE = {"text", "prompt"}  # the columns of a row that is a text without columns, whichever is read


@dataclass(frozen=True)
class Asking:
    """make: a row -> an example, of which nothing that hangs on the right answer may be read. Raises InputError that
    names the row. labels: the names of the options, where all rows share them."""

    make: Make
    kind: Literal["options", "text"]
    labels: tuple[str, ...] = ()
    decoding: Decoding = field(default_factory=Decoding)


def asking(
    cfg: TaskConfig,
    records: Records,
    labels: Sequence[str],
    tokenizer: Any,
    text_column: str | None = None,
    pool: Sequence[Example] = (),
    seed: int = 0,
) -> Asking:
    """How rows without an answer are asked, as the task section has it.

    records: the first rows of the file, by whose columns it is judged. labels: what a run on a file of one's own
    answers; task.choices names them too; without any, texts are written. text_column: the file's name for the column
    `text` or `prompt`. pool: answered examples, for demonstrations. Raises InputError naming file and fix.
    """
    if find_setting(cfg.name) is not None:
        raise InputError(f"task: {cfg.name} is many tasks; say with --task which one the rows are of")
    chat, known = Chat(tokenizer, cfg.system), settle(cfg)
    if known is None:
        plain = _own(cfg, records, tuple(cfg.choices or labels), chat, text_column)
    else:
        plain = _known(cfg, known[0], records, text_column)

    def make(record: Record) -> Example:
        return demonstrate([plain.make(record)], pool, cfg.num_fewshot, cfg.fewshot, seed)[0]

    made = make if cfg.num_fewshot else plain.make
    if not cfg.apply_chat_template:
        return replace(plain, make=made)
    checked = chat.checked(made)

    def dressed(record: Record) -> Example:
        example = checked(record)
        if example.cuttable is not None:
            return example
        if plain.kind == "options":
            return chat.dress(example, ends=False)
        return chat.asked(example.id, [{"role": "user", "content": example.prompt.strip()}], example.place)

    return replace(plain, make=dressed)


def _known(cfg: TaskConfig, spec: TaskSpec, records: Records, text_column: str | None) -> Asking:
    columns, has = _columns(spec, cfg.template), columns_of(records)
    if text_column is not None:
        if len(columns) != 1:
            raise InputError(
                f"--text-column: {spec.file} reads more than one column: {', '.join(columns)}; rename the file's"
            )
        if text_column not in has:
            raise unknown_column(text_column, records, "--text-column")
        renames = text_column
    else:
        renames = "text" if len(columns) == 1 and columns[0] not in has and set(has) == TEXT_ALONE else None
        for name in columns if renames is None else ():
            if name not in has:
                raise missing_column(name, records, f'{spec.file}: template "{cfg.template}"', spec.columns)
    plain = maker(spec, cfg.template, answered=False)

    def make(record: Record) -> Example:
        if renames is None:
            return plain(record)
        return plain(replace(record, row={**record.row, columns[0]: record.row.get(renames)}))

    if spec.kind == "options":
        return Asking(make, "options", tuple(spec.labels))
    return Asking(make, "text", (), replace(decoding_of(spec, cfg), samples=1))


def _columns(spec: TaskSpec, template: str) -> list[str]:
    """What is read of a row before its answer is known."""
    asked = spec.templates[template]
    answers = asked.answers if spec.kind == "options" else [""]
    alone = replace(spec, templates={template: replace(asked, answers=answers)}, gold=None, reference=None)
    (names,) = used_columns(alone).values()
    return [] if isinstance(names, str) else sorted(names)


def _own(cfg: TaskConfig, records: Records, labels: tuple[str, ...], chat: Chat, text_column: str | None) -> Asking:
    has, file = columns_of(records), file_of(records)
    check_template(cfg.template)
    named, where = text_column or cfg.text_column, "--text-column" if text_column else "task.text_column"
    if text_column is None and set(has) == TEXT_ALONE:
        named = None
    if named is not None and named not in has:
        raise unknown_column(named, records, where)
    column = named or ("text" if labels or "choices" in has else "prompt")
    if labels:
        if column not in has:
            raise _without(column, records)
        return Asking(lambda record: _with_options(record, column, labels), "options", labels)
    if "choices" in has and column in has:
        return Asking(lambda record: from_choices(record, column, answered=False), "options")
    decoding = own_decoding(cfg)
    if named is None and "messages" in has:
        return Asking(lambda record: _either(record, column, chat), "text", (), decoding)
    if named is None and column not in has and "conversations" in has:
        return Asking(lambda record: asked_in(record, "conversations", chat), "text", (), decoding)
    layout = next((layout for layout, asked in ASKED.items() if asked in has), None)
    if named is None and column not in has and layout is not None:
        return Asking(lambda record: _written(record, layout, template_of(cfg)), "text", (), decoding)
    if column not in has:
        raise InputError(
            f"{file}: needs a column prompt or messages, to which texts are written (to choose among labels give "
            f"task.choices=[...]); has: {printable(', '.join(has), 300)}; --text-column NAME takes another one"
        )
    return Asking(lambda record: _prompt(record, column, chat), "text", (), decoding)


def own_decoding(cfg: TaskConfig) -> Decoding:
    """How a text is written where no task file says it."""
    given = {n: v for n in ("max_new_tokens", "temperature", "top_p") if (v := getattr(cfg, n)) is not None}
    return Decoding(**given)


def _without(column: str, records: Records) -> InputError:
    return InputError(f"{missing_column(column, records)}; --text-column NAME takes another one")


def _with_options(record: Record, column: str, labels: tuple[str, ...]) -> Example:
    prompt = text_of(record, column)
    return Example(record.id, prompt, option_texts(prompt, labels), (0,), place=record.place)


def _either(record: Record, column: str, chat: Chat) -> Example:
    """A row that has no conversation may have a text in its place."""
    if record.row.get("messages") is None and record.row.get(column) is not None:
        return _prompt(record, column, chat)
    return asked_in(record, "messages", chat)


def _written(record: Record, layout: str, template: str) -> Example:
    return Example(record.id, written_prompt(record, layout, template), ("",), (0,), place=record.place)


def _prompt(record: Record, column: str, chat: Chat) -> Example:
    if isinstance(record.row.get(column), list):
        return asked_in(record, column, chat)
    return Example(record.id, text_of(record, column), ("",), (0,), place=record.place)
