"""Whose a file of a run's directory is: by its manifest, and for runs of before there was one, by name and contents."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zofo.config.json_text import read_json
from zofo.config.resolve import load as load_config
from zofo.errors import InputError, first_few
from zofo.models.sealed import MANIFEST, README
from zofo.train.ending import well_formed
from zofo.train.trees import names_of, remove_tree

log = logging.getLogger("zofo")

FORMAT = 1
CONFIG = "config.yaml"
CHECKPOINT, BEST = "checkpoint", "best"
# What runs wrote before they had a manifest, with a sign that it is zofo's
LEGACY = ("run.json", "metrics.jsonl", "journal.bin")
SUPERSEDED = "superseded"  # what was newer than the checkpoint that a run went back to
SET_ASIDE = ("run.json", "metrics.jsonl", "journal.bin", ".metrics.jsonl.tmp", ".journal.bin.tmp")  # beside them
START = "adapter-start"  # what the adapters began with, where adapter.start says so
REPORT = "report.html"  # of `zofo report`, which writes beside a run that goes on, so no manifest names it
REPORT_MARK = '<meta name="generator" content="zofo report">'
FIXED = (START, CONFIG, "run.json", "metrics.jsonl", "journal.bin", README, MANIFEST)


def read_manifest(root: Path) -> dict[str, Any]:
    """{} for a run of a version that kept none, and where there is no run. Raises InputError for a damaged one."""
    path = root / MANIFEST
    if not path.is_file():
        return {}
    try:
        manifest = read_json(path, "restore it, or choose another directory")
        if not _well_formed(manifest):
            raise InputError(f"{path}: damaged, or no run's; restore it, or choose another directory")
    except InputError:
        if not (root / CONFIG).exists():  # something else's: `in_the_way` names it
            return {}
        raise
    return manifest


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _well_formed(manifest: Mapping[str, Any]) -> bool:
    files, inputs = manifest.get("files"), manifest.get("inputs")
    inside = _texts(files) and not any(Path(name).is_absolute() or ".." in Path(name).parts for name in files or ())
    digests = all(_texts(manifest.get(key, [])) for key in ("config", "info", "readme"))
    ending = well_formed(manifest.get("outcome"))
    return manifest.get("format") == FORMAT and inside and isinstance(inputs, dict) and digests and ending


def read_info(path: Path) -> dict[str, Any]:
    """run.json. Raises InputError where it is missing or damaged."""
    again = "train again with --resume latest, which writes it anew"
    info = read_json(path, again)
    needed = {"best_step": int, "deployed": str, "test": dict, "dev": dict, "method": str, "task": str, "seed": int}
    for key, kind in needed.items():
        if not isinstance(info.get(key), kind):
            raise InputError(f"{path}: damaged, {key} is {info.get(key)!r:.60}; {again}")
    if not well_formed(info.get("outcome")):
        raise InputError(f"{path}: damaged, outcome is {info['outcome']!r:.60}; {again}")
    return info


def legacy(root: Path) -> list[Path]:
    """What a run without a manifest wrote: what has zofo's names and zofo's contents."""
    if not (root / CONFIG).is_file():
        return []
    try:
        load_config(root / CONFIG)
    except InputError:
        return []
    paths = [root / CONFIG, *(root / name for name in LEGACY), *(root / "eval").glob("predictions-*.jsonl")]
    paths += (root / "eval").glob("report-*.json")
    paths += [p for p in numbered(root) if (p / MANIFEST).is_file()]
    readme = root / README
    if readme.is_file() and " lower and " in readme.read_text("utf-8", errors="replace"):
        paths.append(readme)
    return paths


def reports(root: Path) -> list[Path]:
    """What `zofo report` wrote into a run's directory."""
    return [root / REPORT] if is_report(root / REPORT) else []


def is_report(path: Path) -> bool:
    """Whether a file is a page that `zofo report` wrote."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return REPORT_MARK.encode() in file.read(1000)


def in_the_way(root: Path, ours: set[Path]) -> list[Path]:
    """What has a name that a run's file would have, and is not the run's. ours: what is."""
    paths = [*(root / name for name in FIXED), *(root / "eval").glob("predictions-*.jsonl")]
    paths += (root / "eval").glob("report-*.json")
    there = [path for path in paths if (path.exists() or path.is_symlink()) and path not in ours]
    if (root / "eval").exists() and not (root / "eval").is_dir():
        there.append(root / "eval")
    return there + [path for path in numbered(root) if path not in ours and _would_be_mixed(path)]


def refuse_what_is_in_the_way(root: Path, foreign: Sequence[Path], run_id: str | None) -> None:
    """Raises InputError for `in_the_way`: whose each is, and that it stays. run_id: of the run that is there."""
    if foreign:
        names = first_few([f"{path.name} ({whose(path, run_id)})" for path in foreign])
        raise InputError(
            f"train.output_dir: {root} holds, where a run would write, {names}; nothing of it is deleted, by "
            f"--overwrite neither: move it away, or choose another directory"
        )


def whose(path: Path, run_id: str | None) -> str:
    """Of what has a name of a run's and is in no manifest: zofo's by another name, another run's, or not zofo's."""
    if not path.is_symlink() and is_numbered(path.name) and (path / MANIFEST).is_file():
        kind = path.name.partition("-")[0]
        state, step = _content(path / "state.json").get("run"), step_of(path)
        at = f", of step {step}" if step is not None else ""
        if kind == BEST or state is None:
            return f"a {kind} of zofo{at}, of which run is not known"
        if state != run_id:
            return f"a checkpoint of another run of zofo{at}"
        if step is not None and path.name != f"{CHECKPOINT}-{step}":
            return f"this run's {CHECKPOINT}-{step}, copied or renamed"
        return "this run's, put back by hand"
    return "not zofo's"


def step_of(checkpoint: Path) -> int | None:
    """The counted step that a checkpoint was made at, whatever it is called; None where that cannot be read."""
    step = _content(checkpoint / "trainer_state.json").get("global_step")
    return step if isinstance(step, int) else None


def _content(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except (InputError, OSError):
        return {}


def numbered(root: Path) -> list[Path]:
    """What is called like a checkpoint or a best."""
    return sorted(p for kind in (CHECKPOINT, BEST) for p in root.glob(f"{kind}-*") if is_numbered(p.name))


def is_numbered(name: str) -> bool:
    kind, _, number = name.partition("-")
    return kind in (CHECKPOINT, BEST) and number.isdigit()


def _would_be_mixed(path: Path) -> bool:
    """Whether what a run would write there meets a file of that name, as in a checkpoint of transformers' Trainer."""
    return path.is_symlink() or not path.is_dir() or bool(names_of(path, parts=True)) or (path / "backbone").exists()


def say_what_stays(root: Path, but: Sequence[str]) -> None:
    """After what is zofo's has gone from a directory. but: names that say nothing to anybody."""
    stays = sorted(path.name + "/" * path.is_dir() for path in root.iterdir() if path.name not in but)
    if stays:
        log.warning("%s: not the run's, and left there: %s", root, first_few(stays))


def remove(path: Path, named: Path | None = None) -> list[str]:
    """Delete a file or a directory of zofo's. What in it is not zofo's stays, and is named, as in `named`: returned."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return []
    if stays := remove_tree(path, SET_ASIDE if (named or path).name == SUPERSEDED else ()):
        log.warning("%s: not zofo's, and left there: %s", named or path, first_few(stays))
    return stays
