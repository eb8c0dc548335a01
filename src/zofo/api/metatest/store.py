"""The files of a meta-test: its plan, its parts, its predictions. Parts of the same plan are used again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zofo.api.predictions import KEYS, is_own
from zofo.config.json_text import dumps, read_json
from zofo.data.multitask.setting import OpenSetting
from zofo.errors import InputError
from zofo.train.files import make_directory, write_json, write_text
from zofo.train.lease import of_a_lock

Part = dict[str, Any]


class Store:
    """out: the directory; None keeps nothing."""

    def __init__(self, out: Path | None) -> None:
        self.out = out

    def claim(self, facts: Mapping[str, Any], overwrite: bool) -> None:
        """Make the directory this measurement's. Raises InputError where another one, or something else, is there."""
        if self.out is None:
            return
        path, facts = self.out / "plan.json", json.loads(dumps(facts))
        old = read_json(path, "give --overwrite to measure anew") if path.is_file() else None
        if old is not None and not overwrite:
            changed = sorted(key for key in {*old, *facts} if old.get(key) != facts.get(key))
            if changed:
                raise InputError(
                    f"{self.out}: holds another measurement (other {', '.join(changed)}); choose another --output, or "
                    f"give --overwrite"
                )
            return
        if old is None and self.out.exists():
            names = [path.name for path in self.out.iterdir()] if self.out.is_dir() else ["a file"]
            # the second is of a start that was killed as it wrote its plan
            if any(not of_a_lock(name) and name != ".plan.json.tmp" for name in names):
                raise InputError(f"{self.out}: exists and is no meta-test's; choose another --output")
        self._clear()
        make_directory(self.out)
        write_json(path, facts)

    def part(self, name: str, make: Callable[[], Part], facts: Mapping[str, Any]) -> tuple[Part, bool]:
        """(the part from its file, or made and written; whether it was made). facts: what it is of.

        Raises InputError for a file that is damaged, or of another part.
        """
        path = None if self.out is None else self.out / "parts" / f"{name}.json"
        if path is not None and path.exists():
            return _sound(path, facts), False
        part = make()
        if path is not None:
            make_directory(path.parent)
            write_json(path, part)
        return part, True

    def _clear(self) -> None:
        """Delete what measurements wrote here, known by its contents, and what of it a kill left half
        written; what else is there stays."""
        assert self.out is not None
        if is_own(self.out / "results.json", {"setting", "ways"}):
            (self.out / "results.json").unlink()
        written = [path for path in (self.out / "parts").rglob("*.json") if is_own(path, {"way", "value", "seconds"})]
        rows = (self.out / "predictions").rglob("*.jsonl")
        written += [path for path in rows if is_own(path, KEYS["predictions.jsonl"])]
        halves = (("parts", "json"), ("predictions", "jsonl"))
        written += [path for top, kind in halves for path in (self.out / top).rglob(f".*.{kind}.tmp")]
        written += self.out.glob(".results.json.tmp")
        for path in written:
            path.unlink()
        for folder in sorted({path.parent for path in written}, key=lambda p: -len(p.parts)):
            if not any(folder.iterdir()):
                folder.rmdir()

    def predictions(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        if self.out is None:
            return
        path = self.out / "predictions" / f"{name}.jsonl"
        make_directory(path.parent)
        write_text(path, "".join(dumps(row) + "\n" for row in rows))


def _sound(path: Path, facts: Mapping[str, Any]) -> Part:
    """The part in a file, which is one, and of these facts. Raises InputError."""
    again = "delete it, and it is measured again"
    part = read_json(path, again)
    for key, value in facts.items():
        if part.get(key) != value:
            raise InputError(
                f"{path}: damaged, {key} is {part.get(key)!r:.60}, and {value!r} is measured here; {again}"
            )
    for key, kinds in {
        "value": (float, int),
        "n": (int,),
        "loss": (float, int, type(None)),
        "seconds": (float, int),
    }.items():
        if not isinstance(part.get(key), kinds) or isinstance(part.get(key), bool):
            raise InputError(f"{path}: damaged, {key} is {part.get(key)!r:.60}; {again}")
    return part


def digest(opened: OpenSetting) -> str:
    """SHA-256 of the files that a measurement reads: those of the target and the held-out tasks."""
    sums = hashlib.sha256()
    for name, pool in sorted({**opened.target, **opened.held_out}.items()):
        for path in pool.paths:
            sums.update(f"{name}/{path.name}\n".encode())
            with path.open("rb") as file:
                sums.update(hashlib.file_digest(file, "sha256").digest())
    return sums.hexdigest()
