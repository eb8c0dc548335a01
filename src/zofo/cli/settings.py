"""Arguments of `train` and `validate` -> a resolved Config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zofo.api.configure import resolve
from zofo.config.resolve import Config
from zofo.config.resolve import load as load_config
from zofo.config.sections import exists
from zofo.config.task_rows import moved_overrides
from zofo.config.words import unknown_words
from zofo.errors import InputError
from zofo.train.files import looks_like_run
from zofo.train.lease import refuse_in_use
from zofo.train.run_dir import RunDir


def train_config(
    settings: Sequence[str], preset: str | None, sections: dict[str, Any], train: dict[str, Any]
) -> Config:
    """`settings` holds at most one YAML file and any number of `section.key=value`; None values were not given."""
    file, overrides = split_settings(settings)
    train = {key: value for key, value in train.items() if value is not None}
    chosen = file or preset or any(sections.values())
    if train.get("resume") and not (file or preset or sections.get("method")):
        try:
            file, train = _saved(train)
        except InputError as error:
            raise InputError("\n".join([*unknown_words(overrides), str(error)])) from None
        return _go_on(file, overrides, preset, sections, train)
    if not chosen and not overrides:
        raise InputError("no configuration: give a CONFIG.yaml, --preset NAME, or --model, --task and --method")
    return resolve(file, overrides, preset, train=train, **sections)


def _go_on(
    file: str, overrides: Sequence[str], preset: str | None, sections: dict[str, Any], train: dict[str, Any]
) -> Config:
    """Of a run's own config.yaml; its model and rows may be at other places now, and --data is that of the rows."""
    overrides = moved_overrides(load_config(file).task, overrides)
    try:
        return resolve(file, overrides, preset, train=train, **sections)
    except InputError as error:
        lines = str(error).split("\n")
        fixes = {"task.": "--data says where its rows are now", "model.": "--model says where it is now"}
        for start, fix in fixes.items():
            lines = [f"{line}; {fix}" if line.startswith(start) and ": no such" in line else line for line in lines]
        raise InputError("\n".join(lines)) from None


def split_settings(settings: Sequence[str]) -> tuple[str | None, list[str]]:
    """(YAML file or None, overrides). Raises InputError for a missing or a second file."""
    overrides = [text for text in settings if "=" in text and not exists(text)]  # a text can be too long for a path
    files = [text for text in settings if text not in overrides]
    fault = ""
    if len(files) > 1:
        fault = f"one config file at most, got {', '.join(files)}; changes to it are written section.key=value"
    elif files and not Path(files[0]).is_file():
        what = _of_a_directory(Path(files[0])) if Path(files[0]).is_dir() else "no such file"
        fault = f"config file {files[0]}: {what}"
    if fault:
        raise InputError("\n".join([*unknown_words(overrides), fault]))
    return (files[0] if files else None), overrides


def _of_a_directory(path: Path) -> str:
    from zofo.study.results import runs_in

    runs = [] if (path / "config.yaml").is_file() else runs_in(path)
    return (
        f"is a directory of runs; name one, such as {runs[0]}" if runs else "is a directory; give the config.yaml in it"
    )


def run_among(
    settings: Sequence[str], others: dict[str, Any], known: Callable[[Path], bool] = looks_like_run
) -> tuple[str, list[str]] | None:
    """(a run's directory, the overrides) where that is what is given; None for a configuration.

    known: what is taken for a run. others: options that have no sense beside a run; one that is given is an InputError.
    """
    runs = [text for text in settings if exists(text) and known(Path(text))]
    if not runs:
        return None
    given = [name for name, value in others.items() if value is not None]
    if given or len(runs) > 1:
        extra = f"--{given[0].replace('_', '-')}" if given else runs[1]
        raise InputError(f"{extra}: {runs[0]} is a run, which is taken as it is; give it alone, or its config.yaml")
    return runs[0], [text for text in settings if text not in runs]


def _saved(train: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The config.yaml of the run to go on with: in output_dir, or in or above the checkpoint named by --resume."""
    resume = Path(train["resume"])
    if "output_dir" in train:
        run = Path(train["output_dir"])
    elif train["resume"] in ("latest", "auto"):
        raise InputError(f"--resume {train['resume']}: give --output-dir, the directory of the run to go on with")
    elif (resume / "config.yaml").is_file():
        run, train = resume, {**train, "resume": "latest"}
    else:
        run = resume.parent
    refuse_in_use(run, here=True)
    if not (run / "config.yaml").is_file():
        new = ", or give the settings of a new one (--resume auto)" if train["resume"] == "auto" else ""
        raise InputError(f"--resume: {run} holds no config.yaml, so no run to go on with; check --output-dir{new}")
    RunDir(run).check_config()
    return str(run / "config.yaml"), {**train, "output_dir": str(run), "overwrite": False}
