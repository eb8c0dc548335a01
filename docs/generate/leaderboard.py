"""docs/leaderboard.md: its sentences are people's; the common plan and the tables are what the code and
results/leaderboard say."""

from __future__ import annotations

import re
from pathlib import Path

from zofo.study.bench.entry import read_entry
from zofo.study.bench.plan import COMMON
from zofo.study.bench.table import tables

ROOT = Path(__file__).resolve().parents[2]
PAGE, RESULTS = ROOT / "docs" / "leaderboard.md", ROOT / "results" / "leaderboard"
BLOCK = re.compile(r"(<!-- figures: ([a-z]+) -->\n).*?(<!-- end -->)", re.S)


def page() -> str:
    made = {"common": common, "standings": standings}
    return BLOCK.sub(lambda found: found[1] + made[found[2]]() + found[3], PAGE.read_text("utf-8"))


def common() -> str:
    return f"<!-- not run: zofo bench reads it -->\n```yaml\n{COMMON.read_text('utf-8')}```\n"


def standings() -> str:
    entries = {path.stem: read_entry(path) for path in sorted(RESULTS.glob("*.json")) if path.name != "schema.json"}
    if not entries:
        return "Not run yet.\n"
    parts = []
    for heading, lines in tables(entries):
        rows = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
        parts.append(f"**{heading}**\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n")
    return "\n".join(parts)
