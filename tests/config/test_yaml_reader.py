"""One reader for every YAML file: the scalars of YAML 1.2's core schema, wherever they stand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from zofo import InputError
from zofo.api.configure import resolve
from zofo.config.yaml_reader import dump, read_yaml, scalar
from zofo.data.multitask.setting import find_setting
from zofo.data.spec import load_spec

SCALARS: dict[str, Any] = {
    "yes": "yes",
    "no": "no",
    "On": "On",
    "off": "off",
    "y": "y",
    "true": True,
    "False": False,
    "~": None,
    "null": None,
    "1e-3": 1e-3,
    "1.5E+2": 150.0,
    "-.5e3": -500.0,
    ".5": 0.5,
    "1.": 1.0,
    ".inf": math.inf,
    "12": 12,
    "+1": 1,
    "-7": -7,
    "0123": "0123",
    "0o17": "0o17",
    "1:30": "1:30",
    "2024-01-01": "2024-01-01",
    "'1'": "1",
    "1e": "1e",
    "0x1F": "0x1F",
}


@pytest.mark.parametrize("text", SCALARS)
def test_a_scalar_is_the_same_in_a_file_and_on_the_command_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"key: {text}\nlist: [{text}, a]\n")
    for value in (scalar(text), *(read := read_yaml(tmp_path / "a.yaml", "file"))["list"][:1], read["key"]):
        assert value == SCALARS[text]
        assert type(value) is type(SCALARS[text])


@pytest.mark.parametrize("value", [*SCALARS.values(), *(text for text in SCALARS if text != "'1'")])
def test_what_is_written_is_read_again_by_any_reader(value: Any, tmp_path: Path) -> None:
    """A text stays a text for readers of YAML 1.1, too."""
    (tmp_path / "a.yaml").write_text(dump({"key": value}))
    assert read_yaml(tmp_path / "a.yaml", "file") == {"key": value}
    if isinstance(value, str):
        assert yaml.safe_load((tmp_path / "a.yaml").read_text()) == {"key": value}


def task_file(path: Path, answers: str) -> Path:
    path.write_text(
        "version: 1\ndescription: d\nsource: s\ncolumns: [q, a]\nkind: options\nobjective: options\nmetric: accuracy\n"
        f"gold: a\ntemplates:\n  default: {{prompt: '{{{{ q }}}}', answers: {answers}}}\n"
    )
    return path


def test_labels_are_the_same_in_a_configuration_and_in_a_task_file(tmp_path: Path) -> None:
    spec = load_spec(task_file(tmp_path / "t.yaml", "[yes, no]"))
    assert spec.templates["default"].answers == ["yes", "no"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}")
    (tmp_path / "run.yaml").write_text(f"model: no/model\ntask: {{name: {rows}, choices: [yes, no]}}\nmethod: mezo\n")
    config = resolve(str(tmp_path / "run.yaml"), ["train.output_dir=out"], files=False)
    assert config.task.choices == ["yes", "no"]


def test_a_mapping_may_take_in_another(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("one: &one {a: 1, b: 2}\ntwo: {<<: *one, b: 3}\n")
    assert read_yaml(tmp_path / "a.yaml", "file")["two"] == {"a": 1, "b": 3}


READERS: dict[str, Callable[[Path], Any]] = {
    "configuration": lambda path: resolve(str(path)),
    "task file": load_spec,
    "setting": lambda path: find_setting(str(path)) or load_spec(path),
}


@pytest.mark.parametrize("kind", READERS)
def test_a_key_given_twice_is_named_with_its_line(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("target: [a]\nmodel: x\nmodel: y\n")
    with pytest.raises(InputError, match=r'a\.yaml line 3: key "model" is given twice'):
        READERS[kind](tmp_path / "a.yaml")
