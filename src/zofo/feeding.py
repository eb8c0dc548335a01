"""From a task's examples to what a method reads: tokens, two levels, streams of batches; one task or many."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from zofo.config import Config
from zofo.data import Encoded, Stream, encode_all
from zofo.errors import InputError
from zofo.mixture import Mixture
from zofo.models import Loaded
from zofo.tasks import TaskData, split_levels

log = logging.getLogger("zofo")


def shorter(limit: int | None, other: int | None) -> int | None:
    """The smaller of two limits; None: there is none."""
    return min((n for n in (limit, other) if n is not None), default=None)


def trained_tasks(data: TaskData) -> tuple[str, ...]:
    """Of a setting: the tasks that are trained on."""
    return tuple(dict.fromkeys(e.group for e in data.train)) if data.groups else ()


def among(streams: Mapping[str, Stream | Mixture], tasks: Sequence[str], round: object) -> None:
    for stream in streams.values():
        if isinstance(stream, Mixture):
            stream.among(tasks, round)


def streams_of(
    config: Config, encoded: dict[str, list[Encoded]], loaded: Loaded, method: Any
) -> dict[str, Stream | Mixture]:
    size, seed = config.train.batch_size, config.train.seed
    for name in method.streams:
        if size > len(encoded[name]):
            log.warning(
                "train.batch_size %d is more than the %d examples of stream %s: a batch holds some of them twice",
                size, len(encoded[name]), name,
            )  # fmt: skip
    if any(e.example.group for name in method.streams for e in encoded[name]):
        return {name: Mixture(encoded[name], size, loaded.pad_id, seed, name) for name in method.streams}
    group = config.train.group_by_length
    return {name: Stream(encoded[name], size, loaded.pad_id, seed, name, group) for name in method.streams}


def encode_task(config: Config, data: TaskData, loaded: Loaded, method: Any) -> dict[str, list[Encoded]]:
    def run(name: str, examples: list, for_eval: bool) -> list[Encoded]:
        return encode_all(loaded.tokenizer, examples, loaded.max_length, data.objective, data.ends, for_eval, name)

    streams = {"train": data.train}
    if set(method.streams) == {"f", "p"}:
        streams = _levels(config, data)
    levels = {"f": "upper level's", "p": "lower level's"}
    encoded = {name: run(str(levels.get(name, name)), streams[name], False) for name in method.streams}
    return encoded | {"dev": run("dev", data.dev, True), "test": run("test", data.test, True)}


def _levels(config: Config, data: TaskData) -> dict[str, list]:
    """The training data of the upper and the lower level, D_f and D_p."""
    if config.method.upper_data == "dev":
        return {"f": data.dev, "p": data.train}
    share, found = config.method.upper_share, dict[str, list]({"f": [], "p": []})
    for task in trained_tasks(data) or ("",):
        own = [e for e in data.train if not task or e.group == task]
        if task and len(own) < 2:
            raise InputError(f"{task}: one training row, and two levels need two; give more, or leave the task out")
        upper, lower = split_levels(own, config.train.seed, (share, 1 - share), config.method.stratified)
        found["f"] += upper
        found["p"] += lower
    return found
