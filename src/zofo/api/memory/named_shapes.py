"""Shapes of well-known models by name: what their config.json says, for a prediction without it.

Facts alone: widths, layers, heads, words. Their numbers of parameters are the published ones (tests/api/test_fits.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zofo.errors import InputError, did_you_mean

FOLDER = Path(__file__).parent / "shapes"


def names() -> list[str]:
    """All of them, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def place(name: str | None) -> str | None:
    """The config.json of a shape; any other name as it is, and so is that of a directory here."""
    if name is None or name.lower() not in names() or Path(name).exists():
        return name
    return str(FOLDER / f"{name.lower()}.json")


@contextmanager
def hinted(name: str | None) -> Iterator[None]:
    """Where a model cannot be reached, the InputError says which shape has that name or one like it."""
    try:
        yield
    except InputError as error:
        if name is None or "nor reachable on the hub" not in str(error):
            raise
        raise InputError(f"{error}{_hint(name)}") from error


def _hint(name: str) -> str:
    """meta-llama/Llama-3.1-8B-Instruct: the shape of llama-3.1-8b."""
    last = name.rpartition("/")[2].lower()
    same = max((shape for shape in names() if f"{last}-".startswith(f"{shape}-")), key=len, default=None)
    if same is not None:
        return f"; its shape is known here: --model {same}"
    return did_you_mean(last, names()) or f"; or a shape that is known here: {', '.join(names())}"
