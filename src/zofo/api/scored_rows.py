"""Which rows an evaluation scores: the run's own, where they are now, or others; and which of those were trained on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from zofo.api.restore import MOVED
from zofo.api.targets import Opened
from zofo.config.instantiate import make_method
from zofo.config.paths import absolute
from zofo.config.sections import TaskConfig
from zofo.config.task_rows import field_of_rows, fields_of_rows, rows_are_there
from zofo.data import Example, TaskData, load_task
from zofo.data.own_files import Answers
from zofo.data.task import answers_of
from zofo.errors import InputError, printable, unheard
from zofo.train.inputs import check_inputs, examples_digest

log = logging.getLogger("zofo")
SIZES = ("train_examples", "dev_examples", "test_examples")


def load_rows(opened: Opened, cfg: TaskConfig, other: bool, seed: int, split: str) -> TaskData:
    """The data whose `split` is scored. cfg: the task section of this evaluation. other: whether it is of a task of its
    own (--task). Raises InputError where they should be the run's rows and are not."""
    config, tokenizer = opened.config, opened.loaded.tokenizer
    if config is None:
        return load_task(cfg, seed, tokenizer, split)
    answers = answers_of(config.task, recorded_labels(opened))
    same = place_of(cfg) == place_of(config.task)
    if other and not same:
        data = load_task(cfg, seed, tokenizer, split, answers=answers)
        _say_trained_on(opened, cfg, data, answers, split)
        return data
    data = None
    try:
        data = load_task(cfg, seed, tokenizer, answers=answers)
        _check_same(opened, data, cfg, answers, seed, split)
    except InputError as error:
        where = printable(cfg.place, 200)
        if same and not other:
            raise
        if same:
            log.warning("%s; rows that the run was trained on may be among those that are scored", _what(error))
            return data or load_task(cfg, seed, tokenizer, answers=answers)
        if field_of_rows(config.task) != "data":
            fix = f"--data takes the run's own file, where it is now; --task {where} scores all of its rows"
            raise InputError("\n".join(f"{_what(line)}; {fix}" for line in str(error).split("\n"))) from None
        with nullcontext() if data is None else unheard():
            data = load_task(cfg, seed, tokenizer, split, answers=answers)
        log.warning(
            "%s: other rows than the run's: %d %s rows of its own are scored", where, len(getattr(data, split)), split
        )
        _say_trained_on(opened, cfg, data, answers, split)
    return data


def place_of(cfg: TaskConfig) -> dict[str, Any]:
    """Where the rows are, one name for one place."""
    return fields_of_rows(absolute(cfg, "task"))


def _what(error: object) -> str:
    """An error without what can be done about it."""
    return str(error).split("\n")[0].removesuffix(f"; {MOVED['examples']}")


def recorded_labels(opened: Opened) -> list[str]:
    """What the run can answer, of which nothing may be lost where another file lacks it; []: its data says so."""
    labels = opened.info.get("labels")
    return [str(label) for label in labels] if isinstance(labels, list) else []


def _of_run(opened: Opened, place: TaskConfig) -> TaskConfig:
    """The run's task section, with its rows at another place."""
    assert opened.config is not None
    return replace(opened.config.task, **fields_of_rows(place))


def _check_same(opened: Opened, data: TaskData, cfg: TaskConfig, answers: Answers, seed: int, split: str) -> None:
    """Raises InputError where this split has other rows than the run had then. data: as `cfg` and `seed` make it."""
    config, then = opened.config, opened.inputs.get("examples", {})
    assert config is not None
    if split not in then or (split == "train" and make_method(config).demonstrates):
        return
    if (cfg, seed) != (config.task, config.train.seed):  # other prompts: the rows are compared in the run's own
        with unheard():
            data = load_task(_of_run(opened, cfg), config.train.seed, opened.loaded.tokenizer, answers=answers)
    now = {"examples": {split: examples_digest(getattr(data, split))}}
    check_inputs(opened.inputs, now, cfg.place, MOVED)


# ------------------------------------------------------------------------------------------------- rows of the training


def _say_trained_on(opened: Opened, cfg: TaskConfig, data: TaskData, answers: Answers, split: str) -> None:
    """Warns where other rows are scored and the run was trained on some of them, as far as that can be known: its rows
    are looked for where they were, and in the place that is given. data: what is scored."""
    assert opened.config is not None
    if not make_method(opened.config).per_step:  # nothing is trained
        return
    trained, here = _trained_rows(opened, cfg, answers)
    where = printable(cfg.place, 200)
    if trained is None:
        fix = "; put its rows back to have them compared" if opened.inputs.get("examples") else ""
        log.warning("%s: whether the run was trained on some of these rows is not known%s", where, fix)
        return
    as_in_the_run = replace(_of_run(opened, cfg), num_fewshot=0, **{size: getattr(cfg, size) for size in SIZES})
    scored = _read(opened, as_in_the_run, answers, split) or data
    known = {_content(e) for e in trained}
    every: Sequence[Example] = getattr(scored, split)
    if count := sum(_content(e) in known for e in every):
        fix = f"; --data {where}, without --task, scores the run's own {split} rows" if here else ""
        log.warning("%s: the run was trained on %d of these %d rows%s", where, count, len(every), fix)


def _trained_rows(opened: Opened, cfg: TaskConfig, answers: Answers) -> tuple[list[Example] | None, bool]:
    """(the examples that the run was trained on, or None; whether they are those of the place that is given)."""
    assert opened.config is not None
    then = opened.inputs.get("examples", {}).get("train")
    for place in (cfg, opened.config.task):
        data = _read(opened, _of_run(opened, place), answers) if then else None
        if data is not None and examples_digest(data.train) == then:
            return data.train, place is cfg
    return None, False


def _read(opened: Opened, cfg: TaskConfig, answers: Answers, split: str | None = None) -> TaskData | None:
    """The rows of a place of this machine in the run's words; None where there are none. Nothing is said of them."""
    config = opened.config
    assert config is not None
    if not rows_are_there(cfg):
        return None
    demonstrates = make_method(config).demonstrates
    with unheard():
        try:
            return load_task(cfg, config.train.seed, opened.loaded.tokenizer, split, demonstrates, answers)
        except InputError:
            return None


def _content(example: Example) -> str:
    return repr((example.prompt, example.answers, example.gold, example.reference))
