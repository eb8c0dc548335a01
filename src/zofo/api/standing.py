"""How a run stands: going on in a process, at its end, failed, interrupted or killed; and saying so."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from zofo.data.asking import plain
from zofo.errors import InputError
from zofo.train.ending import KINDS, Ending, well_formed
from zofo.train.lease import holder
from zofo.train.pruning import number_of
from zofo.train.run_dir import RunDir

log = logging.getLogger("zofo")


def standing(run: RunDir) -> Ending:
    """Of a run that is at its end what run.json says; of one that was gone on with since, what it came to then."""
    if (who := holder(run.root)) is not None:
        return replace(_last(run, "going"), reason=who)
    if (stored := run.manifest.get("outcome")) is not None:
        return Ending.read(stored)
    if not run.finished:
        return _last(run, "cut")
    ending = Ending.read(run.read_info().get("outcome"))
    return _last(run, "cut") if gone_on(run, ending) else ending


def gone_on(run: RunDir, ending: Ending) -> bool:
    """Whether the run has a checkpoint of after the end that its run.json is of."""
    step = _last(run, "cut").step
    return step is not None and ending.step is not None and step > ending.step


def ended_before(run: RunDir) -> Ending:
    """What a run had come to that is about to go on, as far as its files still say."""
    try:
        return Ending.read(run.manifest.get("outcome") or (run.read_info() if run.finished else {}).get("outcome"))
    except InputError:  # run.json will be written anew
        return Ending("unknown")


def _last(run: RunDir, kind: str) -> Ending:
    """At its last checkpoint."""
    try:
        return Ending(kind, step=number_of(run.checkpoints()[-1]), of=run.read_config().train.max_steps)
    except (IndexError, InputError):
        return Ending(kind)


def warn_of_the_end(run: RunDir, info: dict[str, Any]) -> None:
    """Of a run with a run.json: a word where it failed, or is not what it last did. info: run.json."""
    ending, now = Ending.read(info.get("outcome")), standing(run)
    if ending.failed:
        log.warning("%s: the run %s", run.root, _with_fix(ending))
    elif now.kind not in ("finished", "unknown"):
        log.warning(
            "%s: the run was at its end, was gone on with and %s; this is the best of what it was then, step %s",
            *(run.root, now.words(), info["best_step"]),
        )


def warn_of_the_export(path: Path, info: dict[str, Any]) -> None:
    """A word where the run that an export was made of had failed. info: zofo.json, {} where there is none."""
    stored = info.get("outcome")
    if stored is not None and well_formed(stored, KINDS) and (ending := Ending.read(stored)).failed:
        log.warning("%s: the run that it was exported from %s", path, _with_fix(ending))


def _with_fix(ending: Ending) -> str:
    return f"{ending.words()}; {ending.fix}" if ending.fix else ending.words()


def in_the_readme(ending: Ending) -> str:
    """A paragraph for a README.md, "" for a run that came to its end. Whoever reads it does not know the machine."""
    if not (words := ending.words(private=False)):
        return ""
    if ending.kind in ("going", "cut") and ending.step is not None:
        words += f", its last checkpoint then is of step {ending.step} of {ending.of}"
    fix = f" What helps: {plain(ending.fix, 400)}." if ending.fix else ""
    return f"**The run {plain(words, 700)}.**{fix}\n\n"
