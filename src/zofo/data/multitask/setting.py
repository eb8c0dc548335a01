"""Settings: many tasks train one model, and new ones are what it is measured on (MetaICL, Min et al. 2022).

A setting is a YAML file with the names of its tasks; their rows are the user's, in a directory with one of each task.
What is there is used, and what is missing is said.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zofo.config import registry
from zofo.config.registry import canonical
from zofo.config.typed import build
from zofo.config.yaml_reader import read_yaml
from zofo.data.chat import NoTokenizerYet
from zofo.data.example import TASK_MEAN, TaskData
from zofo.data.files import BadRows
from zofo.data.multitask.layout import limit, make_layout
from zofo.data.multitask.pool import Pool, find_folder, open_pool
from zofo.data.multitask.reading import Reading
from zofo.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from zofo.config.sections import TaskConfig

log = logging.getLogger("zofo")
LISTS = ("train", "target", "unseen_domain", "held_out")  # keys of a file, in the order of Setting's fields
_TASKS = {"missing": "a list of tasks"}


@dataclass(frozen=True)
class Setting:
    """Names of tasks. unseen_domain: targets of a domain that no training task has. held_out: of train, (): drawn."""

    name: str
    train: tuple[str, ...] = field(metadata=_TASKS)
    target: tuple[str, ...] = field(metadata=_TASKS)
    unseen_domain: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    description: str = ""
    source: str = ""
    file: str = ""

    def problems(self) -> list[str]:
        """As `config.typed.build` asks for it."""
        names = {key: {canonical(name): name for name in reversed(getattr(self, key))} for key in LISTS}
        problems = [f"{key}: required: a list of tasks" for key in ("train", "target") if not names[key]]
        for key in LISTS:
            listed = getattr(self, key)
            twice = [n for i, n in enumerate(listed) if canonical(n) in map(canonical, listed[:i])]
            problems += [f"{key}: two tasks of one name: {names[key][canonical(n)]}, {n}" for n in twice]
            problems += [f"{key}: a task's name is empty"] if "" in listed else []
        both = [names["target"][n] for n in names["target"] if n in names["train"]]
        if both:
            problems.append(f"target: a task that is trained on is not new: {', '.join(both)}")
        for key, of in (("unseen_domain", "target"), ("held_out", "train")):
            for n, name in names[key].items():
                if n not in names[of]:
                    problems.append(f'{key}: no task "{name}" in {of}{did_you_mean(n, list(names[of]))}')
        if names["train"] and len(names["held_out"]) == len(names["train"]):
            problems.append("held_out: holds every task of train; leave one to train on")
        return problems


def find_setting(name: str) -> Setting | None:
    """A known setting, or a .yaml file with the key `target`; None where the name is none: then it is a task's.

    Raises InputError with everything that is wrong in the file, one line each.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if canonical(name) not in registry.names("settings"):
            return None
        path = registry.load("settings", name)
    try:
        content = read_yaml(path, "")
    except InputError:  # which reading it as a task's file says
        return None
    if not ("target" in content or ("train" in content and "columns" not in content)):
        return None
    errors: list[str] = []
    setting = build(f"{path}: ", Setting, {**content, "name": canonical(path.stem), "file": path.name}, errors)
    if errors or setting is None:
        raise InputError("\n".join(errors))
    spelling = {canonical(name): name for name in (*setting.train, *setting.target)}
    lists = {key: tuple(spelling[canonical(name)] for name in getattr(setting, key)) for key in LISTS}
    return replace(setting, **lists, description=setting.description.strip(), source=setting.source.strip())


@dataclass
class OpenSetting:
    """The tasks of a setting that are there. held_out: of the training tasks those that are not trained on."""

    setting: Setting
    directory: Path
    train: dict[str, Pool]
    target: dict[str, Pool]
    held_out: dict[str, Pool] = field(default_factory=dict)
    missing_train: tuple[str, ...] = ()
    missing_target: tuple[str, ...] = ()

    @property
    def coverage(self) -> list[str]:
        """For the log: how much of the setting is there, and what is missing."""
        setting = self.setting
        kinds = (("training", setting.train, self.missing_train), ("target", setting.target, self.missing_target))
        shares = []
        for kind, every, missing in kinds:
            have = len(every) - len(missing)
            shares.append(f"{have} of {len(every)} {kind} tasks ({100 * have / len(every):.0f} %)")
        lines = [f"{self.setting.name}: {', '.join(shares)}"]
        lines += [f"missing {kind} tasks: {', '.join(missing)}" for kind, _, missing in kinds if missing]
        known = {canonical(name) for name in (*setting.train, *setting.target)}
        spare = [path.name for path in self.directory.iterdir() if path.is_dir() and canonical(path.name) not in known]
        near = [f"{name}{hint}" for _, _, missing in kinds for name in missing if (hint := did_you_mean(name, spare))]
        return lines + ([f"folders of other names: {', '.join(near)}"] if near and not self.known else [])

    @property
    def known(self) -> bool:
        """Whether it is one of zofo's settings, whose missing tasks no folder of another name stands for."""
        return self.setting.name in registry.names("settings")


def tasks_there(setting: Setting, directory: Path) -> dict[str, bool]:
    """Which of the setting's tasks have a directory. Raises InputError where none has."""
    there = {name: find_folder(directory, name) is not None for name in (*setting.train, *setting.target)}
    if not any(there.values()):
        names = ", ".join(f"{name}/" for name in setting.target[:3])
        raise InputError(f"{directory}: no task of the setting {setting.name} is there; expected {names}, ...")
    return there


def open_setting(
    setting: Setting, directory: Path, held_out: int | Sequence[str], seed: int, bad: BadRows | None = None
) -> OpenSetting:
    """The tasks of a setting that have a directory in `directory`, where - and _ are the same.

    held_out: how many training tasks are held out, drawn by the seed among those with options; 0: none, and training
    tasks need not be there. What the setting itself holds out goes before. Or their names, such as those of a run, of
    this setting or another. bad: what is done with rows that cannot be used. Raises InputError where there is too
    little.
    """
    there = tasks_there(setting, directory)
    pools = {name: open_pool(directory, name, bad) for name, is_there in there.items() if is_there}
    opened = OpenSetting(
        setting,
        directory,
        train={name: pools[name] for name in setting.train if name in pools},
        target={name: pools[name] for name in setting.target if name in pools},
        missing_train=tuple(name for name in setting.train if not there[name]),
        missing_target=tuple(name for name in setting.target if not there[name]),
    )
    if free := next((name for name, pool in opened.target.items() if pool.kind == "free-form"), None):
        raise InputError(f"{directory}: the target task {free} has rows without options; nothing can be chosen there")
    if not isinstance(held_out, int):
        opened.held_out = {name: opened.train.pop(name, None) or open_pool(directory, name, bad) for name in held_out}
    elif held_out:
        opened.held_out = {name: opened.train.pop(name) for name in _held_out(opened, held_out, seed)}
    return opened


def _held_out(opened: OpenSetting, count: int, seed: int) -> list[str]:
    """Names of training tasks, all with options; one training task at least is left."""
    setting, have = opened.setting, opened.train
    if setting.held_out:
        names = {canonical(name) for name in setting.held_out}
        if missing := [name for name in opened.missing_train if canonical(name) in names]:
            raise InputError(f"{opened.directory}: no directory of the held-out task {missing[0]}; name another one")
        chosen = [name for name in setting.train if canonical(name) in names]
        if free := [name for name in chosen if have[name].kind == "free-form"]:
            raise InputError(f"{setting.file}: held_out: {free[0]} has rows without options; name another one")
    else:
        order = random.Random(f"{seed}/setting/held-out").sample(list(have), len(have))
        chosen = []
        for name in order:  # a task's kind is in its rows: read no more of them than that
            if len(chosen) < min(count, len(have) - 1) and have[name].kind != "free-form":
                chosen.append(name)
        if len(chosen) < count:
            raise InputError(
                f"task.held_out: {count} of the {len(have)} training tasks in {opened.directory} "
                f"({', '.join(have) or 'none'}) cannot be held out: they must have options, and one task must be "
                "left to train on; give a smaller number or more tasks"
            )
    if len(chosen) == len(have):
        raise InputError(
            f"{opened.directory}: of the training tasks of {setting.name} only the held-out {', '.join(chosen)} is "
            "there; add one to train on"
        )
    return chosen


def check_setting(cfg: TaskConfig, setting: Setting) -> None:
    """Raises InputError for all in a configuration that a setting cannot have, before any data is read."""
    layout = make_layout(cfg.template, None)
    if not cfg.data:
        task = setting.target[0]
        raise InputError(
            f"task.data: {setting.name} needs a directory with one of each task: {task}/train.jsonl and test.jsonl, or "
            f"MetaICL's {task}/{task}_16_100_test.jsonl"
        )
    if cfg.choices is not None:
        raise InputError(
            f"task.choices: is for own files with text and label; the tasks of {setting.name} have options"
        )
    if cfg.apply_chat_template:
        raise InputError(f"task.apply_chat_template: {setting.name} has MetaICL's plain texts; set it to false")
    if cfg.metric not in (None, TASK_MEAN):
        near = did_you_mean(cfg.metric or "", (TASK_MEAN,))
        raise InputError(f'task.metric: "{cfg.metric}" does not measure a setting{near}; known: {TASK_MEAN}')
    for name in ("max_new_tokens", "temperature", "top_p", "samples"):
        if getattr(cfg, name) is not None:
            raise InputError(f"task.{name}: {setting.name} generates nothing; leave it out")
    if cfg.run_generated_code:
        raise InputError(f"task.run_generated_code: {setting.name} runs no programs; leave it out")
    if cfg.fewshot != "random":
        raise InputError(f"task.fewshot: {setting.name} draws demonstrations as MetaICL does; leave it out")
    if layout.channel and cfg.scoring in ("calibrated", "pmi"):
        raise InputError(f"task.scoring: a channel model has no prompt without the input; use mean, not {cfg.scoring}")


def load_setting(
    cfg: TaskConfig,
    setting: Setting,
    seed: int,
    tokenizer: Any = None,
    only: str | None = None,
    demonstrates: bool = False,
    shots_seed: int = 100,
) -> TaskData:
    """The setting's examples: the training tasks', the held-out ones' as dev, the targets' as test.

    demonstrates: training examples have `cfg.num_fewshot` answered rows of their task before them too. only: see
    `load_task`; then the other splits are empty, and training tasks need not be there to test. shots_seed: of the
    demonstrations before dev and test rows. Raises InputError naming file, line and fix.
    """
    check_setting(cfg, setting)
    bad = BadRows(cfg.on_bad_row == "skip")
    opened = open_setting(setting, Path(cfg.data or ""), 0 if only == "test" else cfg.held_out, seed, bad)
    if not opened.target and only in (None, "test"):
        names = ", ".join(f"{name}/" for name in setting.target[:3])
        raise InputError(f"{opened.directory}: no target task of {setting.name} is there; expected {names}, ...")
    (log.warning if len(opened.coverage) > 1 else log.info)("%s", "; ".join(opened.coverage))
    cuts = None if isinstance(tokenizer, NoTokenizerYet) else tokenizer
    read = Reading(cfg, make_layout(cfg.template, cuts), seed, shots_seed, bad)
    train = read.train(opened.train, demonstrates) if only is None else []
    known = {key for _, key in train}
    measured = {
        "dev": read.measured(opened.held_out, "dev") if only in (None, "dev") else [],
        "test": read.measured(opened.target, "test") if only in (None, "test") else [],
    }
    dev, test = ([example for example, _ in made] for made in measured.values())
    groups = {name: pool.metric for name, pool in {**opened.held_out, **opened.target}.items()}
    return TaskData(
        name=setting.name,
        version=1,
        objective=read.objective,
        metrics=(TASK_MEAN,),
        train=[example for example, _ in train],
        dev=dev,
        test=test,
        labels=(),
        scoring=cfg.scoring,
        repeated={split: sum(key in known for _, key in made) for split, made in measured.items()},
        groups=groups,
        given=dict(read.given),
        bad_rows=bad.say(setting.name),
        max_length=limit(cfg.num_fewshot),
    )


def trained_tasks(data: TaskData) -> tuple[str, ...]:
    """Of a setting: the tasks that are trained on."""
    return tuple(dict.fromkeys(e.group for e in data.train)) if data.groups else ()
