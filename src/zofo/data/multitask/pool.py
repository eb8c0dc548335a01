"""One task's rows for a setting: those of its files, by split, and what is drawn from them by a seed.

A file is read when its rows are asked for, and once. The two forms of files are `_rows`' (docs/meta_data.md).
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from zofo.config.registry import canonical
from zofo.data.files import BadRows
from zofo.data.multitask.rows import File, Row, files_of, read_rows
from zofo.errors import InputError, did_you_mean

log = logging.getLogger("zofo")
Kind = Literal["classification", "multiple-choice", "free-form"]


class Pool:
    """A task's rows, by split. What draws is keyed by the seed and the task's name.

    kind: "classification" where all rows share one set of options; "multiple-choice" where they have their own;
    "free-form" where they have none. labels: of a classification task, in the order of the first train row; every
    row's options are brought to it. Raises InputError naming file, line and fix.
    """

    def __init__(self, name: str, files: Sequence[File], bad: BadRows | None = None):
        """bad: what is done with rows that cannot be used."""
        self.name, self.bad = name, bad or BadRows()
        self._files = sorted(files, key=lambda f: (("train", "dev", "test").index(f.split), -f.k, f.seed or 0))
        self._read: dict[Path, list[Row]] = {}
        self._kind: Kind | None = None
        self._labels: tuple[str, ...] = ()
        self._said: set[tuple[int, int]] = set()

    @property
    def paths(self) -> list[Path]:
        return [file.path for file in self._files]

    @property
    def apart(self) -> bool:
        """Whether what is measured on has a file of its own."""
        return any(file.split != "train" for file in self._files)

    @property
    def kind(self) -> Kind:
        return self._settled()[0]

    @property
    def labels(self) -> tuple[str, ...]:
        return self._settled()[1]

    @property
    def metric(self) -> str:
        return "macro_f1" if self.kind == "classification" else "accuracy"

    def forget(self) -> None:
        """Drop the rows that were read: the files of 40 training tasks are a gigabyte of texts."""
        self._read.clear()

    def train(self, n: int, seed: int) -> list[Row]:
        """At most n train rows, a seeded sample."""
        return self._shuffled(self._train(), f"{seed}/pool/train")[:n]

    def demonstrations(self, k: int, seed: int) -> list[Row]:
        """k different rows: the first of MetaICL's file for this seed, else drawn from the train rows with it."""
        rows, where = self._shown(k, seed) if k else ([], "")
        if len(rows) < k:
            raise InputError(
                f"{self.name}: {k} demonstrations (num_fewshot), and {where} has {len(rows)} different ones; give a "
                "smaller number or more rows"
            )
        return rows[:k]

    def _shown(self, k: int, seed: int) -> tuple[list[Row], str]:
        """(rows, the first k of which are shown; where they are from)"""
        files = [f for f in self._files if f.split == "train" and f.seed == seed and f.k >= k]
        if files:
            return self._rows(files[-1]), files[-1].shown  # sorted by falling k
        rows = self._shuffled(self._train(), f"{seed}/pool/shown")
        return list({row.text: row for row in rows}.values()), f"the train rows of {self.name}"

    def used(self, each: int, k: int, seeds: Iterable[int]) -> list[Row]:
        """All rows that any of the seeds shows or tunes on; none where there are no train rows."""
        if self._files[0].split != "train":
            return []
        return [row for seed in seeds for row in (*self._few(each, seed)[0], *self._shown(k, seed)[0][:k])]

    def few(self, each: int, seed: int) -> list[Row]:
        """`each` rows of every class, or `each` rows where there are no classes: MetaICL's largest train file of the
        seed, else the train rows in an order drawn with it. A class with fewer rows gives those, with a warning.
        """
        rows, taken = self._few(each, seed)
        if self.kind != "classification" and len(rows) < each:
            self._warn(each, seed, f"{len(rows)} rows to tune on, where {each} are asked for")
        elif short := [f'"{label}" has {taken[label]}' for label in self.labels if taken[label] < each]:
            self._warn(each, seed, f"fewer than {each} rows to tune on in some classes: {', '.join(short)}")
        return rows

    def _few(self, each: int, seed: int) -> tuple[list[Row], Counter[str]]:
        """(the rows, how many of each class)"""
        files = [f for f in self._files if f.split == "train" and f.seed == seed]
        rows = self._rows(files[0]) if files else self._shuffled(self._train(), f"{seed}/pool/few")
        if self.kind != "classification":
            return rows[:each], Counter()
        taken: Counter[str] = Counter()
        chosen = []
        for row in rows:
            if taken[row.output] < each:
                taken[row.output] += 1
                chosen.append(row)
        return chosen, taken

    def _warn(self, each: int, seed: int, text: str) -> None:
        if (each, seed) not in self._said:  # once, however often they are drawn
            self._said.add((each, seed))
            log.warning("%s, seed %d: %s", self.name, seed, text)

    def test(self, n: int, seed: int, without: Iterable[Row] = ()) -> list[Row]:
        """At most n rows in a seeded order, none of them `without`: of the test file, else of dev, else of train.

        MetaICL's test files hold the same rows for every seed, so that of the lowest is taken. Raises InputError where
        none is left.
        """
        every, held = self._measured()
        seen = {row.text for row in without}
        rows = [row for row in every if row.text not in seen]
        if not rows:
            raise InputError(
                f"{self.name}: all its rows are shown or tuned on, and none is left to measure on; add more"
            )
        if held and len(rows) < len(every):
            log.info("%s: %d test rows are shown or tuned on, and left out", self.name, len(every) - len(rows))
        return self._shuffled(rows, f"{seed}/pool/test")[:n]

    # ------------------------------------------------------------------------------------------------- files and rows

    def _train(self) -> list[Row]:
        file = self._files[0]
        if file.split != "train":
            raise InputError(
                f"{file.path.parent}: no train rows of {self.name}; expected train.jsonl or "
                f"{self.name}_<k>_<seed>_train.jsonl"
            )
        return self._rows(file)

    def size(self, split: Literal["train", "test"]) -> int:
        """Rows of the file that `train` or `test` draws from."""
        return len(self._train() if split == "train" else self._measured()[0])

    def _measured(self) -> tuple[list[Row], bool]:
        """(all rows that may be measured on, whether they have a file of their own)"""
        held = [f for f in self._files if f.split == "test"] or [f for f in self._files if f.split == "dev"]
        return (self._rows(held[0]), True) if held else (self._train(), False)

    def _shuffled(self, rows: Sequence[Row], key: str) -> list[Row]:
        return random.Random(f"{key}/{self.name}").sample(rows, len(rows))

    def _settled(self) -> tuple[Kind, tuple[str, ...]]:
        """(kind, labels), which the first file's rows decide."""
        if self._kind is None:
            self._rows(self._files[0])
        assert self._kind is not None
        return self._kind, self._labels

    def _rows(self, file: File) -> list[Row]:
        if file.path not in self._read:
            rows = read_rows(file, self.name, self.bad)
            if file is self._files[0]:
                self._kind, self._labels = _kind_of(rows)
            self._read[file.path] = self._ordered(rows)
        return self._read[file.path]

    def _ordered(self, rows: list[Row]) -> list[Row]:
        """The rows with their options in the labels' order. Raises InputError where one is of another kind."""
        kind, labels = self._settled()
        ordered = []
        for row in rows:
            same = bool(row.options) == (kind != "free-form")
            if not same or (labels and row.options != labels and set(row.options) != set(labels)):
                expected = ", ".join(labels) if labels else "none" if kind == "free-form" else "two or more"
                error = InputError(
                    f"{row.place}: options {', '.join(row.options) or 'none'}; the rows of {self._files[0].shown} have "
                    f"{expected}; mend the row, or make two tasks of it"
                )
                self.bad.refuse(error, row.place)
                continue
            ordered.append(replace(row, options=labels) if labels else row)
        if self.bad.faults:
            self.bad.check(self.name, len(rows), 0)
        return ordered


def _kind_of(rows: Sequence[Row]) -> tuple[Kind, tuple[str, ...]]:
    """(kind, labels). Raises InputError where some rows have options and some have none."""
    first = rows[0]
    odd = next((row for row in rows if bool(row.options) != bool(first.options)), None)
    if odd is not None:
        has, has_not = (odd, first) if odd.options else (first, odd)
        raise InputError(
            f"{has_not.place}: no options, and {has.place} has some; give all rows of a task options, or none"
        )
    if not first.options:
        return "free-form", ()
    counts = Counter(frozenset(row.options) for row in rows)
    if len(counts) == 1:
        return "classification", first.options
    (usual, most), few = counts.most_common(1)[0], 20
    if most >= few and most >= 0.9 * len(rows):  # rather a slip than a task whose rows have their own
        odd = next(row for row in rows if frozenset(row.options) != usual)
        log.warning(
            "%s: options %s, where %d of %d rows have %s: so the task counts as multiple choice; if that is a mistake, "
            "mend or drop the row",
            odd.place,
            ", ".join(odd.options),
            most,
            len(rows),
            ", ".join(sorted(usual)),
        )
    return "multiple-choice", ()


def open_pool(directory: Path, name: str, bad: BadRows | None = None) -> Pool:
    """The pool of directory/name/, where - and _ are the same. Nothing is read yet.

    Raises InputError where there is no such directory, or it holds no files of either form, or of both.
    """
    folder = find_folder(directory, name)
    if folder is None:
        near = did_you_mean(name, [path.name for path in directory.iterdir() if path.is_dir()])
        raise InputError(f"{directory}: no directory of the task {name}{near}")
    return Pool(name, files_of(folder, name), bad)


def find_folder(directory: Path, name: str) -> Path | None:
    """A task's directory, None where there is none. Raises InputError where there are two."""
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory; expected one with a directory for each task")
    folders = [p for p in sorted(directory.iterdir()) if p.is_dir() and canonical(p.name) == canonical(name)]
    if len(folders) > 1:
        raise InputError(f"{directory}: {folders[0].name} and {folders[1].name} are one task's name; keep one of them")
    return folders[0] if folders else None
