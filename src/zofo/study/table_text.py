"""A table of a comparison, and how it is written: markdown, CSV, LaTeX, plain texts for JSON.

One table is a list of rows of cells. A cell knows whether it is the best.
"""

from __future__ import annotations

import csv as csv_module
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Entry:
    """text: as people read it. best: shown bold. value: as CSV has it, where it is a number."""

    text: str
    best: bool = False
    value: float | None = None


@dataclass(frozen=True)
class Table:
    """caption: what a paper has beside it, sentences that name metric, split and seeds; the title if left out."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Entry]]
    notes: Sequence[str] = ()
    caption: str = ""


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def plain(table: Table) -> dict[str, Any]:
    """For JSON: its title, head, lines of texts, notes."""
    return {
        "title": table.title,
        "head": list(table.head),
        "rows": [[cell.text for cell in line] for line in table.rows],
        "notes": list(table.notes),
    }


def markdown(parts: Sequence[Table]) -> str:
    out = []
    for part in parts:
        head = [_cell_of_markdown(text) for text in part.head]
        rows = [[_bold(entry, "**{}**", _cell_of_markdown) for entry in row] for row in part.rows]
        widths = [max(3, *(len(row[i]) for row in [head, *rows])) for i in range(len(head))]
        out += ["", f"**{_cell_of_markdown(part.title)}**", ""]
        rule = [("-" * widths[0])] + ["-" * (width - 1) + ":" for width in widths[1:]]
        for row in (head, rule, *rows):
            out.append("| " + " | ".join(text.ljust(width) for text, width in zip(row, widths)) + " |")
        out += ["", *part.notes] if part.notes else []
    return "\n".join(out[1:]) + "\n"


def csv(parts: Sequence[Table]) -> str:
    """All parts after each other, `table` the first column; numbers in full, mean and text beside each other."""
    file = io.StringIO()
    writer = csv_module.writer(file, lineterminator="\n")
    writer.writerow(["table", "row", "column", "value", "shown", "best"])
    for part in parts:
        for row in part.rows:
            for name, entry in zip(part.head[1:], row[1:]):
                value = "" if entry.value is None or not math.isfinite(entry.value) else repr(float(entry.value))
                writer.writerow([part.title, row[0].text, name, value, entry.text, int(entry.best)])
    return file.getvalue()


def latex(parts: Sequence[Table]) -> str:
    """booktabs tables: \\usepackage{booktabs}. Notes stand below each, in \\footnotesize."""
    out = ["% \\usepackage{booktabs}"]
    for part in parts:
        out += ["\\begin{table}", "  \\centering", f"  \\caption{{{_tex(part.caption or sentence(part.title))}}}"]
        out.append(f"  \\label{{tab:{_slug(part.title)}}}")
        out += [f"  \\begin{{tabular}}{{l{'c' * (len(part.head) - 1)}}}", "    \\toprule"]
        out.append("    " + " & ".join(map(_tex, part.head)) + " \\\\")
        out.append("    \\midrule")
        for row in part.rows:
            out.append("    " + " & ".join(_bold(entry, "\\textbf{{{}}}", _tex) for entry in row) + " \\\\")
        out += ["    \\bottomrule", "  \\end{tabular}"]
        if part.notes:
            lines = [f"    {_tex(note)}.\\par" for note in part.notes]
            out += ["  \\par\\smallskip", "  {\\footnotesize", *lines, "  }"]
        out.append("\\end{table}")
    return "\n".join(out) + "\n"


def _bold(entry: Entry, how: str, escape: Callable[[str], str]) -> str:
    text = escape(entry.text)
    return how.format(text) if entry.best else text


def _cell_of_markdown(text: str) -> str:
    return re.sub(r"([|*_`\\<>\[\]])", r"\\\1", " ".join(text.split())) if re.search(r"[|*_`\\<>]", text) else text


TEX = {"\\": r"\textbackslash{}", "~": r"$\sim$", "^": r"\textasciicircum{}", "±": r"$\pm$"}
TEX |= {char: f"\\{char}" for char in "&%$#_{}"}


MINUS = re.compile(r"(?<![\w.)\]-])-(?=\.?\d)")


def _tex(text: str) -> str:
    """A sign before a number is a minus, not the hyphen of a name."""
    parts = MINUS.split(" ".join(text.split()))
    return "$-$".join("".join(TEX.get(char, char) for char in part) for part in parts)


def _slug(title: str) -> str:
    """For \\label: letters, digits and hyphens."""
    return re.sub("[^a-z0-9]+", "-", title.lower()).strip("-") or "runs"
