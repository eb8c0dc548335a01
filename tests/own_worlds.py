"""Rows of one's own in every layout that zofo reads, and files of every kind that hold them."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]


def _chat(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def rows_in(layout: str, n: int = 20) -> Rows:
    """`n` rows, each its own; their words are the same in every layout."""
    rows: Rows = []
    for i in range(n):
        asked, answer = f"film {i}", ("good", "bad")[i % 2]
        rows.append(
            {
                "options": {"text": asked, "label": answer},
                "mapped": {"review": asked, "stars": answer, "id": str(i)},
                "completion": {"prompt": asked, "completion": f" {answer}"},
                "alpaca": {"instruction": asked, "input": "" if i % 2 else f"at {i}", "output": answer},
                "question": {"question": asked, "answer": answer},
                "messages": {"messages": _chat(asked, answer)},
                "sharegpt": {
                    "conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}],
                },
            }[layout]
        )
    return rows


LAYOUTS = ("options", "mapped", "completion", "alpaca", "question", "messages", "sharegpt")
KINDS = (".jsonl", ".json", ".csv", ".tsv", ".CSV", ".parquet", ".jsonl.gz", ".csv.gz")


def write(path: Path, rows: Rows) -> Path:
    """A file of the kind that its name says; a list is JSON in a cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    opened: Any = gzip.open if path.name.endswith(".gz") else open
    with opened(path, "wt", encoding="utf-8", newline="") as file:
        if kind == "jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        elif kind == "json":
            json.dump(rows, file)
        else:
            table = csv.DictWriter(file, list(rows[0]), delimiter="\t" if kind == "tsv" else ",")
            table.writeheader()
            for row in rows:
                table.writerow({key: v if isinstance(v, str) else json.dumps(v) for key, v in row.items()})
    return path
