"""A run of several processes: which they are, and how the directory that rank 0 writes is seen by all."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from zofo.api.start import check_directory, settled
from zofo.config.json_text import dumps
from zofo.config.layers import Layer
from zofo.config.parallel import BOTH, ParallelConfig
from zofo.config.resolve import Config
from zofo.config.typed import build
from zofo.errors import InputError, unheard
from zofo.train.agreement import flat, same_start
from zofo.train.progress import console
from zofo.train.run_dir import RunDir
from zofo.zo.grid import Grid
from zofo.zo.meeting import together
from zofo.zo.process_group import launched
from zofo.zo.ranks import Ranks


@contextmanager
def of_this_process(config: Config | None = None, parallel: ParallelConfig | None = None) -> Iterator[Ranks]:
    """The ranks that a launcher made, of which rank 0 says which they are. What ends one of them ends all, by name.

    parallel: where there is no config.
    """
    parallel = config.parallel if config is not None else parallel or ParallelConfig()
    with together(grid_of(parallel), parallel.timeout) as ranks, nullcontext() if ranks.leads else unheard():
        if ranks.leads and (not ranks.alone or launched()):  # one, where more were asked for, is seen
            console(sys.stderr).print(ranks.words())
        if config is not None:  # before the first exchange that hangs on it
            same_start(ranks, _settings(config))
        yield ranks


def parallel_given(overrides: Sequence[str]) -> tuple[ParallelConfig, list[str]]:
    """(the section that a command was given, the other overrides). Raises InputError."""
    ours = [text for text in overrides if text.strip().startswith("parallel.")]
    errors: list[str] = []
    layer = Layer("command line").add_overrides(ours, errors)
    config = build("parallel.", ParallelConfig, dict(layer.sections.get("parallel", {})), errors)
    if config is not None and config.query > 1:
        errors.append("parallel.query: shares the directions of an estimate, and none is made here; leave it out")
    if config is not None and config.tensor > 1 and config.fsdp > 1:
        errors.append(BOTH)
    if config is None or errors:
        raise InputError("\n".join(errors))
    return config, [text for text in overrides if text not in ours]


def grid_of(parallel: ParallelConfig) -> Grid:
    return Grid(parallel.query, parallel.tensor, parallel.fsdp)


def _settings(config: Config) -> dict[str, Any]:
    """What all ranks are told alike. Files may be elsewhere on another machine: of them the contents are compared."""
    settings = flat(config.to_dict())
    del settings["train.output_dir"]
    return {key: "a file" if isinstance(value, str) and value[:1] == "/" else value for key, value in settings.items()}


def settled_by_all(config: Config, ranks: Ranks) -> Config:
    """resume=auto as rank 0 finds it, see `start.settled`: the others may look when it has begun to write."""
    if config.train.resume != "auto":
        return config
    train = settled(config).train if ranks.leads else config.train
    resume, overwrite = json.loads(ranks.told(dumps([train.resume, train.overwrite]))[0])
    return replace(config, train=replace(train, resume=resume, overwrite=overwrite))


def resumed_from(config: Config, run: RunDir, ranks: Ranks) -> Path | None:
    """The checkpoint that rank 0 found to go on from; None for a new run. Raises InputError, see `check_directory`."""
    found = str(check_directory(config, run) or "") if ranks.leads else ""
    found = ranks.told(found)[0]
    return Path(found) if found else None


def seen_by_all(run: RunDir, ranks: Ranks) -> None:
    """Raises InputError, on all, where a rank does not see what rank 0 wrote: it could not go back to the best."""
    ids = ranks.told(run.id or "")
    if blind := [rank for rank, seen in enumerate(ids) if seen != ids[0]]:
        who = f"rank{'s' * (len(blind) > 1)} {', '.join(map(str, blind))}"
        raise InputError(
            f"train.output_dir: {run.root}: {who} cannot see what rank 0 wrote there; give a directory that "
            f"all machines share"
        )
