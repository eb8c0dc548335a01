"""Before a run: one line where it will not fit, with the nearest settings that do."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from zofo.api.memory.hollow import settings_of
from zofo.config.instantiate import make_method
from zofo.config.json_text import dumps
from zofo.config.resolve import Config, load
from zofo.data import Example, TaskData, load_task
from zofo.data.loader import tokenize_task
from zofo.errors import InputError, out_of_memory, unheard
from zofo.models.load import max_length_of, read_tokenizer
from zofo.models.room import Room, of
from zofo.train.progress import gib

log = logging.getLogger("zofo")
UNKNOWN = 1 << 62
OPTIONS = 4  # answers with rows of their own that `_at_most` expects where rows were not read
SECONDS = 30  # after which no further setting is asked about: the run is waiting
LONGEST = 120  # seconds of one prediction, more or less
KEPT = 512  # examples of a split that are tokenized, those with the longest texts


def warn_if_it_will_not_fit(config: Config, room: Room | None = None, read: Once | None = None) -> str | None:
    """Says by a warning, and returns, what does not fit; None where it does or nothing can be told.

    read: where what is read is kept, of which the run needs the tokenizer.
    The run goes on: a prediction can be wrong. A run that surely fits costs a look at config.json, or at the lengths of
    its rows; for another a process of its own predicts, since what that takes the run may need. room: where not this
    machine's or its device's is meant. Nothing is told of a model that several processes hold.
    """
    if config.parallel.shards:
        return None
    try:
        with unheard():  # the run says the same of its rows
            room = room or of(config.model.device)
            told = None if room is None or _surely(config, room, read or Once()) else _asked(config, room)
    except Exception as error:  # whatever is wrong with the input, the run says it at its place
        if out_of_memory(error):
            raise
        log.debug("memory: not predicted: %s", error)
        return None
    if told is not None:
        log.warning("%s", told)
    return told


def _asked(config: Config, room: Room) -> str | None:
    """What `line` says, by a process of its own. Raises whatever may go wrong with one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(config.to_yaml(), encoding="utf-8")
        sizes = (str(room.free), str(room.total), room.what, str(SECONDS))
        command = [sys.executable, "-m", "zofo.api.memory.before_run", str(path), *sizes]
        limit = SECONDS + LONGEST
        child = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=limit, check=True)
    return json.loads(child.stdout.splitlines()[-1])


class Once:
    """Stands for `load_task`: the rows are read once for several predictions, and the longest of them are kept."""

    def __init__(self) -> None:
        self._read: dict[bool, TaskData] = {}
        self.tokenizer: Any = None  # once it was needed

    def __call__(self, task: Any, seed: int, tokenizer: Any, only: Any, demonstrates: bool) -> TaskData:
        if demonstrates not in self._read:
            data = load_task(task, seed, tokenizer, only, demonstrates)
            if not data.groups:  # of a setting each task needs its own
                data = replace(data, train=_longest(data.train), dev=_longest(data.dev), test=_longest(data.test))
            self._read[demonstrates] = data
        return self._read[demonstrates]


def _longest(examples: list[Example]) -> list[Example]:
    """In their order, so that a split takes of them what it takes of all."""
    if len(examples) <= KEPT:
        return examples
    chosen = sorted(range(len(examples)), key=lambda i: -_size(examples[i]))[:KEPT]
    return [examples[i] for i in sorted(chosen)]


def _size(example: Example) -> int:
    """Characters of its longest row."""
    return len(example.prompt) + max(map(len, example.answers), default=0)


def _two_micro_batches(config: Config) -> Config:
    """The first makes the gradients and the second finds them; those behind take what the second one takes."""
    train = config.train
    if train.micro_batch_size is None or train.batch_size <= 2 * train.micro_batch_size:
        return config
    return replace(config, train=replace(train, batch_size=2 * train.micro_batch_size))


def _surely(config: Config, room: Room, read: Once) -> bool:
    """Whether a run fits by a bound, and need not be predicted."""
    settings, dtype = settings_of(config.model)
    positions = getattr(settings, "max_position_embeddings", None)
    length = min(config.model.max_length or UNKNOWN, positions or UNKNOWN)
    if _at_most(config, settings, dtype.itemsize, length, length, OPTIONS) < room.free:
        return True
    return _at_most(config, settings, dtype.itemsize, *_rows(config, settings, read)) < room.free


def line(config: Config, room: Room, seconds: float = SECONDS) -> str | None:
    """What does not fit and the nearest settings that do, predicted here; None where it fits. seconds: after which no
    further setting is asked about. Raises InputError, and whatever else a prediction may."""
    read = Once()
    from zofo.api.memory.fits import allowance
    from zofo.api.memory.footprint import Footprint, predict
    from zofo.api.memory.nearest import nearest

    device = "cpu" if room.what != "of the CUDA device" else "cuda"
    beside = allowance(device)

    end = time.monotonic() + seconds

    def needs(other: Config) -> int:
        if time.monotonic() > end:
            raise InputError("there is no time to ask about this")
        # the process is here already
        return beside.needs(predict(_two_micro_batches(other), task=read)) - beside.base

    footprint: Footprint = predict(_two_micro_batches(config), task=read)
    needed = beside.needs(footprint) - beside.base
    if needed <= room.free:
        return None
    longest = max(tokens for _, _, tokens in footprint.batches.values())
    told = [f"{' '.join(way.settings)} ({gib(way.needs)})" for way in nearest(config, needs, room.free, longest)]
    advice = f"{', or '.join(told)} would fit" if told else "no setting that was tried makes it fit"
    return (
        f"this run needs about {gib(needed)} in the {footprint.peak.phase}, and {gib(room.free)} {room.what} are free: "
        f"{advice}; an estimate (docs/memory.md), so it goes on"
    )


def _rows(config: Config, settings: Any, read: Once) -> tuple[int, int, int]:
    """(tokens of the longest row, its labels, rows of an example) of all that the run reads."""
    method = make_method(config)
    read.tokenizer = tokenizer = read_tokenizer(config.model)
    data = read(config.task, config.train.seed, tokenizer, None, method.demonstrates)
    limit = max_length_of(config.model, settings, tokenizer)
    splits = method.split(data, config.train.seed)
    examples = [e for split in tokenize_task(data, splits, tokenizer, limit).values() for e in split]
    rows = [row for example in examples for row in example.rows]
    return (
        max(len(row.ids) for row in rows),
        max(len(row.labels) for row in rows),
        max(len(example.rows) for example in examples),
    )


def _at_most(config: Config, settings: Any, itemsize: int, length: int, labels: int, options: int) -> int:
    """Bytes that a decoder of these sizes surely does not exceed, by a formula that errs on the large side several
    times over. UNKNOWN where a size is not known or layers are of another kind (experts, states)."""
    names = ("num_hidden_layers", "hidden_size", "vocab_size")
    layers, width, words = (getattr(settings, name, None) or UNKNOWN for name in names)
    inners = ("intermediate_size", "moe_intermediate_size", "ffn_dim", "n_inner")
    inner = max(4 * width, *(getattr(settings, name, None) or 0 for name in inners))
    experts = {name: n for name, n in settings.to_dict().items() if "expert" in name and not name.startswith("_")}
    counted = sum(n for name, n in experts.items() if "experts" in name and type(n) is int)
    if max(layers, width, words, length) >= UNKNOWN or (experts and not counted):
        return UNKNOWN
    inner *= counted or 1
    train, method = config.train, make_method(config)
    weights = (2 * words * width + layers * (4 * width * width + 3 * width * inner)) * itemsize
    copies = 5 if method.moves != "nothing" else 1
    copies += 3 if config.names.get("estimator") in ("subzero", "svrg") else 0  # stored factors, an anchor
    kept = layers if method.first_order else 4
    # of a layer and a token: fp32 values that are kept; attention's scores, should they be made
    token = 4 * (20 * width + 6 * inner) + 8 * length * (getattr(settings, "num_attention_heads", None) or 1)
    size = train.micro_batch_size or train.batch_size
    rows = options * max(size * kept, train.eval_batch_size * 4)
    logits = options * max(size, train.eval_batch_size) * labels * words * 4 * 4
    return 2**30 + weights * copies + rows * length * token + logits


if __name__ == "__main__":  # the process of `_asked`
    free, total, what, seconds = sys.argv[2:]
    print(dumps(line(load(Path(sys.argv[1])), Room(int(free), int(total), what), float(seconds))))
