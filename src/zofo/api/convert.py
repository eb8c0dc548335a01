"""Rows of any task as meta-training reads them (docs/meta_data.md): {"task", "input", "output", "options"}. No torch.

All rows of a file in its order, each split a file of its own; what a row cannot say in that form leaves it out, and is
counted. Everything is converted before the first file is written.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zofo.api.task_files import begins_with_a_row, write_task
from zofo.config.registry import canonical
from zofo.data.chat import Chat, Make
from zofo.data.example import Example
from zofo.data.files import Record, Tables, file_of
from zofo.data.hub import from_hub
from zofo.data.labels import say_slips
from zofo.data.own_files import own_task
from zofo.data.samples import carved
from zofo.data.spec import TaskSpec, check_columns, maker, used_columns
from zofo.data.tables import read_tables
from zofo.data.task import find_spec, local_tables
from zofo.errors import InputError, did_you_mean
from zofo.train.lease import Lease, refuse_in_use

FILES = {"train": "train.jsonl", "dev": "validation.jsonl", "test": "test.jsonl"}
# Meta-training keeps 254 tokens of input and output together, and cuts the input for it. Without a model's tokenizer
LONG = 1000  # characters of both are about as many in English prose
LONG_ANSWER = 400  # and an answer of so many can be too long alone, in formulas and code

Row = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A task's rows and how one becomes an example."""

    name: str
    tables: Tables
    make: Make
    template: str
    unread: tuple[str, ...] = ()  # columns that the default template reads and this one does not
    path: Path | None = None  # of the data, where it is on this machine


@dataclass(frozen=True)
class Written:
    """One file. left_out: {why: (how many rows, place of the first)}."""

    path: Path
    rows: Sequence[Row]
    left_out: Mapping[str, tuple[int, str]]


@dataclass(frozen=True)
class Converted:
    """One task's files; `notes` are lines for a person."""

    name: str
    template: str
    files: tuple[Written, ...]
    notes: tuple[str, ...]


def convert(
    tasks: Sequence[str],
    output_dir: str | Path,
    data: str | Path | None = None,
    template: str | None = None,
    examples: Mapping[str, int | None] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    max_answer: int | None = None,
) -> list[Converted]:
    """Write output_dir/<task>/{train,validation,test}.jsonl for each task.

    data: the task's directory or file, or one with a directory for each task. examples: {train, dev, test: at most so
    many rows, sampled by the seed; 0 for no such file}; all where it is None. max_answer: rows with a longer answer, in
    characters, are left out. Raises InputError, and then no task is
    written, before any file is.
    """
    out, limits = Path(output_dir), examples or {}
    sources = [_source(name, _data_of(name, data, len(tasks) > 1), template, seed) for name in tasks]
    _distinct(source.name for source in sources)
    refuse_in_use(out)  # first: that a task is there already is its doing
    for source in sources:
        _check_target(out, source, overwrite)
    results = []
    for source in sources:
        files = tuple(
            _file(source, split, out / source.name / FILES[split], limits.get(split), seed, max_answer)
            for split in FILES
            if split in source.tables and limits.get(split) != 0
        )
        if not files:
            raise InputError(f"{source.name}: nothing is left to write: it has rows for {', '.join(source.tables)}")
        results.append(Converted(source.name, source.template, files, tuple(_notes(source, files))))
    with Lease(out):
        for converted in results:
            write_task(out / converted.name, {file.path.name: file.rows for file in converted.files})
    return results


# ---------------------------------------------------------------------------------------------------------- the rows


def _data_of(name: str, data: str | Path | None, several: bool) -> Path | None:
    """A task's own directory in `data`, where there is one, else `data` itself, which then is of this task alone."""
    if data is None:
        return None
    path, task = Path(data), canonical(Path(name).stem)
    folders = [f for f in path.iterdir() if f.is_dir()] if path.is_dir() else []
    if of_task := [f for f in folders if canonical(f.name) == task]:
        return of_task[0]
    if several and find_spec(name) is not None:
        if not path.is_dir():
            raise InputError(f"{path}: is no directory; for several tasks give one that holds a directory for each")
        near = did_you_mean(task, [f.name for f in folders])
        raise InputError(f"{path}: no directory {task} in it{near}; for several tasks it has one of each task's name")
    return path


def _source(name: str, data: Path | None, template: str | None, seed: int) -> Source:
    spec = find_spec(name)
    if spec is None:
        if data is not None:
            raise InputError(f"{name}: already names the data; convert it by itself, without --data")
        return _own_source(Path(name), template)
    task = canonical(Path(name).stem)
    template = template or _best_template(spec)
    make = maker(spec, template)  # first: a wrong name is told before any data is read
    tables = local_tables(data, spec, task) if data else from_hub(spec, task, None)
    check_columns(spec, template, tables)
    if "train" not in tables and "test" in tables and spec.carve is not None:
        tables = carved(tables, spec, seed, None, task)  # as a run has it
    unread = sorted(_read(spec, "default") - _read(spec, template))
    return Source(task, tables, make, template, tuple(unread), data)


def _own_source(path: Path, template: str | None) -> Source:
    tables = read_tables(path)
    task = own_task(tables, template or "plain", None, Chat(None))
    if task.seen is not None:
        say_slips(task.seen, path.name)
    name = path.resolve().name  # of "." too
    return Source(name.partition(".")[0] or name, tables, task.make, template or "plain", path=path)


def _best_template(spec: TaskSpec) -> str:
    """The input without words around it, as MetaICL has it, unless something the answer hangs on is left out of it."""
    whole = "plain" in spec.templates and _read(spec, "default") <= _read(spec, "plain")
    return "plain" if whole else "default"


def _read(spec: TaskSpec, template: str) -> frozenset[str]:
    """Columns that a template reads."""
    used = used_columns(spec)[f'template "{template}"']
    return used if isinstance(used, frozenset) else frozenset()


def meta_row(name: str, example: Example) -> Row | str:
    """An example as a row, or why it cannot be one."""
    prompt = example.prompt.rstrip()
    if len(example.answers) == 1:
        return {"task": name, "input": prompt, "output": _continued(example), "options": []}
    texts = [answer.strip() for answer in example.answers]
    if len(set(texts)) < len(texts):
        return "two of the answers are the same text"
    right = example.gold[0]
    options = [text for i, text in enumerate(texts) if i == right or i not in example.gold]
    if len(options) < 2:  # a second right answer would count as a wrong one: it is no option
        return "all answers are right"
    return {"task": name, "input": prompt, "output": texts[right], "options": options}


def _continued(example: Example) -> str:
    """The text that follows the prompt. A newline is written between the two: an indentation after it is the text's."""
    answer = example.answers[0].rstrip()
    text = answer.lstrip()
    before = example.prompt[len(example.prompt.rstrip()) :] + answer[: len(answer) - len(text)]
    return before.rpartition("\n")[2] + text if "\n" in before else text


def _file(source: Source, split: str, path: Path, limit: int | None, seed: int, longest: int | None) -> Written:
    """The split's rows in the order of its file; with a limit so many of them, drawn by the seed."""
    records = source.tables[split]
    order = list(range(len(records)))
    if limit is not None:
        random.Random(f"{seed}/meta/{source.name}/{split}").shuffle(order)
    rows: dict[int, Row] = {}
    left: dict[str, list[int]] = {}
    for index in order:
        if limit is not None and len(rows) == limit:
            break
        row = meta_row(source.name, _example(source, records[index], split, hopeful=not rows))
        if longest is not None and isinstance(row, dict) and _answer(row) > longest:
            row = f"an answer has more than {longest} characters"
        if isinstance(row, str):
            left.setdefault(row, []).append(index)
        else:
            rows[index] = row
    if not rows:
        why = "; ".join(left)
        raise InputError(f"{file_of(records)}: no row can be converted: in all {len(records)} {why}")
    counts = {why: (len(those), records[min(those)].place) for why, those in left.items()}
    return Written(path, [rows[index] for index in sorted(rows)], counts)


def _example(source: Source, record: Record, split: str, hopeful: bool) -> Example:
    try:
        return source.make(record)
    except InputError as e:
        hint = f"; a {split} file that hides its labels cannot be converted: take it out of the directory"
        raise InputError(f"{e}{hint if hopeful and split != 'train' and 'label' in str(e) else ''}") from None


# --------------------------------------------------------------------------------------------------------- the files


def _distinct(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in map(canonical, names):
        if name in seen:
            raise InputError(f"task {name} is named twice; name it once, or call one of the files something else")
        seen.add(name)


def _check_target(out: Path, source: Source, overwrite: bool) -> None:
    """Raises InputError where the task's directory may not be written."""
    target = out / source.name
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give a directory")
    for other in out.iterdir() if out.is_dir() else ():
        if canonical(other.name) == canonical(target.name) and other.name != target.name:
            raise InputError(f"{other}: is task {source.name} by another spelling; give another directory or rename it")
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(f"{target}: is a file; give another --output-dir")
    if source.path is not None and source.path.resolve() in (target.resolve(), *target.resolve().glob("*")):
        raise InputError(f"{target}: holds the rows that are to be converted; give another --output-dir")
    present = sorted(f.name for f in target.iterdir())
    if others := [name for name in present if name not in FILES.values() or not begins_with_a_row(target / name)]:
        raise InputError(f"{target}: holds {others[0]}, which is none of ours; give another --output-dir")
    if present and not overwrite:
        raise InputError(f"{target}: exists; give another --output-dir, or --overwrite to replace it")


# ------------------------------------------------------------------------------------------------------ what is said


def _answer(row: Row) -> int:
    """Characters of the longest answer."""
    return max(map(len, row["options"] or [row["output"]]))


def _notes(source: Source, files: Sequence[Written]) -> list[str]:
    """What a person should know of the rows as they came out."""
    notes = []
    if source.unread:
        notes.append(
            f"template {source.template} leaves out {', '.join(source.unread)} (others: zofo show {source.name})"
        )
    if "train" not in source.tables:
        notes.append("no train rows: it can only be a target task, without demonstrations and without tuning")
    rows = [row for file in files for row in file.rows]
    answers = [_answer(row) for row in rows]
    if long := sum(len(row["input"]) + answer > LONG for row, answer in zip(rows, answers)):
        notes.append(
            f"{long} of {len(rows)} rows are over {LONG} characters: meta-training cuts the end of such an input, so "
            "that it has 256 tokens with its answer"
        )
    if long := sum(answer > LONG_ANSWER for answer in answers):
        notes.append(
            f"{long} of {len(rows)} rows have an answer of over {LONG_ANSWER} characters: meta-training refuses one "
            "that leaves no room in 256 tokens (--max-answer leaves them out)"
        )
    return notes
