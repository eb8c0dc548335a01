"""The files that a configuration names, looked at before anything is loaded: whether they are there, and have the
columns that are read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from zofo.config.reward_name import reward_name
from zofo.config.sections import SPLIT_FIELDS, TaskConfig, data_suffix, exists, kind_of_task
from zofo.config.task_rows import field_of_line
from zofo.data.chat import Chat, NoTokenizerYet, check_loss_on
from zofo.data.example import TaskData
from zofo.data.files import BadRows, Undecided, file_of
from zofo.data.hub import needs_data
from zofo.data.layouts import LAYOUTS, check_layout, columns_asked
from zofo.data.multitask.setting import check_setting, find_setting, tasks_there
from zofo.data.rewards import Reward
from zofo.data.spec import TaskSpec, check_columns
from zofo.data.tables import no_train, no_train_file, own_tables
from zofo.data.task import load_task, measures, settle, tables_at
from zofo.data.written import rewarded_task
from zofo.errors import InputError, printable


def missing_files(config: TaskConfig, trains: bool = False, rows: bool = True) -> list[str]:
    """What is wrong with the files that are named, a task's own included, each line "field: message".

    trains, rows: see `check_heads`.
    """
    if config.data is not None and not exists(config.data):
        return [f"data: no such file or directory: {printable(config.data, 300)}"]
    if faults := _named_files(config, trains):
        return faults
    kind = kind_of_task(config.name)
    if config.name and kind in ("rows", "file") and not exists(config.name):
        what = "file" if kind == "file" or data_suffix(config.name) else "file or directory"
        return [f"name: no such {what}: {printable(config.name, 300)}"]
    if kind == "file" and not Path(config.name).is_file():
        return [f"name: {config.name} is a directory, and a task's .yaml file is expected"]
    if config.problems():  # said already
        return []
    read = False
    try:
        setting = find_setting(config.name)
        known = settle(config) if setting is None else check_setting(config, setting)
        read = True
        if setting is None:
            check_heads(config, known[0] if known else None, trains, rows)
        else:
            tasks_there(setting, Path(config.data or ""))
    except InputError as error:
        lines = str(error).splitlines()
        fields = [field_of_line(config, line) if read else "name" for line in lines]
        return [x[5:] if x.startswith("task.") else f"{field}: {x}" for x, field in zip(lines, fields)]
    return []


def _named_files(config: TaskConfig, trains: bool) -> list[str]:
    """What is wrong with the files of the splits."""
    faults, seen = [], {}
    for split, path in config.files.items():
        field = SPLIT_FIELDS[split]
        if not exists(path):
            faults.append(f"{field}: no such file: {printable(path, 300)}")
        elif not Path(path).is_file():
            faults.append(f"{field}: {printable(path, 300)} is a directory; give a file, or the directory as --task")
        elif (other := seen.setdefault(os.path.realpath(path), field)) != field:
            faults.append(f"{field}: {printable(path, 300)} is task.{other} too; give each split rows of its own")
    if trains and config.files and "train" not in config.files and not faults and kind_of_task(config.name) == "rows":
        faults.append(str(no_train_file(config, None)).removeprefix("task."))
    return faults


def check_heads(cfg: TaskConfig, spec: TaskSpec | None, trains: bool, rows: bool = True) -> None:
    """Looks at the first rows of the local files of a task, or of one's own (spec: None), as far as they decide.

    trains: there must be rows to train on. rows: whether those that cannot be used are an error; else `check_rows` says
    it of all. Raises InputError as `load_task` would once it has read them.
    """
    bad = BadRows(cfg.on_bad_row == "skip" or not rows)
    try:
        if spec is None:
            tables = own_tables(cfg, bad=bad, heads=True)
            if trains and "train" not in tables:
                raise no_train_file(cfg, None)
            if reward_name(cfg.metric) is not None:
                measures(cfg, rewarded_task(tables, cfg, Chat(NoTokenizerYet(), cfg.system, cfg.loss_on)).kind)
                return
            records, layout = check_layout(tables, cfg.template, cfg.choices, columns_asked(cfg))
            check_loss_on(cfg.loss_on, LAYOUTS[layout], file_of(records))
            measures(cfg, "options" if layout == "options" else "completion")
        elif cfg.data or cfg.files:
            name = Path(cfg.name).stem.replace("_", "-")
            tables = tables_at(cfg, spec, name, bad=bad, heads=True)
            check_columns(spec, cfg.template, tables)
            if trains and "train" not in tables and ("test" not in tables or spec.carve is None):
                raise no_train(name)
        elif spec.hub is None:
            raise needs_data(spec, Path(cfg.name).stem.replace("_", "-"))
    except Undecided:  # training reads all of them
        return


MOST = 2**25  # bytes of files that are read as a whole before a run reads them; a compressed one counts eightfold


def files_of_rows(cfg: TaskConfig) -> list[Path]:
    """The local files that a task's rows may be in; [] where they are the hub's."""
    if cfg.files:
        return [Path(path) for path in cfg.files.values() if exists(path)]
    place = Path(cfg.name) if kind_of_task(cfg.name) == "rows" else Path(cfg.data) if cfg.data else None
    if place is None or not exists(place):
        return []
    if place.is_file():
        return [place]
    return [path for path in sorted(place.rglob("*")) if data_suffix(path) and path.is_file()]


def size_of(files: Sequence[Path]) -> int:
    return sum(path.stat().st_size * (8 if path.suffix.lower() in (".gz", ".parquet") else 1) for path in files)


def check_rows(
    cfg: TaskConfig, seed: int, only: str | None = None, demonstrates: bool = False, reward: Reward | None = None
) -> str:
    """Looks at the rows, see `rows_of`. Returns what was not looked at, in words, "" for nothing."""
    return rows_of(cfg, seed, only, demonstrates, reward)[0]


def rows_of(
    cfg: TaskConfig, seed: int, only: str | None = None, demonstrates: bool = False, reward: Reward | None = None
) -> tuple[str, TaskData | None]:
    """The rows of local files as training has them that draws them with this seed, without a model; None, and what was
    not looked at, in words, where the files hold more than MOST; None, and "", where the rows are the hub's.

    only: see `load_task`. reward: is tried on them. Raises InputError as `load_task`.
    """
    files = files_of_rows(cfg)
    if not files:
        return "", None
    if (size := size_of(files)) > MOST:
        return (
            f"{cfg.place}: {size / 2**20:.0f} MiB of rows, of which the first 100 of a file were looked at; "
            f"a run reads all"
        ), None
    data = load_task(cfg, seed, NoTokenizerYet(), only, demonstrates)
    if reward is not None:
        reward.fitted(data)
    return "", data
