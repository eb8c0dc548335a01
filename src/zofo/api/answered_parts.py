"""A file's answers as parts, each there whole or not at all, joined in the end: what a kill left is gone on from."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zofo.api.predict import all_nan, answer, warn
from zofo.config.json_text import read_json
from zofo.data.annotated import Column, Style, Window, join, windows, write_part
from zofo.data.files import BadRows
from zofo.errors import InputError, RunError
from zofo.eval.predictor import Answer, Predictor
from zofo.train.files import make_directory, naming, sync, write_json
from zofo.train.lease import NAME, Lease
from zofo.train.progress import counter
from zofo.zo.ranks import ALONE, Ranks

log = logging.getLogger("zofo")
ROWS = 512  # of a part
PLAN = "plan.json"
AGAIN = "--overwrite begins anew"


def stamp(path: Path) -> list[int] | None:
    """What a file has that another one in its place has not; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def is_begun(parts: Path) -> bool:
    """Whether a prediction was stopped there. A directory that one has left with nothing in it is taken away."""
    if (parts / PLAN).is_file():
        return True
    if parts.is_dir() and all(path.name.startswith(NAME) for path in parts.iterdir()):
        with Lease(parts):
            pass
        with suppress(OSError):
            parts.rmdir()
    return False


@dataclass
class Parts:
    """folder: where the parts are. place: the file that they become. rows: of the whole file.

    ranks: those that share the rows, of which rank 0, which has the lease, alone reads and writes parts.
    """

    folder: Path
    place: Path
    lease: Lease | None
    style: Style
    columns: Sequence[Column]
    rows: int
    ranks: Ranks = ALONE
    tally: Counter[str] = field(default_factory=Counter)  # of the labels, where all rows share them
    facts: Counter[str] = field(default_factory=Counter)
    done: list[Path] = field(default_factory=list)

    def begin(self, plan: Mapping[str, Any], overwrite: bool) -> bool:
        """Whether there is something to be done: False where a kill came after all was.

        Raises InputError where something else was begun here, or its output's place has been taken meanwhile.
        """
        known = self.folder / PLAN
        others = [p for p in self.folder.iterdir() if not p.name.startswith(".") and p != known]
        then = read_json(known, AGAIN) if known.is_file() else {}
        if others and not then:
            raise InputError(f"{self.folder}: is no directory of zofo's; move it away, or choose another --output")
        differ = [key for key in plan if then.get(key) != plan[key]]
        there, written = stamp(self.place), then.get("written")
        if then and not differ:
            if written and there == written["stamp"]:
                return False
            if there != then.get("replaces") and not overwrite:
                raise InputError(f"{self.place}: came there after this prediction was begun; --overwrite replaces it")
            return True
        if then and not overwrite:
            if written:
                raise InputError(f"{self.place}: is there already; --overwrite replaces it, or choose another --output")
            raise InputError(
                f"{self.place}: a prediction was begun with another {' and another '.join(differ)}; {AGAIN}"
            )
        for path in others:
            path.unlink()
        write_json(known, {**plan, "replaces": there})
        return True

    def fill(self, source: Path, predictor: Predictor, skips: bool) -> None:
        """Answer what has no answer yet."""
        leads = self.ranks.leads
        before = sum(self._counts(i)["rows"] for i in range(self._whole())) if leads else 0
        at = 0
        with counter(f"predicting {source.name}", self.rows, before, silent=not leads) as (say, show):
            if before:
                say(f"{source.name}: {before} of {self.rows} rows are answered already")
            try:
                for index, window in enumerate(windows(source, ROWS)):
                    bad = BadRows(skips)  # they have been counted before
                    if self.ranks.highest([float(leads and index >= self._whole())])[0]:
                        self._answer(index, window, predictor, bad, lambda done, at=at: show(at + done))
                    elif index == 0:  # the model is tried on the same rows as it was then
                        answer(predictor, window.records, bad)
                    at += len(window.records)
                    if leads:
                        self._count(index)
            except KeyboardInterrupt:
                log.warning(
                    "%s: %d of %d rows are answered; the same command goes on from there", source, at, self.rows
                )
                raise

    def _part(self, index: int) -> Path:
        return self.folder / f"{index:06d}{self.style.kind}"

    def _whole(self) -> int:
        """How many parts there are, from the first on without a gap."""
        while self._part(len(self.done)).is_file():
            self.done.append(self._part(len(self.done)))
        return len(self.done)

    def _answer(self, index: int, window: Window, predictor: Predictor, bad: BadRows, show: Any) -> None:
        cut, nan = predictor.cut, predictor.nan
        answers = answer(predictor, window.records, bad, show)
        if self.lease is None:
            return
        cut, nan = predictor.cut - cut, predictor.nan - nan
        answered = sum(each.prediction is not None or each.text is not None for each in answers)
        if nan and not answered + self.facts["answered"]:
            raise all_nan(window.records[0].place, nan)
        shared = predictor.asking.labels
        counts = Counter(a.prediction for a in answers if a.prediction is not None) if shared else {}
        facts = {"rows": len(answers), "answered": answered, "cut": cut, "nan": nan}
        self.lease.check()
        write_json(self.folder / f"{index:06d}.counts.json", {**facts, "predictions": dict(counts)})
        part = self._part(index)
        draft = part.with_name(f".{part.name}")
        with naming(part):
            write_part(draft, self.style, window, self.columns, [cells_of(each, self.columns) for each in answers])
        sync(draft)
        os.replace(draft, part)
        sync(self.folder)
        self.done.append(part)

    def _counts(self, index: int) -> dict[str, Any]:
        return read_json(self.folder / f"{index:06d}.counts.json", AGAIN)

    def _count(self, index: int) -> None:
        content = self._counts(index)
        self.tally.update(content.pop("predictions"))
        self.facts.update(content)

    def end(self) -> None:
        """The parts as one file, in the place of another at once. Raises RunError where rows came or went meanwhile."""
        if self.facts["rows"] != self.rows:
            raise RunError(
                f"{self.place}: {self.facts['rows']} rows are answered and there were {self.rows}; nothing is written"
            )
        draft = self.folder / f".joined{self.style.kind}"
        make_directory(self.place.parent)
        with naming(self.place):
            join(self.done, draft, self.style, self.columns, self.place.name.lower().endswith(".gz"))
        sync(draft)
        assert self.lease is not None
        self.lease.check()
        plan = read_json(self.folder / PLAN, AGAIN)
        write_json(self.folder / PLAN, {**plan, "written": {"stamp": stamp(draft), "summary": self._summary()}})
        os.replace(draft, self.place)
        sync(self.place.parent)

    def _summary(self) -> dict[str, Any]:
        counts = {"predictions": dict(self.tally.most_common())} if self.tally else {}
        return {"rows": self.rows, **{key: self.facts[key] for key in ("cut", "nan")}, **counts}

    def clear(self) -> dict[str, Any]:
        """Take the parts away, what is needed to go on last. Returns what became of the rows."""
        known = self.folder / PLAN
        summary = read_json(known, AGAIN)["written"]["summary"]
        for path in sorted(self.folder.iterdir()):
            if path != known and not path.name.startswith(NAME):
                path.unlink()
        known.unlink()
        facts = {key: summary.pop(key) for key in ("cut", "nan")}
        warn(self.place, facts, self.rows)
        return summary


def cells_of(given: Answer, columns: Sequence[Column]) -> list[Any]:
    """A row of the new columns; None where there is no answer."""
    if len(columns) == 1:
        return [given.text]
    if columns[1].kind == "numbers":
        return [given.prediction, list(given.probabilities) or None]
    return [given.prediction, *(given.probabilities or [None] * (len(columns) - 1))]
