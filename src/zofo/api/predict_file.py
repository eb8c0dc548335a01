"""Answers to the rows of a file of any size, beside them in a file of the same kind: part after part.

A part, of some hundred rows, is there whole or not at all, so a command that was killed goes on from there: each row is
answered once. What was begun with other rows, settings or weights is not gone on with.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from zofo.api.answered_parts import ROWS, Parts, is_begun, stamp
from zofo.api.out_of_memory import with_options
from zofo.api.predict import Asked, examples_of, open_predictor, options
from zofo.api.ranks import of_this_process, parallel_given
from zofo.config.json_text import dumps
from zofo.config.sections import exists
from zofo.data.annotated import Column, Style, kind_of, record_of, windows
from zofo.data.files import BadRows, Record
from zofo.data.formats import stream
from zofo.errors import InputError, printable
from zofo.eval.predictor import Predictor
from zofo.models._transformers import unwrapped
from zofo.models.sealed import sha256_of
from zofo.train.agreement import same_start, sum_of
from zofo.train.lease import Lease
from zofo.train.progress import counter
from zofo.zo.ranks import Ranks

HEAD = 100  # rows by whose columns a file is judged
STAMPED = re.compile(  # weights, words and settings of a run, an export or a model, and nothing that lies beside them
    r".*\.(safetensors|bin|jinja|model|yaml)|(.*config|tokenizer.*|vocab|added_tokens|special_tokens_map|manifest|run|"
    r"zofo|state|chat_template|.*\.index)\.json|(vocab|merges)\.txt"
)

MANY = 1000  # faulty rows after which no more are looked for


def predict_file(
    target: str | Path,
    file: str | Path,
    output: str | Path,
    *,
    task: str | None = None,
    adapter: str | None = None,
    model: str | None = None,
    overrides: Sequence[str] = (),
    text_column: str | None = None,
    prefix: str = "",
    max_new_tokens: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a file's rows, in their order and with all their columns, beside what a run, an export or a model says.

    The new columns are `prediction` and `probability_LABEL` for each label (`probabilities` where each row has options
    of its own), or `text`. file, output: .csv, .tsv, .jsonl, .json or .parquet, both of one kind. prefix: before the
    new columns' names. overwrite: replace the output, and begin anew where another command stopped. For the others see
    `zofo.predict`. Memory does not grow with the file. The same command goes on from where one was stopped.

    Returns {"rows": number, "output": path, "predictions": {label: rows}}, and `bad_rows`, {reason: number}, where some
    have no answer (task.on_bad_row=skip). Raises InputError, RunError.
    """
    parallel, overrides = parallel_given(overrides)
    asked = Asked(task, adapter, model, overrides, text_column, max_new_tokens, batch_size, seed)
    with of_this_process(parallel=parallel) as ranks:
        return _predict(target, Path(file), Path(output), asked, prefix, overwrite, ranks)


def _predict(
    target: str | Path, source: Path, place: Path, asked: Asked, prefix: str, overwrite: bool, ranks: Ranks
) -> dict[str, Any]:
    folder = place.with_name(f".{place.name}.parts")
    ranks.lead(lambda: _check_place(source, place, folder, overwrite))
    predictor, cfg = open_predictor(target, asked, _first(source), str(source), ranks)
    columns, bad = new_columns(predictor, prefix), BadRows(cfg.on_bad_row == "skip")
    rows, first = _look_over(source, predictor, columns, bad)
    plan = {
        "format": 1,
        "rows": {"n": rows, "sha256": sha256_of(source)},
        "target": _stamps(target, predictor),
        "settings": {"task": dataclasses.asdict(cfg), "prefix": prefix, "asked": _settings(asked, predictor)},
        "prompts": first,
    }
    plan = json.loads(dumps(plan))  # as it is read again
    facts = {key: plan[key] for key in ("rows", "settings", "prompts")} | {"batch_size": predictor.batch_size}
    if not ranks.alone:
        facts |= {"model": sum_of(predictor.model, ranks.shards), "device": predictor.loaded.device.type}
    same_start(ranks, facts)
    with Lease(folder) if ranks.leads else nullcontext() as lease:
        parts = Parts(folder, place, lease, Style.of(source), columns, rows, ranks)
        if any(ranks.told("begins" if lease is not None and parts.begin(plan, overwrite) else "")):
            with with_options("the prediction", options(asked)):
                parts.fill(source, predictor, bad.skip)
            ranks.lead(parts.end)
        summary = parts.clear() if lease is not None else {}
    with suppress(OSError):  # another command has begun there
        folder.rmdir() if ranks.leads else None
    left_out = bad.say(source.name)
    return {"rows": rows, "output": str(place), **summary, **({"bad_rows": left_out} if left_out else {})}


def _check_place(source: Path, place: Path, folder: Path, overwrite: bool) -> None:
    _check(source, place)
    if not is_begun(folder) and place.exists() and not overwrite:
        raise InputError(f"{place}: is there already; --overwrite replaces it, or choose another --output")


def _first(source: Path) -> list[Record]:
    """The rows by which the columns are judged."""
    rows = [record_of(source, line, row) for line, row in islice(stream(source), HEAD)]
    if not rows:
        raise InputError(f"{source}: no rows")
    return rows


def _check(source: Path, place: Path) -> None:
    """Raises InputError for two paths that cannot be a command's input and output."""
    kind, other = kind_of(source), kind_of(place)
    if "\0" in str(place):
        raise InputError(f"{printable(str(place), 300)}: is no path; choose another --output")
    if not source.is_file():
        raise InputError(f"{printable(str(source), 300)}: no such file")
    if not kind:
        raise InputError(f"{source}: unknown kind of file; known: .csv, .tsv, .jsonl, .json, .parquet")
    if other != kind:
        raise InputError(
            f"{place}: {source.name} is written beside its answers in its own kind; name it {place.stem}{kind}"
        )
    if place.is_dir():
        raise InputError(f"{place}: is a directory; give a file")
    if place.exists() and place.samefile(source):
        raise InputError(f"{place}: is the file that is read; choose another --output")


def new_columns(predictor: Predictor, prefix: str = "") -> list[Column]:
    """What stands beside a row's own columns."""
    if predictor.asking.kind == "text":
        return [Column(f"{prefix}text", "text")]
    first = Column(f"{prefix}prediction", "text")
    if not predictor.asking.labels:
        return [first, Column(f"{prefix}probabilities", "numbers")]
    return [first, *(Column(f"{prefix}probability_{label}", "number") for label in predictor.asking.labels)]


def _look_over(source: Path, predictor: Predictor, columns: Sequence[Column], bad: BadRows) -> tuple[int, str]:
    """(how many rows there are, a digest of the first ones' prompts and options). Raises InputError for rows that
    cannot be used: hours later would be too late."""
    count, first, names = 0, "", {column.name for column in columns}
    with counter(f"looking at {source.name}", None, silent=not predictor.ranks.leads) as (_, show):
        for window in windows(source, ROWS):
            _check_columns(window.records, names)
            examples = list(examples_of(predictor, window.records, bad).values())
            predictor.check(examples, bad)
            bad.places.clear()  # no row comes twice
            if not count:
                asked = [(e.prompt, e.answers, e.null_prompt) for e in examples]
                first = hashlib.sha256(dumps([asked, predictor.asking.labels]).encode()).hexdigest()
            count += len(window.records)
            if len(bad.faults) > MANY:
                break
            show(count)
    bad.check(source.name, count, 0)
    return count, first


def _check_columns(records: Sequence[Record], names: set[str]) -> None:
    """Raises InputError for a row that has one of the new columns."""
    for record in records:
        if twice := names & record.row.keys():
            raise InputError(
                f"{record.place}: has a column {min(twice)} already; --prefix TEXT puts something before the new "
                f"columns' names"
            )


def _stamps(target: str | Path, predictor: Predictor) -> dict[str, Any]:
    """Of the files that the answers hang on, {path: [bytes, when it was changed]}; nothing of a hub's id."""
    base = str(getattr(unwrapped(predictor.loaded.model).config, "_name_or_path", ""))
    folders = {}
    for folder in dict.fromkeys(Path(each).resolve() for each in (target, base) if each and exists(each)):
        files = [p for p in sorted(folder.rglob("*")) if STAMPED.fullmatch(p.name) and p.is_file()]
        inside = {p.relative_to(folder): p for p in files}
        folders[str(folder)] = {str(name): stamp(path) for name, path in inside.items() if not _is_beside(name.parts)}
    return {"name": str(target) if not folders else "", "files": folders}


def _is_beside(names: Sequence[str]) -> bool:
    """Whether a file in a target is none of what it answers with."""
    return any(name.startswith(".") for name in names) or names[0] in ("eval", "predictions")


def _settings(asked: Asked, predictor: Predictor) -> dict[str, Any]:
    """batch_size apart: where memory ran out, a smaller one goes on."""
    given = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(asked).items()}
    del given["batch_size"]
    return given | {"seed": predictor.seed}
