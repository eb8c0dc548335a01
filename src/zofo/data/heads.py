"""The files that a configuration names, looked at before anything is loaded: whether they are there, and have the
columns that are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zofo.config.sections import TaskConfig, data_suffix, exists, kind_of_task
from zofo.data.chat import NoTokenizerYet
from zofo.data.files import BadRows, Undecided, no_train, read_tables
from zofo.data.hub import needs_data
from zofo.data.multitask.setting import check_setting, find_setting, tasks_there
from zofo.data.own_files import check_layout
from zofo.data.spec import TaskSpec, check_columns
from zofo.data.task import load_task, local_tables, measures, settle
from zofo.errors import InputError, printable


def missing_files(config: TaskConfig, trains: bool = False, rows: bool = True) -> list[str]:
    """What is wrong with the files that are named, a task's own included, each line "field: message".

    trains, rows: see `check_heads`.
    """
    if config.data is not None and not exists(config.data):
        return [f"data: no such file or directory: {printable(config.data, 300)}"]
    kind = kind_of_task(config.name)
    if kind in ("rows", "file") and not exists(config.name):
        what = "file" if kind == "file" or data_suffix(config.name) else "file or directory"
        return [f"name: no such {what}: {printable(config.name, 300)}"]
    if kind == "file" and not Path(config.name).is_file():
        return [f"name: {config.name} is a directory, and a task's .yaml file is expected"]
    if config.problems():  # said already
        return []
    field = "name"
    try:
        setting = find_setting(config.name)
        known = settle(config) if setting is None else check_setting(config, setting)
        field = "data" if config.data else "name"
        if setting is None:
            check_heads(config, known[0] if known else None, trains, rows)
        else:
            tasks_there(setting, Path(config.data or ""))
    except InputError as error:
        lines = str(error).splitlines()
        return [line[5:] if line.startswith("task.") else f"{field}: {line}" for line in lines]
    return []


def check_heads(cfg: TaskConfig, spec: TaskSpec | None, trains: bool, rows: bool = True) -> None:
    """Looks at the first rows of the local files of a task, or of one's own (spec: None), as far as they decide.

    trains: there must be rows to train on. rows: whether those that cannot be used are an error; else `check_rows` says
    it of all. Raises InputError as `load_task` would once it has read them.
    """
    bad = BadRows(cfg.on_bad_row == "skip" or not rows)
    try:
        if spec is None:
            tables = read_tables(Path(cfg.name), bad=bad, heads=True)
            if trains and "train" not in tables:
                raise no_train(Path(cfg.name))
            _, layout = check_layout(tables, cfg.template, cfg.choices)
            measures(cfg, "options" if layout == "options" else "completion")
        elif cfg.data:
            name = Path(cfg.name).stem.replace("_", "-")
            tables = local_tables(Path(cfg.data), spec, name, bad=bad, heads=True)
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
    place = Path(cfg.name) if kind_of_task(cfg.name) == "rows" else Path(cfg.data) if cfg.data else None
    if place is None or not exists(place):
        return []
    if place.is_file():
        return [place]
    return [path for path in sorted(place.rglob("*")) if data_suffix(path) and path.is_file()]


def size_of(files: Sequence[Path]) -> int:
    return sum(path.stat().st_size * (8 if path.suffix.lower() in (".gz", ".parquet") else 1) for path in files)


def check_rows(cfg: TaskConfig, seed: int, only: str | None = None, demonstrates: bool = False) -> str:
    """Looks at the rows of local files as training does that draws them with this seed, without a model. Where the
    files hold more than MOST, at nothing.

    only: see `load_task`. Returns what was not looked at, in words, "" for nothing. Raises InputError as `load_task`.
    """
    files = files_of_rows(cfg)
    if not files:
        return ""
    if (size := size_of(files)) > MOST:
        return (
            f"{cfg.data or cfg.name}: {size / 2**20:.0f} MiB of rows, of which the first 100 of a file were looked at; "
            f"a run reads all"
        )
    load_task(cfg, seed, NoTokenizerYet(), only, demonstrates)
    return ""
