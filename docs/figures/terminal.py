"""docs/figures/terminal.svg: `zofo quickstart` and `zofo predict` as a terminal shows them, some minutes in 20 seconds.

Every line is what a command printed in this run, at its time, cut to what fits; nothing is written by hand. Takes
minutes: it fetches the quick start's model and data where .cache/quickstart has none. `python docs/figures/terminal.py
DIRECTORY --steps 33` works there in place of the repository's root, and gives the quick start these options. What is
printed must name no path of the machine.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PICTURE = Path(__file__).with_suffix(".svg")
COMMANDS = (
    "zofo quickstart",
    "zofo predict out/quickstart/bilevel-zofo --text 'a warm film' --text 'it never, ever ends'",
)
COLUMNS, ROWS, SECONDS = 106, 34, 20.0  # of the picture; a run's time is pressed into so many seconds
WIDTH, HEIGHT, LEFT, TOP = 7.25, 18, 14, 44  # of a character, of a line, of the margins, in pixels
PROMPT = "$ "


@dataclass(frozen=True)
class Line:
    text: str
    seconds: float  # since the first command began


def record(commands: Sequence[str], folder: Path, python: str = sys.executable) -> list[Line]:
    """Runs the commands one after the other. Raises CalledProcessError where one fails."""
    env = {**os.environ, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
    lines, start = [], time.monotonic()
    for command in commands:
        lines.append(Line(PROMPT + command, time.monotonic() - start))
        words = [python, "-m", *shlex.split(command)]
        with subprocess.Popen(
            words, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout is not None
            lines += [Line(text.rstrip("\n"), time.monotonic() - start) for text in process.stdout]
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command, "\n".join(each.text for each in lines))
    return lines


def without_rows(lines: Sequence[Line]) -> list[Line]:
    """A run shows a few rows of its data, which are not ours to print: an ellipsis in their place."""
    kept, inside = list[Line](), False
    for line in lines:
        if line.text.startswith("--- ") and not inside:
            kept.append(Line("…", line.seconds))
        inside = (inside or line.text.startswith("--- ")) and not re.match(r"\w+: \d+ examples", line.text)
        if not inside:
            kept.append(line)
    return kept


def fitted(lines: Sequence[Line]) -> list[Line]:
    """Lines of COLUMNS characters, ROWS of them: of those between, what is left out is an ellipsis."""
    short = [Line(each.text[: COLUMNS - 1] + "…" if len(each.text) > COLUMNS else each.text, each.seconds)
             for each in lines if each.text.strip()]  # fmt: skip
    if len(short) <= ROWS:
        return short
    head = ROWS // 2
    return [*short[: head - 1], Line("…", short[head].seconds), *short[len(short) - (ROWS - head) :]]


def draw(lines: Sequence[Line]) -> str:
    """The SVG's text. A line fades in at its time; where nothing moves, all of them are there."""
    total = max(lines[-1].seconds, 1e-9)
    width, height = 2 * LEFT + COLUMNS * WIDTH, TOP + len(lines) * HEIGHT + LEFT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="A terminal: {escape(lines[0].text.removeprefix(PROMPT), quote=True)}">',
        "<style>text{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;fill:#d7dae0;white-space:pre}"
        ".typed{fill:#8fd18f;font-weight:bold}"
        "@media (prefers-reduced-motion: no-preference){text{animation:shown .2s backwards}}"
        "@keyframes shown{from{opacity:0}}</style>",
        '<rect width="100%" height="100%" rx="8" fill="#1d2129"/>',
        *(f'<circle cx="{LEFT + 6 + 18 * n}" cy="18" r="5" fill="#4a5160"/>' for n in range(3)),
    ]
    for number, line in enumerate(lines):
        kind = ' class="typed"' if line.text.startswith(PROMPT) else ""
        delay = (SECONDS - 1) * line.seconds / total
        parts.append(
            f'<text{kind} x="{LEFT}" y="{TOP + number * HEIGHT}" xml:space="preserve" '
            f'style="animation-delay:{delay:.2f}s">{escape(line.text, quote=False)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    folder = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT
    first, *more = COMMANDS
    lines = record([shlex.join([*shlex.split(first), *sys.argv[2:]]), *more], folder)
    if named := [line.text for line in lines if str(folder) in line.text or str(Path.home()) in line.text]:
        sys.exit(f"a path of this machine would be in the picture: {named[0]}")
    PICTURE.write_text(draw(fitted(without_rows(lines))), "utf-8")
    print(PICTURE)


if __name__ == "__main__":
    main()
