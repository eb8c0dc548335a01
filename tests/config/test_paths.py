"""Paths in a file are relative to that file where something is there; else to the working directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from zofo.api.configure import resolve
from zofo.config.resolve import load


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """conf/ with model/, rows.jsonl, tables/, one.yaml; the working directory is here/, with other/ and far.jsonl."""
    for name in ("conf/model", "conf/tables", "here/other"):
        (tmp_path / name).mkdir(parents=True)
    rows = "".join(f'{{"text": "film {i}", "label": {i % 2}}}\n' for i in range(12))
    for name in ("conf/rows.jsonl", "conf/sst2", "here/far.jsonl", "here/rows.jsonl"):
        (tmp_path / name).write_text(rows)
    (tmp_path / "conf/tables/train.jsonl").write_text(rows.replace("text", "sentence"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


CASES = [
    ("model: model\ntask: rows.jsonl", "conf/model", "conf/rows.jsonl", None),
    ("model: {name: ./model}\ntask: {name: ../conf/rows.jsonl}", "conf/model", "conf/rows.jsonl", None),
    ("model: other\ntask: far.jsonl", "here/other", "here/far.jsonl", None),
    ("model: org/name\ntask: sst2", "org/name", "sst2", None),
    ("model: gpt2\ntask: {name: sst2, data: tables}", "gpt2", "sst2", "conf/tables"),
]


@pytest.mark.parametrize(("text", "model", "task", "data"), CASES)
def test_where_a_files_paths_lead(text: str, model: str, task: str, data: str | None, folder: Path) -> None:
    path = folder / "conf" / "one.yaml"
    path.write_text(f"{text}\nmethod: mezo\ntrain: {{output_dir: out}}\n")
    for config in (resolve(str(path)), load(path)):
        config = config.absolute()
        for value, expected in ((config.model.name, model), (config.task.name, task), (config.task.data, data)):
            inside = expected is not None and (folder / expected).exists() and expected.startswith(("conf", "here"))
            assert value == (str(folder / str(expected)) if inside else expected)
        assert config.train.output_dir == "out", "what is written goes to the working directory"


def test_what_the_command_line_names_is_seen_from_the_working_directory(folder: Path) -> None:
    path = folder / "conf" / "one.yaml"
    path.write_text("model: model\ntask: sst2\nmethod: mezo\ntrain: {output_dir: .}\n")
    config = resolve(str(path), ["task.name=rows.jsonl"]).absolute()
    assert config.task.name == str(folder / "here" / "rows.jsonl")
    assert config.train.output_dir == str(folder / "conf"), "a dot is the file's own folder, as a run writes it"


@pytest.mark.parametrize("metric", ["{}/conf/mine.py:reward", "../conf/mine.py:reward", "~/mine.py:reward"])
def test_what_somebody_else_is_told_names_no_folder(metric: str, folder: Path) -> None:
    """As a pushed export has it: model, rows, data and a reward's file by their own names."""
    (folder / "conf" / "mine.py").write_text(
        "def reward(completions, **columns):\n    return [1.0] * len(completions)\n"
    )
    path = folder / "conf" / "one.yaml"
    for task in (f"name: {folder}/conf/rows.jsonl", f"name: gsm8k\n  data: {folder}/conf/tables"):
        path.write_text(f"model: {folder}/conf/model\nmethod: mezo\ntrain: {{output_dir: .}}\ntask:\n  {task}\n")
        config = load(path)
        config = replace(config, task=replace(config.task, metric=metric.format(folder)))
        told = config.absolute().bare().to_dict()
        assert told["task"]["metric"] == "mine.py:reward"
        told["train"]["output_dir"] = ""  # an export writes "." there
        assert str(folder) not in str(told)


def test_a_folder_for_weights_need_not_be_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run says where it was, whole, so that it is not another folder from another place; others are not told."""
    monkeypatch.chdir(folder)
    given = ["model.name=some/model", "task.name=sst2", "method.name=mezo", "model.offload_folder=disk/here"]
    given += ["train.output_dir=out"]
    config = resolve(None, given).absolute()
    assert config.model.offload_folder == str(folder / "disk" / "here")
    assert config.bare().model.offload_folder is None
