"""The tables of a task: a directory of files, a file for each split, one file, or a repository of the hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from zofo.config.sections import DATA_SUFFIXES, SPLIT_FIELDS, TaskConfig, data_suffix
from zofo.data.files import SPLIT_FILES, BadRows, Tables, read_file, read_head
from zofo.errors import InputError

SHARD = re.compile(r"(?P<split>.+)-(?P<number>\d+)-of-(?P<total>\d+)(-[0-9a-f]+)?")  # as `datasets` writes them
INSIDE = ("data", "default", "plain_text")  # where in a repository of the hub its one configuration lies


def own_tables(cfg: TaskConfig, alone: str = "train", bad: BadRows | None = None, heads: bool = False) -> Tables:
    """Of rows of one's own: the files of the splits where they are named, else see `read_tables`. Raises InputError."""
    return tables_of_files(cfg, None, bad, heads) if cfg.files else read_tables(Path(cfg.name), None, alone, bad, heads)


def tables_of_files(cfg: TaskConfig, name: str | None, bad: BadRows | None, heads: bool) -> Tables:
    """The files of the splits that the section names. name: see `read_tables`."""
    read, paths = read_head if heads else read_file, {split: Path(path) for split, path in cfg.files.items()}
    names = [path.name for path in paths.values()]
    tables: Tables = {}
    for split, path in paths.items():
        shown = path.name if names.count(path.name) == 1 else str(path)  # which of the two a line is of
        tables[split] = read(path, name and f"{name}/{split}", bad, shown)
    return tables


def read_tables(
    path: Path, name: str | None = None, alone: str = "train", bad: BadRows | None = None, heads: bool = False
) -> Tables:
    """A directory's train, validation and test files, in one or in several parts, or one file as `alone`. Raises
    InputError where there is none.

    Ids are "name/split/row number" if a `name` is given, else the row's place in its file. heads: see `read_head`.
    """
    read = read_head if heads else read_file
    if path.is_file():
        return {alone: read(path, name and f"{name}/{alone}", bad)}
    if not path.is_dir():
        raise InputError(f"{path}: no such file or directory")
    tables: Tables = {}
    for split, files in own_parts(path).items():
        prefixes = [name and f"{name}/{split}" + (f"/{file.stem}" if len(files) > 1 else "") for file in files]
        tables[split] = [record for file, prefix in zip(files, prefixes) for record in read(file, prefix, bad)]
    if not tables:
        raise no_train(path)
    return tables


def own_parts(folder: Path) -> dict[str, list[Path]]:
    """{split: its files} of a folder, whose splits are a file each, or parts as the hub has them (data/
    train-00000-of-00002.parquet). Raises InputError where it is not clear which they are."""
    files = split_files(folder)
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    places = [place for place in (folder, *inside) if parts_of(place)]
    if not places:
        return {split: [file] for split, file in files.items()}
    usual = [place for place in places if place == folder or place.name in INSIDE]
    chosen = usual or places
    if len(chosen) > 1:
        listed = ", ".join(place.name or "." for place in chosen[:6])
        raise InputError(f"{folder}: parts of more than one data set, in {listed}: name one of these folders")
    parts = parts_of(chosen[0])
    if files:
        split = next(iter(files))
        raise InputError(
            f"{folder}: {files[split].name} and the parts {next(iter(parts.values()))[0].name}, ... are two data sets; "
            f"keep one"
        )
    return parts


def parts_of(folder: Path) -> dict[str, list[Path]]:
    """{split: its parts in order} of those that lie in a folder itself. Raises InputError where one is missing."""
    found: dict[str, dict[str, list[Path]]] = {}
    for file in sorted(folder.iterdir()):
        suffix = data_suffix(file)
        match = SHARD.fullmatch(file.name[: -len(suffix)]) if suffix else None
        theirs = "" if match is None else match["split"].lower()
        split = next((split for split, names in SPLIT_FILES.items() if theirs in names), None)
        if split is not None and file.is_file():
            found.setdefault(split, {}).setdefault(theirs, []).append(file)
    for split, by_name in found.items():
        if len(by_name) > 1:
            raise InputError(f"{folder}: parts of {' and of '.join(by_name)} both hold the {split} rows; keep one")
    return {split: whole(next(iter(found[split].values()))) for split in SPLIT_FILES if split in found}


def whole(parts: list[Path]) -> list[Path]:
    """Parts in the order of their numbers. Raises InputError where one is missing, as of a download that was cut."""
    numbers: dict[int, Path] = {}
    for part in parts:
        match = SHARD.fullmatch(part.name[: -len(data_suffix(part) or "")])
        assert match is not None, part
        number, total = int(match["number"]), int(match["total"])
        if number in numbers:
            raise InputError(f"{part.parent}: {numbers[number].name} and {part.name} are the same part; keep one")
        numbers[number] = part
        if total != len(parts):
            raise InputError(
                f"{part.parent}: {len(parts)} of the {total} parts {match['split']}-*-of-{match['total']} are there; "
                f"fetch the others, as of a download that was cut"
            )
    return [numbers[number] for number in sorted(numbers)]


def split_files(folder: Path) -> dict[str, Path]:
    """{split: its file} of those that are there. Raises InputError where two hold one split."""
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        suffix = data_suffix(file)
        stem = file.name[: -len(suffix)].lower() if suffix else ""
        split = next((split for split, stems in SPLIT_FILES.items() if stem in stems), None)
        if split is None or not file.is_file():
            continue
        if split in files:
            one, other = sorted((files[split].name, file.name), reverse=True)
            raise InputError(f"{folder}: {one} and {other} both hold the {split} rows; keep one")
        files[split] = file
    return {split: files[split] for split in SPLIT_FILES if split in files}


def hub_tables(
    path: Path,
    name: str,
    config: str | None,
    splits: Mapping[str, str],
    bad: BadRows | None = None,
    heads: bool = False,
) -> Tables | None:
    """The tables of a downloaded hub repository (train-00000-of-00001.parquet, ...); None where `path` is none.

    config: of the data set, a folder of the repository. splits: {ours: the hub's}; only these are read, so that a test
    split without labels is not. heads: see `read_head`.
    """
    read = read_head if heads else read_file
    for folder in dict.fromkeys((path, path / (config or "data"), path / "data", path / "plain_text")):
        shards_of = {ours: _shards(folder, theirs) for ours, theirs in splits.items()}
        if any(shards_of.values()):
            return {
                ours: [record for shard in shards for record in read(shard, f"{name}/{splits[ours]}/{shard.stem}", bad)]
                for ours, shards in shards_of.items()
                if shards
            }
    return None


def _shards(folder: Path, split: str) -> list[Path]:
    named = [f for f in folder.glob(f"{split}-[0-9]*-of-[0-9]*") if data_suffix(f)]
    return whole([f for f in named if SHARD.fullmatch(f.name[: -len(data_suffix(f) or "")])])


def no_train(where: Path | str) -> InputError:
    files = ", ".join("train" + suffix for suffix in DATA_SUFFIXES)
    return InputError(
        f"{where}: no train file; expected one of {files} (to evaluate a plain model, test.jsonl is enough)"
    )


def no_train_file(cfg: TaskConfig, split: str | None) -> InputError:
    """Where rows to train on, or of the split that is evaluated, are named nowhere."""
    if not cfg.files:
        return no_train(cfg.name)
    given = ", ".join(f"task.{SPLIT_FIELDS[name]}" for name in cfg.files)
    wanted = SPLIT_FIELDS[split or "train"].replace("_", "-")
    return InputError(f"task.{SPLIT_FIELDS[split or 'train']}: needed beside {given}; give --{wanted} FILE")
