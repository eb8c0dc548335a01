"""Answers to the rows of a file of any size, beside them in a file of the same kind: part after part.

A part, of some hundred rows, is there whole or not at all, so a command that was killed goes on from there: each row is
answered once. What was begun with other rows, settings or weights is not gone on with.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zofo.api.out_of_memory import with_options
from zofo.api.predict import Asked, answer, examples_of, open_predictor, options
from zofo.config.json_text import read_json
from zofo.data.annotated import Column, Style, Window, join, kind_of, windows, write_part
from zofo.data.files import BadRows, read_head
from zofo.errors import InputError, RunError, printable
from zofo.eval.predictor import Answer, Predictor
from zofo.models.sealed import sha256_of
from zofo.train.files import delete_tree, make_directory, naming, sync, write_json
from zofo.train.lease import Lease
from zofo.train.progress import counter

log = logging.getLogger("zofo")
ROWS = 512  # of a part
PLAN = "plan.json"


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

    Returns {"rows": number, "output": path, "predictions": {label: rows}, ...}. Raises InputError, RunError.
    """
    asked = Asked(task, adapter, model, overrides, text_column, max_new_tokens, batch_size, seed)
    source, place = Path(file), Path(output)
    _check(source, place)
    parts = place.with_name(f".{place.name}.parts")
    if place.exists() and not (overwrite or (parts / PLAN).is_file()):
        raise InputError(f"{place}: is there already; --overwrite replaces it, or choose another --output")
    predictor, cfg = open_predictor(target, asked, read_head(source), str(source))
    columns, bad = new_columns(predictor, prefix), BadRows(cfg.on_bad_row == "skip")
    rows = _look_over(source, predictor, columns, bad)
    plan = {
        "format": 1,
        "rows": {"n": rows, "sha256": sha256_of(source)},
        "target": {"path": str(target), "files": _stamps(Path(target))},
        "settings": {"task": dataclasses.asdict(cfg), "prefix": prefix, "asked": _settings(asked, predictor)},
    }
    with Lease(parts):
        job = _Job(parts, Style.of(source), columns, rows)
        job.begin(plan, overwrite, place)
        with with_options("the prediction", options(asked)):
            job.run(source, predictor, bad)
        job.end(place)
    bad.say(source.name)
    delete_tree(parts)
    return job.summary(place)


def _check(source: Path, place: Path) -> None:
    """Raises InputError for two paths that cannot be a command's input and output."""
    kind, other = kind_of(source), kind_of(place)
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


def cells_of(given: Answer, columns: Sequence[Column]) -> list[Any]:
    """A row of the new columns; None where there is no answer."""
    if len(columns) == 1:
        return [given.text]
    if columns[1].kind == "numbers":
        return [given.prediction, list(given.probabilities) or None]
    return [given.prediction, *(given.probabilities or [None] * (len(columns) - 1))]


def _look_over(source: Path, predictor: Predictor, columns: Sequence[Column], bad: BadRows) -> int:
    """How many rows there are. Raises InputError for the first that cannot be used: hours later would be too late."""
    count, names = 0, {column.name for column in columns}
    for window in windows(source, ROWS):
        count += len(window.records)
        for record in window.records:
            if twice := names & record.row.keys():
                raise InputError(
                    f"{record.place}: has a column {min(twice)} already; --prefix TEXT puts something before the new "
                    f"columns' names"
                )
        examples_of(predictor, window.records, bad)
    bad.check(source.name, count, 0)
    return count


def _stamps(target: Path) -> dict[str, list[int]]:
    """{file: [bytes, when it was changed]} of what the answers hang on; nothing of a hub's id."""
    files = sorted(p for p in target.rglob("*") if p.is_file() and p.suffix in (".json", ".safetensors", ".bin"))
    return {str(p.relative_to(target)): [p.stat().st_size, p.stat().st_mtime_ns] for p in files}


def _settings(asked: Asked, predictor: Predictor) -> dict[str, Any]:
    given = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(asked).items()}
    return given | {"batch_size": predictor.batch_size, "seed": predictor.seed}


@dataclass
class _Job:
    """parts: the directory of the parts. rows: of the whole file."""

    parts: Path
    style: Style
    columns: Sequence[Column]
    rows: int
    tally: Counter[str] = field(default_factory=Counter)
    facts: Counter[str] = field(default_factory=Counter)
    done: list[Path] = field(default_factory=list)

    def begin(self, plan: Mapping[str, Any], overwrite: bool, place: Path) -> None:
        """Raises InputError where something else was begun here."""
        known = self.parts / PLAN
        others = [p.name for p in self.parts.iterdir() if not p.name.startswith(".lock")]
        if others and not known.is_file():
            raise InputError(f"{self.parts}: is no directory of zofo's; move it away, or choose another --output")
        if known.is_file():
            then = read_json(known, "--overwrite begins anew")
            differ = [key for key in plan if then.get(key) != plan[key]]
            if not differ:
                return
            if not overwrite:
                what = " and another ".join(differ)
                raise InputError(f"{place}: a prediction was begun with another {what}; --overwrite begins anew")
            for name in others:
                (self.parts / name).unlink()
        write_json(known, plan)

    def run(self, source: Path, predictor: Predictor, bad: BadRows) -> None:
        at = 0
        before = sum(self._counts(i)["rows"] for i in range(self._whole()))
        if before:
            log.info("%s: %d of %d rows are answered already", source, before, self.rows)
        with counter(f"predicting {source.name}", self.rows, before) as (say, show):
            if before:
                say(f"{source.name}: {before} of {self.rows} rows are answered already")
            try:
                for index, window in enumerate(windows(source, ROWS)):
                    if index >= self._whole():
                        self._answer(index, window, predictor, bad, lambda done, at=at: show(at + done))
                    elif index == 0:  # the model is tried on the same rows as it was then
                        answer(predictor, window.records, BadRows(True))
                    at += len(window.records)
                    self._count(index)
            except KeyboardInterrupt:
                log.warning(
                    "%s: %d of %d rows are answered; the same command goes on from there", source, at, self.rows
                )
                raise

    def _part(self, index: int) -> Path:
        return self.parts / f"{index:06d}{self.style.kind}"

    def _whole(self) -> int:
        """How many parts there are, from the first on without a gap."""
        while self._part(len(self.done)).is_file():
            self.done.append(self._part(len(self.done)))
        return len(self.done)

    def _answer(self, index: int, window: Window, predictor: Predictor, bad: BadRows, show: Any) -> None:
        cut, nan = predictor.cut, predictor.nan
        answers = answer(predictor, window.records, bad, show)
        if predictor.nan - nan == len(answers):
            raise RunError(
                f"{window.records[0].place}: the scores of all {len(answers)} rows from here on are NaN, so there is "
                f"no answer: the model's weights are not finite, or overflow in its dtype (try model.dtype=float32)"
            )
        counts = Counter(a.prediction for a in answers if a.prediction is not None)
        facts = {"rows": len(answers), "cut": predictor.cut - cut, "nan": predictor.nan - nan}
        write_json(self.parts / f"{index:06d}.counts.json", {**facts, "predictions": dict(counts)})
        part = self._part(index)
        draft = part.with_name(f".{part.name}")
        cells = [cells_of(each, self.columns) for each in answers]
        with naming(part):
            write_part(draft, self.style, window, self.columns, cells)
        sync(draft)
        os.replace(draft, part)
        sync(self.parts)
        self.done.append(part)

    def _counts(self, index: int) -> dict[str, Any]:
        return read_json(self.parts / f"{index:06d}.counts.json", "--overwrite begins anew")

    def _count(self, index: int) -> None:
        content = self._counts(index)
        self.tally.update(content.pop("predictions"))
        self.facts.update(content)

    def end(self, place: Path) -> None:
        """The parts as one file, in the place of another at once. Raises RunError where rows came or went meanwhile."""
        if self.facts["rows"] != self.rows:
            raise RunError(
                f"{place}: {self.facts['rows']} rows are answered and there were {self.rows}; nothing is written"
            )
        draft = self.parts / f".joined{self.style.kind}"
        make_directory(place.parent)
        with naming(place):
            join(self.done, draft, self.style, self.columns, place.name.lower().endswith(".gz"))
        sync(draft)
        os.replace(draft, place)
        sync(place.parent)
        for key, what in (
            ("cut", "rows were longer than the model takes and lost the beginning of their prompts"),
            ("nan", "rows have scores that are NaN: no prediction"),
        ):
            if self.facts[key]:
                log.warning("%s: %d of %d %s", place, self.facts[key], self.rows, what)

    def summary(self, place: Path) -> dict[str, Any]:
        counts = {"predictions": dict(self.tally.most_common())} if self.tally else {}
        return {"rows": self.rows, "output": str(place), **counts}
