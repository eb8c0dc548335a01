"""The libraries' versions: those of this environment, beside the range that zofo's whole test suite has passed with.

`tested.json` is what `make test-newest` and `make test-oldest` found (docs/compatibility.md).
"""

from __future__ import annotations

import json
import platform
import re
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

from packaging.version import Version

TESTED = Path(__file__).with_name("tested.json")


class Library(NamedTuple):
    """One library: what is installed (None: nothing), and the oldest and newest version the suite has passed with."""

    name: str
    installed: str | None
    oldest: str
    newest: str

    @property
    def standing(self) -> Literal["missing", "older", "tested", "newer"]:
        """Where the installed version stands. Only the release counts: 2.13.0+cpu is 2.13.0."""
        if self.installed is None:
            return "missing"
        here = _release(self.installed)
        if here < _release(self.oldest):
            return "older"
        return "newer" if here > _release(self.newest) else "tested"

    @property
    def span(self) -> str:
        return self.oldest if self.oldest == self.newest else f"{self.oldest} to {self.newest}"

    def __str__(self) -> str:
        """E.g. "peft 0.21.2 (tested with 0.20.0 to 0.21.2)"."""
        return f"{self.name} {self.installed or 'not installed'} (tested with {self.span})"


def _release(version: str) -> tuple[int, ...]:
    return Version(version).release


@cache
def libraries() -> tuple[Library, ...]:
    """All libraries that zofo stands on, in the order of their weight."""
    return tuple(Library(name, installed(name), *span) for name, span in _tested()["libraries"].items())


@cache
def _tested() -> dict[str, Any]:
    return json.loads(TESTED.read_text("utf-8"))


def pythons() -> tuple[str, ...]:
    """The Pythons, as "3.11", that the suite has passed with."""
    return tuple(_tested()["pythons"])


def warnings() -> list[str]:
    """What of this environment is older or newer than anything the suite has passed with, or missing."""
    here = ".".join(platform.python_version_tuple()[:2])
    lines = [] if here in pythons() else [f"python {here} was not tested (tested with {', '.join(pythons())})"]
    words = {
        "newer": "is newer than any version that the tests passed with",
        "older": "is older than any version that the tests passed with",
        "missing": "is needed",
    }
    lines += [f"{each}: {words[each.standing]}" for each in libraries() if each.standing != "tested"]
    return lines


@cache
def installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def named(*names: str) -> str:
    """Some of them, for a message: "peft 0.21.2 (tested with ...) and transformers 5.24.0 (tested with ...)"."""
    return " and ".join(str(each) for each in libraries() if each.name in names)


def processor() -> str:
    """The processor's name, as far as the system says it."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1) if found else platform.processor() or platform.machine()
