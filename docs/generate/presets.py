"""paper_index.md: each value of each preset with its place in a paper or its reason; each field's place."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from docs.generate.settings import default_of
from docs.generate.tables import cell, code, table
from zofo.config import registry
from zofo.config.places import every_place

PAPERS = {  # preset: where its letters and numbers point
    "authors": "the code at Peiran225/bilevel_ZOFO, commit d2a89bd, and Bilevel ZOFO where it says so",
    "quickstart": "Bilevel ZOFO, or ours",
}
BILEVEL = "Bilevel ZOFO ([arXiv 2502.03604](https://arxiv.org/abs/2502.03604))"


@dataclass(frozen=True)
class Value:
    """One line of a preset; place is the comment behind it, "" where there is none."""

    section: str
    field: str
    text: str
    place: str


def values(path: Path) -> Iterator[Value]:
    """The values of a preset's file, in its order. The files hold sections of plain fields alone."""
    section = ""
    for line in path.read_text("utf-8").splitlines():
        if head := re.fullmatch(r"(\w+):", line):
            section = head[1]
        elif found := re.fullmatch(r"  (\w+): +(.*?)(?: +# (.*))?", line):
            yield Value(section, found[1], found[2], found[3] or "")


def remarks(path: Path) -> str:
    """The comment at the head of a preset's file."""
    lines = path.read_text("utf-8").splitlines()
    end = next(n for n, line in enumerate(lines) if not line.startswith("#"))
    return " ".join(line.lstrip("# ") for line in lines[:end])


def places() -> Iterator[tuple[str, str, str, str]]:
    """(field, whose, default, place) of every field that has a place in a paper."""
    for each in every_place():
        spec = next(s for s in dataclasses.fields(each.config) if s.name == each.name)
        if paper := spec.metadata.get("paper", ""):
            yield each.path, ", ".join(each.entries), default_of(spec), paper


def page() -> str:
    """The text of paper_index.md."""
    parts = [
        f"""# From the papers to the settings

## Presets

`--preset NAME` starts a run from these values; what else a run needs has the defaults below. Places are those of
{BILEVEL} unless a line says otherwise; "ours" is what no paper has, with the reason or the page that measured it.
Where papers and code say two things: [algorithms.md](algorithms.md#what-the-paper-leaves-open).
"""
    ]
    for name in registry.names("presets"):
        path = registry.load("presets", name)
        where = f" Places: {PAPERS[name]}." if name in PAPERS else ""
        rows = [(code(f"{v.section}.{v.field}"), code(v.text), cell(v.place)) for v in values(path)]
        parts += [f"### {name}\n", f"{cell(remarks(path))}{where}\n", table(("field", "value", "place"), rows)]
    rows = [(code(path), cell(whose), code(default), cell(place)) for path, whose, default, place in places()]
    parts += [
        "## Fields\n",
        "Every field whose symbol or default has a place in a paper; `zofo show NAME` names the paper of an entry.\n",
        table(("field", "of", "default", "place"), rows),
    ]
    return "\n".join(parts)
