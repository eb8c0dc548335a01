"""The repository's pages as pages of the site: their links point at pages, at shown files, or at pictures."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from docs.generate import notebooks

ROOT = Path(__file__).resolve().parents[2]
# Pages outside docs/, and the name each has on the site
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "experiments/README.md": "experiments.md",
}
PICTURES = (".svg", ".png")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json", ".cff": "yaml", ".toml": "toml"}
SHOWN = 400  # lines of a file that is no code
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_CODE = re.compile(r"(^```.*?^```$|`[^`\n]*`)", re.S | re.M)


def site_name(source: str) -> str | None:
    """Where a Markdown file or a notebook of the repository is on the site; None for what is no page."""
    path = PurePosixPath(source)
    if path.suffix == ".ipynb":
        return notebooks.page_name(path.stem)
    if source in ELSEWHERE:
        return ELSEWHERE[source]
    return path.name if path.parent == PurePosixPath("docs") and path.suffix == ".md" else None


def sources() -> list[str]:
    """The Markdown files and notebooks that are pages."""
    written = [*(ROOT / "docs").glob("*.md"), *(ROOT / notebooks.FOLDER).glob("*.ipynb")]
    return [*ELSEWHERE, *sorted(path.relative_to(ROOT).as_posix() for path in written)]


class Turner:
    """Turns the links of pages; remembers what they point at that is no page: files to show, pictures to copy."""

    def __init__(self, generated: set[str]) -> None:
        self.generated, self.files, self.pictures = generated, set[str](), set[str]()

    def page(self, source: str) -> str:
        """The text for the site; source: from the repository's root."""
        text = (ROOT / source).read_text("utf-8")
        text = notebooks.page(source, text) if source.endswith(".ipynb") else text
        text = re.sub(r"^<!-- .*? -->\n", "", text, flags=re.M)
        parts = _CODE.split(text)
        return "".join(part if n % 2 else self._turned(part, source) for n, part in enumerate(parts))

    def _turned(self, text: str, source: str) -> str:
        here = site_name(source)
        assert here is not None, source

        def turn(link: re.Match[str]) -> str:
            target, hash_, anchor = link[2].partition("#")
            if not target or re.match(r"\w+:", target):
                return link[0]
            return f"{link[1]}{self._place(target, source, here)}{hash_}{anchor}{link[3]}"

        text = re.sub(r'(src=")([^"]+)(")', turn, text)  # <img> of the start page
        return _LINK.sub(turn, text)

    def _place(self, target: str, source: str, here: str) -> str:
        path = os.path.normpath(str(PurePosixPath(source).parent / target))
        if path in self.generated or (path.startswith("docs/") and path.removeprefix("docs/") in self.generated):
            return path.removeprefix("docs/")
        page = site_name(path)
        if page and (ROOT / path).is_file():
            there = page
        elif path.endswith(PICTURES) and (ROOT / path).is_file():
            self.pictures.add(path)
            there = path.removeprefix("docs/")
        elif (ROOT / path).exists():
            self.files.add(path)
            there = shown_name(path)
        else:
            raise SystemExit(f"{source}: {target} is neither a page nor a file")
        return os.path.relpath(there, PurePosixPath(here).parent)


def shown_name(path: str) -> str:
    """The page that shows a file or a folder."""
    return f"source/{path}/index.md" if (ROOT / path).is_dir() else f"source/{path}.md"


def shown(path: str) -> str:
    """The page of a file: its text; of a folder: its names. Neither is found by the search."""
    head = f"---\nsearch:\n  exclude: true\n---\n\n# {path}\n"
    full = ROOT / path
    if full.is_dir():
        names = sorted(f"{p.name}/" if p.is_dir() else p.name for p in full.iterdir() if not p.name.startswith("__"))
        return f"{head}\n" + "".join(f"- `{name}`\n" for name in names)
    lines = full.read_text("utf-8").splitlines()
    text = "\n".join(lines if full.suffix == ".py" else lines[:SHOWN])
    fence = "`" * (3 + max((len(found) for found in re.findall(r"`{3,}", text)), default=0))
    return f"{head}\n{fence}{LANGUAGES.get(full.suffix, 'text')}\n{text}\n{fence}\n"
