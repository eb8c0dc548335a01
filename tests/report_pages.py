"""A page of `zofo report` as a reader has it: its texts, tables and rows; and short runs that it is made of."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tests.conftest import sentiment_rows, write_rows
from zofo.api.finetune import finetune

VOID = {"meta", "input", "br", "link"}
HOSTILE = "<script>alert(1)</script> \"quoted\" 'twice' &amp; \u202egnp.exe {{ 7*7 }}"


class Page(HTMLParser):
    """tables: by caption, each a list of rows of cells. tags: (name, attributes). ids: of elements."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.rows: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self._table: list[list[str]] = []
        self._caption = ""
        self.feed(text)
        self.close()
        assert self._open == [], f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self._table, self._caption = [], ""
        elif tag == "tr":
            self._table.append([])
        elif tag in ("td", "th"):
            self._table[-1].append("")
        elif tag == "li" and (given.get("class") or "").startswith("row "):
            self.rows.append("")
        elif tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> too many"
        assert self._open.pop() == tag
        if tag == "table":
            self.tables[self._caption] = self._table

    def handle_data(self, data: str) -> None:
        if "script" in self._open:
            self.scripts[-1] += data
            return
        if "style" in self._open:
            return
        self.text += data
        if "caption" in self._open:
            self._caption += data
        elif self._open and {"td", "th"} & set(self._open):
            self._table[-1][-1] += data
        if "li" in self._open and self.rows:
            self.rows[-1] += data


def small_run(model: Path, folder: Path, name: str = "run", method: str = "bilevel-zofo", **options: Any) -> Path:
    """A run of a few steps on 60 rows of which one is HOSTILE; its directory."""
    rows = sentiment_rows(60)
    rows[-1]["text"] = rows[-2]["text"] = HOSTILE
    file = write_rows(folder / "rows.jsonl", rows)
    how = {"name": method, **({"inner_steps": 1} if method == "bilevel-zofo" else {})}
    small: dict[str, Any] = {
        "max_steps": 8,
        "batch_size": 4,
        "eval_steps": 4,
        "logging_steps": 2,
        "save_steps": 4,
        **options,
    }
    given = ["task.train_examples=20", "task.dev_examples=15", "task.test_examples=25"]
    run = finetune(str(model), str(file), how, output_dir=folder / name, overrides=given, **small)
    return run.path
