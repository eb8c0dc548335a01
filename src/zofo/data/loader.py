"""From a task's examples to what a method reads: tokens, streams of batches; one task or many."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from zofo.data import ending
from zofo.data.checks import check_scoring, check_words
from zofo.data.example import Example, TaskData
from zofo.data.files import BadRows
from zofo.data.multitask.mixture import Mixture
from zofo.data.stream import Stream
from zofo.data.tokenization import Encoded, tokenize_all

log = logging.getLogger("zofo")

LEVELS = {"f": "upper level's", "p": "lower level's"}  # streams as a user knows them


def shorter(limit: int | None, other: int | None) -> int | None:
    """The smaller of two limits; None: there is none."""
    return min((n for n in (limit, other) if n is not None), default=None)


def streams_of(
    encoded: Mapping[str, list[Encoded]], batch_size: int, pad_id: int, seed: int, group_by_length: bool
) -> dict[str, Stream | Mixture]:
    """A stream of batches of each name's examples; of many tasks' examples they are mixtures."""
    for name, examples in encoded.items():
        if batch_size > len(examples):
            log.warning(
                "train.batch_size %d is more than the %d examples of stream %s: a batch holds some of them twice",
                batch_size,
                len(examples),
                name,
            )
    if any(e.example.group for examples in encoded.values() for e in examples):
        return {name: Mixture(examples, batch_size, pad_id, seed, name) for name, examples in encoded.items()}
    return {
        name: Stream(examples, batch_size, pad_id, seed, name, group_by_length) for name, examples in encoded.items()
    }


def without_unfit(data: TaskData, bad: BadRows) -> TaskData:
    """The data without the examples that `tokenize_task` left out, with this `bad`."""
    if not bad.counts:
        return data
    splits = ("train", "dev", "test")
    lists = {split: [e for e in getattr(data, split) if e.where not in bad.places] for split in splits}
    return replace(data, **lists, bad_rows={**data.bad_rows, **bad.say(data.name)})


def tokenize_task(
    data: TaskData,
    streams: Mapping[str, list[Example]],
    tokenizer: Any,
    max_length: int | None,
    beyond: Mapping[int, str] | None = None,
    bad: BadRows | None = None,
) -> dict[str, list[Encoded]]:
    """The examples of each training stream, of dev and of test as tokens, by their names.

    beyond: see `check_words`. bad: what is done with examples that do not fit the model.
    """

    def tokenize(name: str, examples: list[Example], for_eval: bool) -> list[Encoded]:
        before = bad.counts.total() if bad else 0
        encoded = tokenize_all(tokenizer, examples, max_length, data.encodes, data.ends, for_eval, name, bad)
        if bad is not None:
            bad.check(f"{data.name} ({name})", len(examples), before)
        check_words(encoded, beyond)
        return encoded

    ending.check(data, tokenizer)
    check_scoring([*data.dev, *data.test], data.scoring, tokenizer, max_length, beyond)
    with bad.gathered() if bad is not None else nullcontext():
        encoded = {name: tokenize(LEVELS.get(name, name), examples, False) for name, examples in streams.items()}
        return encoded | {"dev": tokenize("dev", data.dev, True), "test": tokenize("test", data.test, True)}
