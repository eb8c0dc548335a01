"""`zofo diff`: what differs between two runs."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Annotated, Any

import typer

from zofo.cli.options import option
from zofo.config.json_text import dumps
from zofo.errors import printable


def diff(
    first: Annotated[str, typer.Argument(help="A run, or a kept file of one.")],
    second: Annotated[str, typer.Argument(help="Another.")],
    as_json: Annotated[bool, option("JSON.", "--json")] = False,
) -> None:
    """Say what differs between two runs: settings, inputs, versions, numbers.

    Exit code 0 whether or not something differs.
    """
    from zofo.study.diff import diff as compare

    lines = compare(first, second)
    if as_json:
        print(dumps([asdict(line) for line in lines], indent=2))
        return
    if not lines:
        print("nothing differs")
        return
    widths = [max(len(line.name) for line in lines), max(len(_word(line.first)) for line in lines)]
    section = ""
    for line in lines:
        if line.section != section:
            section = line.section
            print(section)
        shown = f"  {line.name:<{widths[0]}}  {_word(line.first):<{min(widths[1], 40)}}  {_word(line.second)}"
        print(printable(shown))


def _word(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text[:12] if re.fullmatch("[0-9a-f]{64}", text) else printable(text, 60)  # a digest's beginning will do
