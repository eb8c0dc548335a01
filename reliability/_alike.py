"""What two folders must have alike: all files, byte for byte, but for times and for what is drawn anew for each run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zofo.config.json_text import dumps
from zofo.models.sealed import WORK
from zofo.train.lease import NAME as LOCK

# Not compared, by name: times and memory (phases are the last process's alone); the run's id; the position in
# metrics.jsonl, whose lines have times; the digests of files that hold one of these. What a run says of the machine,
# and the digest of a configuration with absolute paths, are compared only where both are the same
TIMES = ("seconds", "tuning_seconds", "seconds_per_step", "seconds_per_example", "peak_bytes", "phases")
DRAWN = ("id", "run", "config", "info", "readme")  # keys of manifest.json and state.json
PLACES = ("environment", "config_hash")
DIGESTED = ("state.json", "trainer_state.json", "run.json")  # files whose digests hold one of these


def contents(
    folder: Path, without: Iterable[str] = (), places: bool = True, here: Path | None = None
) -> dict[str, Any]:
    """{path within: bytes, or a tree of JSON without what is not compared}; of an empty directory None.

    without: names of files to leave out. places: whether the machine and absolute paths are the same. here: a path that
    another folder's files have otherwise, as text.
    """
    held: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir():
            if not any(path.iterdir()):
                held[f"{name}/"] = None
        elif path.name not in without:
            held[name] = _content(path, places, here)
    return held


def _content(path: Path, places: bool, here: Path | None) -> Any:
    raw = path.read_bytes()
    if here is not None and path.suffix not in (".safetensors", ".bin"):
        for text in {str(here), dumps(str(here))[1:-1]}:
            raw = raw.replace(text.encode(), b"HERE")
    try:
        return _without_times(path, raw, places, here)
    except ValueError:  # torn
        return raw


def _without_times(path: Path, raw: bytes, places: bool, here: Path | None) -> Any:
    left_out = {*TIMES, *(() if places else PLACES)}
    if path.name == "manifest.json":
        tree = json.loads(raw)
        digested = (*DIGESTED, "adapter_config.json") if here is not None else DIGESTED  # it holds the export's path
        sums = {name: sha for name, sha in tree.get("sha256", {}).items() if Path(name).name not in digested}
        files = sorted(tree.get("files", ()))  # in the order in which they were first written
        return _bare({**tree, "sha256": sums, "files": files}, {*left_out, *DRAWN})
    if path.name == "state.json":
        return _bare(json.loads(raw), {*left_out, "run", "metrics"})
    if path.suffix == ".json" and path.name != "adapter_config.json":
        return _bare(json.loads(raw), left_out)
    if path.suffix == ".jsonl":
        return [_bare(json.loads(line), left_out) for line in raw.splitlines()]
    return raw


def _bare(node: Any, left_out: set[str]) -> Any:
    if isinstance(node, dict):
        return {key: _bare(value, left_out) for key, value in node.items() if key not in left_out}
    return [_bare(value, left_out) for value in node] if isinstance(node, list) else node


def unlike(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Names of the files that one alone has, or that differ."""
    alone = [f"{name}: only {'here' if name in ours else 'there'}" for name in sorted(ours.keys() ^ theirs.keys())]
    both = sorted(ours.keys() & theirs.keys())
    return alone + [f"{name}: differs{_where(ours[name], theirs[name])}" for name in both if ours[name] != theirs[name]]


def _where(ours: Any, theirs: Any) -> str:
    """The first place where two contents differ, and both values there."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        key = next(key for key in {**ours, **theirs} if ours.get(key, ...) != theirs.get(key, ...))
        return f", {key}{_where(ours.get(key), theirs.get(key))}"
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        index = next(i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b)
        return f", {index}{_where(ours[index], theirs[index])}"
    if isinstance(ours, bytes) and isinstance(theirs, bytes):
        at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
        return f" at byte {at} of {len(ours)} and {len(theirs)}"
    return f": {ours!r:.200} and {theirs!r:.200}"


def torn(piece: str, now: dict[str, Any], before: dict[str, Any], after: dict[str, Any], export: bool) -> str:
    """What a cut has left of a file or folder that must be as it was, or whole and new, or not there; "" where it is.
    Locks, and what they are made of, are no part of it: the next start takes a dead process's away.

    export: without its manifest it is known as unfinished, and no verb takes it for a whole one.
    """

    def below(held: dict[str, Any]) -> dict[str, Any]:
        inside = {name: value for name, value in held.items() if name == piece or name.startswith(f"{piece}/")}
        inside = {name: value for name, value in inside.items() if not name.startswith(f"{piece}/{WORK}/")}
        return {name: value for name, value in inside.items() if not Path(name).name.startswith(LOCK)}

    left = below(now)
    if left in ({}, below(before), below(after)) or (export and f"{piece}/manifest.json" not in left):
        return ""
    return f"{piece} is neither whole, nor as it was, nor absent: {', '.join(list(left)[:5])}"
