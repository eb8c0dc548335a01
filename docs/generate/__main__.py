"""`python -m docs.generate DIRECTORY`: the site's pages as Markdown, anew. Imports zofo, nothing of the site's.

Without a DIRECTORY: those pages of docs/ that are read from the code, and kept so that they are read without the site.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from docs.generate import api, commands, links, presets, settings, words

STYLE = Path(__file__).with_name("site.css")
FROM_CODE = {
    "api.md": api.page,
    "commands.md": commands.page,
    "settings.md": settings.page,
}
KEPT = {"paper_index.md": presets.page, "words.md": words.page}  # in docs/; tests/docs/test_site.py compares them


def pages() -> dict[str, str]:
    """{name on the site: text} of every page, those that show files too; pictures are in `pictures`."""
    made = {name: page() for name, page in FROM_CODE.items()}
    turner = links.Turner(set(made))
    for source in links.sources():
        made[str(links.site_name(source))] = turner.page(source)
    made |= {links.shown_name(path): links.shown(path) for path in sorted(turner.files)}
    pictures.clear()
    pictures.update(turner.pictures)
    return made


pictures: set[str] = set()


def write(target: Path) -> int:
    shutil.rmtree(target, ignore_errors=True)
    made = pages()
    for name, text in made.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    for picture in pictures:
        path = target / picture.removeprefix("docs/")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(links.ROOT / picture, path)
    shutil.copy(STYLE, target / STYLE.name)
    return len(made)


def keep() -> None:
    for name, page in KEPT.items():
        (links.ROOT / "docs" / name).write_text(page(), "utf-8")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        keep()
    else:
        print(f"{write(Path(sys.argv[1]))} pages in {sys.argv[1]}")
