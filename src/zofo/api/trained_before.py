"""Rows that a run would be measured on, and that what it begins with was trained on: another draw of the same files."""

from __future__ import annotations

import logging
from pathlib import Path

from zofo.api.adapter_start import start_of
from zofo.api.scored_rows import place_of
from zofo.api.states import is_state
from zofo.api.targets import config_of
from zofo.config.instantiate import make_method
from zofo.config.resolve import Config
from zofo.config.sections import exists
from zofo.data import TaskData, load_task
from zofo.data.chat import NoTokenizerYet
from zofo.errors import InputError, printable, unheard
from zofo.train.ownership import is_numbered

DRAWN = ("train_examples", "dev_examples", "test_examples")
log = logging.getLogger("zofo")


def say_trained_before(config: Config, data: TaskData) -> None:
    """Warns where dev or test rows of a run that begins are rows that the model or the adapter which it begins with was
    trained on, or test rows chose its checkpoint: each run draws its splits by its own seed and sizes.

    data: the run's. As far as that can be known: of a run or an export on the same files, which are still there.
    """
    for field, place in (("adapter.start", start_of(config)), ("model.name", config.model.name)):
        before = None if place is None or not exists(place) else _config_of(Path(place))
        if place is None or before is None or place_of(before.task) != place_of(config.task):
            continue
        then = _drawn(before)
        if then is None:
            continue
        trained = {example.id for example in then.train}
        chosen = {example.id for example in then.dev}
        counts = {
            "dev rows were trained on": sum(example.id in trained for example in data.dev),
            "test rows were trained on": sum(example.id in trained for example in data.test),
            "test rows selected its checkpoint": sum(example.id in chosen for example in data.test),
        }
        if found := ", ".join(f"{n} {what}" for what, n in counts.items() if n):
            sizes = " ".join(f"task.{key}={getattr(before.task, key)}" for key in DRAWN)
            log.warning(
                "%s: the run behind %s had other splits of the same rows: %s, so the numbers here are too good; give "
                "its own splits (train.seed=%d %s), or a test file with other rows",
                *(field, printable(place, 300), found, before.train.seed, sizes),
            )


def _config_of(path: Path) -> Config | None:
    """Of the run that a place was made by, or a part of one of its checkpoints; None where it is none of zofo's."""
    above = (folder for folder in path.absolute().parents[:2] if is_numbered(folder.name) and is_state(folder))
    try:
        return config_of(path if is_state(path) else next(above, path))
    except InputError:  # damaged, which is said where it is read
        return None


def _drawn(config: Config) -> TaskData | None:
    """The rows as the run drew them; None where they cannot be read any more. Nothing is said of them."""
    with unheard():
        try:
            demonstrates = make_method(config).demonstrates
            return load_task(config.task, config.train.seed, NoTokenizerYet(), None, demonstrates)
        except InputError:
            return None
