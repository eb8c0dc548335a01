"""A task's rows from the hub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zofo.data.files import Record, Tables
from zofo.data.spec import TaskSpec
from zofo.errors import InputError, out_of_memory


class _HubRows(Sequence[Record]):
    """Rows of a hub data set, decoded when asked for: a sample of 1000 must not read 400,000."""

    def __init__(self, rows: Any, prefix: str):
        self.rows, self.prefix = rows, prefix

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        place = f"{self.prefix}/{index}"
        return Record(place, f"{self.prefix}:{index}", self.rows[index])


def needs_data(spec: TaskSpec, name: str) -> InputError:
    return InputError(f"task {name} needs data: {spec.missing}")


def from_hub(spec: TaskSpec, name: str, only: str | None) -> Tables:
    if spec.hub is None:
        raise needs_data(spec, name)
    from datasets import load_dataset

    tables: Tables = {}
    try:
        for split, theirs in (spec.splits or {"train": "train"}).items():
            if only == "test" and split == "dev":  # nothing is looked at that is not needed
                continue
            rows = load_dataset(spec.hub.path, spec.hub.name, split=theirs, revision=spec.hub.revision)
            tables[split] = _HubRows(rows, f"{name}/{theirs}")
    except Exception as e:  # no network, a renamed data set, a gated one: the fix is the same
        if out_of_memory(e):
            raise
        what = f"{spec.hub.path} {spec.hub.name or ''}".strip()
        reason = (str(e).splitlines() or [""])[0] or type(e).__name__
        raise InputError(
            f"task {name}: cannot load {what} from the hub ({reason}); give task.data=DIR with train.jsonl "
            f"[, validation.jsonl, test.jsonl], columns: {', '.join(spec.columns)}"
        ) from None
    return tables
