"""Rows drawn by a seed into train, dev and test."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence

from zofo.config.sections import TaskConfig
from zofo.data.chat import Make
from zofo.data.example import Example
from zofo.data.files import BadRows, Record, Tables, file_of
from zofo.data.spec import TaskSpec
from zofo.data.tables import no_train
from zofo.errors import InputError, printable

log = logging.getLogger("zofo")
MOST = 100_000  # rows that are looked at besides, once one is in error


def carved(tables: Tables, spec: TaskSpec, seed: int, only: str | None, name: str) -> Tables:
    """Tables with training rows, where a run needs them and the task has test rows alone."""
    if "train" in tables or only in tables:
        return tables
    if "test" not in tables or spec.carve is None:
        raise no_train(name)
    rows, order = tables["test"], list(range(len(tables["test"])))
    random.Random(f"{seed}/split/carve").shuffle(order)
    taken = round(len(order) * spec.carve)
    log.warning(
        "%s has test rows alone: %d of the %d are taken for train and dev, the other %d are the test set",
        name,
        taken,
        len(order),
        len(order) - taken,
    )
    return tables | {"train": [rows[i] for i in order[:taken]], "test": [rows[i] for i in order[taken:]]}


def sample(
    tables: Tables,
    make: Make,
    cfg: TaskConfig,
    seed: int,
    only: str | None,
    dev_rows: int | None = None,
    bad: BadRows | None = None,
) -> dict[str, list[Example]]:
    """{train, dev, test}. What has no file of its own is cut from train, and then shares no example with it.

    dev_rows: what is cut for dev of a task with few rows. only: see `load_task`. bad: of the rows that are drawn, too.
    """
    bad = bad or BadRows()
    with bad.gathered():
        return _sampled(tables, make, cfg, seed, only, dev_rows, bad)


def _sampled(
    tables: Tables, make: Make, cfg: TaskConfig, seed: int, only: str | None, dev_rows: int | None, bad: BadRows
) -> dict[str, list[Example]]:
    if only in tables and not cfg.num_fewshot:  # nothing else is read, so nothing else can be wrong
        tables = {only: tables[only]}
    wanted = {"dev": cfg.dev_examples, "test": cfg.test_examples, "train": cfg.train_examples}
    taken: dict[str, list[Example]] = {split: [] for split in wanted}
    for split in [split for split in tables if split != "train"]:
        rows = _Drawn(tables[split], make, f"{seed}/split/{split}", bad)
        taken[split] = [example for _, example in zip(range(wanted[split]), rows)]
        rows.check()
    if "train" not in tables:
        return taken
    cut = {split: size for split, size in wanted.items() if split not in tables}
    cut = _cut_sizes(len(tables["train"]), cut, cfg.train_examples)
    if "dev" in cut and dev_rows is not None:
        cut["dev"] = min(cfg.dev_examples, dev_rows, len(tables["train"]) // 2)
    owner: dict[tuple[str, tuple[str, ...]], str] = {}  # the same text, if cut by us, stays on one side
    shuffled = _Drawn(tables["train"], make, f"{seed}/split/train", bad)
    repeats = 0
    for split, size in {**cut, "train": cfg.train_examples}.items():
        while len(taken[split]) < size and (example := next(shuffled, None)):
            if owner.setdefault((example.prompt, example.answers), split) == split:
                taken[split].append(example)
            else:
                repeats += 1
    shuffled.check()
    for split, size in wanted.items():
        if size and not taken[split] and only in (None, split):  # then every row was looked at
            rows = f"{len(tables['train'])} rows, {len(owner)} distinct," if repeats else f"{len(tables['train'])} rows"
            raise InputError(f"{file_of(tables['train'])}: no {split} examples: {rows} are too few to be split")
    missed = len(taken["train"]) < cfg.train_examples  # with rows to spare, others have taken their place
    if repeats and missed:
        log.warning("%s: %d training rows repeat a dev or test row: left out", file_of(tables["train"]), repeats)
    return taken


def _cut_sizes(rows: int, wanted: dict[str, int], train: int) -> dict[str, int]:
    """How much of train becomes dev and test: what train does not need, and at least a tenth of the rows each."""
    spare = max(rows - train, 0)
    total = max(sum(wanted.values()), 1)
    return {split: min(n, max(spare * n // total, rows // 10, 1)) for split, n in wanted.items()}


class _Drawn(Iterator[Example]):
    """The records' examples in a seeded order. A row that cannot be used is an error, or left out (`BadRows`)."""

    def __init__(self, records: Sequence[Record], make: Make, seed: str, bad: BadRows) -> None:
        order = list(range(len(records)))
        random.Random(seed).shuffle(order)
        self._records, self._make, self._order, self._bad = records, make, iter(order), bad
        self._looked_at, self._before = 0, bad.counts.total()

    def __next__(self) -> Example:
        for i in self._order:
            record = self._records[i]
            self._looked_at += 1
            try:
                example = self._make(record)
                _check_text(example)
                return example
            except InputError as error:
                self._bad.refuse(error, record.place)
        raise StopIteration

    def check(self) -> None:
        """Raises InputError, see `BadRows.check`. Where a row is in error, all the others are looked at too."""
        if self._bad.faults:
            for _ in zip(range(MOST), self):
                pass
        self._bad.check(file_of(self._records), self._looked_at, self._before)


def _check_text(example: Example) -> None:
    """Raises InputError for half a character, which a template may write and no tokenizer reads."""
    for text in (example.prompt, *example.answers):
        if not text.isascii() and (half := next((char for char in text if "\ud800" <= char <= "\udfff"), None)):
            raise InputError(
                f"{example.place or example.id}: a lone surrogate, half a character ({printable(half)}), comes out; "
                "mend the template or drop the row"
            )
