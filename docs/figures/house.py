"""docs/figures/house.svg: the folders of src/zofo on their floors, and the imports between them. Takes seconds.

Everything is read from the code (grimp) and from pyproject.toml (the floors); an arrow's number is how many modules
of the upper folder import something of the lower one. tests/house/test_plan.py checks that the picture is the code's.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[2]
PICTURE = Path(__file__).with_suffix(".svg")
WIDTH, HEIGHT, GAP, LEFT = 152, 40, 34, 60  # of a box, between floors, left of the first box, in pixels
SAYS = {
    "cli": "verbs of the shell",
    "study": "many runs",
    "federated": "many owners of data",
    "api": "verbs as functions",
    "train": "a run",
    "methods": "THE ALGORITHMS",
    "eval": "a model on examples",
    "objectives": "F",
    "models": "backbone, adapters",
    "data": "rows to batches",
    "zo": "steps on torch alone",
    "config": "how settings are read",
    "errors": "what a user is told",
}  # fmt: skip  # a table


def floors() -> list[list[str]]:
    """The layers of the contract, from top to bottom; names on one floor do not know each other."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    contract = next(each for each in tool["contracts"] if each["name"] == "imports go down only")
    return [floor.split(" | ") for floor in contract["layers"]]


def imports() -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """({folder: its modules}, {(upper, lower): modules of upper that import one of lower})."""
    graph = grimp.build_graph("zofo", cache_dir=None)
    folder = {module: module.split(".")[1] for module in graph.modules if "." in module}
    modules: dict[str, int] = {}
    arrows: dict[tuple[str, str], int] = {}
    for module, upper in folder.items():
        modules[upper] = modules.get(upper, 0) + 1
        reached = {folder[other] for other in graph.find_modules_directly_imported_by(module) if other in folder}
        for lower in reached - {upper}:
            arrows[upper, lower] = arrows.get((upper, lower), 0) + 1
    return modules, arrows


def draw() -> str:
    """The SVG's text."""
    rows, (modules, arrows) = floors(), imports()
    place = {}
    for number, row in enumerate(rows):
        for index, name in enumerate(row):
            x = LEFT + (0 if len(row) > 1 else (WIDTH + 110) / 2) + index * (WIDTH + 110)
            place[name] = (x, 10 + number * (HEIGHT + GAP))
    right, bottom = LEFT * 2 + 2 * WIDTH + 110, 10 + len(rows) * (HEIGHT + GAP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right} {bottom}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        '<defs><marker id="tip" viewBox="0 0 6 6" refX="5" refY="3" markerWidth="5" markerHeight="5" orient="auto">'
        '<path d="M0 0 6 3 0 6z" fill="#778"/></marker></defs>',
    ]
    for (upper, lower), count in sorted(arrows.items()):
        if upper not in place or lower not in place:
            continue
        (x1, y1), (x2, y2) = place[upper], place[lower]
        start, end = x1 + WIDTH / 2, x2 + WIDTH / 2
        lines.append(
            f'<path d="M{start:.0f} {y1 + HEIGHT} '
            f'C{start:.0f} {y1 + HEIGHT + GAP} {end:.0f} {y2 - GAP} {end:.0f} {y2}" '
            f'fill="none" stroke="#778" stroke-opacity="0.45" stroke-width="{min(0.6 + count / 12, 3):.1f}" '
            f'marker-end="url(#tip)"><title>{upper} imports {lower}: {count}</title></path>'
        )
    for name, (x, y) in place.items():
        label = f"{name}.py" if name == "errors" else f"{name}/"
        count = "" if name == "errors" else f" &#183; {modules[name]} modules"
        lines += [
            f'<rect x="{x:.0f}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="5" fill="#eef2fb" stroke="#345"/>',
            f'<text x="{x + WIDTH / 2:.0f}" y="{y + 17}" text-anchor="middle" font-weight="bold">{label}'
            f'<tspan font-weight="normal" fill="#567">{count}</tspan></text>',
            f'<text x="{x + WIDTH / 2:.0f}" y="{y + 32}" text-anchor="middle" fill="#345">{SAYS[name]}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(draw())
    print(PICTURE)
    sys.exit(0)
