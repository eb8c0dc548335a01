"""The configuration: precedence, names, reasons, round trip."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from zofo.api.configure import resolve
from zofo.config import registry
from zofo.config import resolve as config_module
from zofo.config.resolve import Config, from_dict, load
from zofo.config.sections import TrainConfig

BASE: dict[str, Any] = {"model": "tiny", "task": "sst2", "train": {"output_dir": "out"}}

ROWS = "".join(f'{{"text": "film {i}", "label": {i % 2}}}\n' for i in range(12))  # a small file that can be trained on


def bilevel(*overrides: str, **sections: Any) -> Config:
    return resolve(None, overrides, **{**BASE, "method": "bilevel-zofo", **sections})


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


# ---- what resolves


def test_defaults_and_names() -> None:
    config = bilevel()
    assert config.names == {"method": "bilevel-zofo", "adapter": "lora", "estimator": "spsa", "rule": "sgd"}
    assert (config.model.name, config.task.name, config.train.output_dir) == ("tiny", "sst2", "out")
    assert config.train == TrainConfig(output_dir="out")
    assert config.method.lam == 10


def test_method_decides_the_sections() -> None:
    config = resolve(None, ["method=mezo"], **BASE)
    assert config.adapter is None
    assert config.estimator is not None
    assert list(config.to_dict()) == ["model", "task", "method", "estimator", "rule", "train", "parallel"]


def test_precedence_preset_file_command_line(tmp_path: Path) -> None:
    file = write(tmp_path / "run.yaml", "method: {lam: 3, inner_steps: 5}\ntrain: {max_steps: 7, output_dir: a}\n")
    config = resolve(file, ["method.lam=2"], "quickstart", model="tiny", task="sst2")
    assert (config.method.lam, config.method.inner_steps, config.train.max_steps) == (2, 5, 7)
    assert config.reasons["method.lam"] == "command line"
    assert config.reasons["method.inner_steps"] == f"file {file}"
    assert config.reasons["train.batch_size"] == "preset quickstart"
    assert config.reasons["train.seed"].startswith("default: ")
    assert set(config.reasons) == {f"{s}.{k}" for s, values in config.to_dict().items() for k in values}


def test_a_file_may_name_its_preset(tmp_path: Path) -> None:
    file = write(tmp_path / "run.yaml", "preset: quickstart\ntrain: {output_dir: a}\n")
    assert resolve(file, [], None, model="tiny", task="sst2").reasons["train.eval_steps"] == "preset quickstart"


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "0.001", ".001", "+1.0e-3", "10e-4"])
def test_exponents_are_numbers(text: str, tmp_path: Path) -> None:
    assert bilevel(f"method.lr_s={text}").method.lr_s == 0.001
    file = write(tmp_path / "run.yaml", f"method: {{name: bilevel-zofo, lr_s: {text}}}")
    assert resolve(file, **BASE).method.lr_s == 0.001


def test_whole_numbers_are_fine_where_a_number_is_expected() -> None:
    value = bilevel("method.lam=3").method.lam
    assert value == 3
    assert isinstance(value, float)


@pytest.mark.parametrize("revision", ["1234567", "1e5", "true", "0123", "null-ish", "2020-01-01", "a: b", "{{x"])
def test_text_fields_take_the_text_of_the_command_line(revision: str) -> None:
    assert bilevel(f"model.revision={revision}").model.revision == revision


def test_yes_and_no_are_labels_not_booleans(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", ROWS)
    text = f"task: {{name: {rows}, choices: [yes, no, off, 010]}}\nmethod: zero-shot\n"
    file = write(tmp_path / "run.yaml", text)
    config = resolve(file, model="m", train={"output_dir": "o"})
    assert config.task.choices == ["yes", "no", "off", "010"]
    again = resolve(write(tmp_path / "config.yaml", config.to_yaml()))
    assert again == config


def test_null_and_lists_on_the_command_line(tmp_path: Path) -> None:
    rows = f"task={write(tmp_path / 'rows.jsonl', ROWS)}"
    lists = ("train.report_to=wandb,tensorboard", "task.choices=[good, bad]")
    config = bilevel("train.save_total_limit=null", rows, *lists)
    assert config.train.save_total_limit is None
    assert config.train.report_to == ["wandb", "tensorboard"]
    assert config.task.choices == ["good", "bad"]
    assert bilevel(rows, "task.choices=[0, 1]").task.choices == ["0", "1"]
    assert bilevel(rows, "task.choices=0,1").task.choices == ["0", "1"]


def test_shorthand_scalar_is_the_name(tmp_path: Path) -> None:
    file = write(tmp_path / "run.yaml", "model: m\ntask: sst2\nmethod: mezo\ntrain: {output_dir: o}\n")
    assert resolve(file) == resolve(
        None, ["method.name=mezo"], model={"name": "m"}, task="sst2", train={"output_dir": "o"}
    )


def test_python_callers_may_pass_paths_and_dataclasses(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(ROWS)
    config = resolve(
        model=tmp_path, task=file, method="mezo", train=TrainConfig(output_dir="o", seed=3), source="caller"
    )
    assert (config.model.name, config.task.name, config.train.seed) == (str(tmp_path), str(file), 3)
    assert config.reasons["train.seed"] == "caller"


def test_another_method_drops_the_values_of_the_old_one(tmp_path: Path) -> None:
    file = write(tmp_path / "config.yaml", bilevel("method.lam=5", "adapter.r=4").to_yaml())
    config = resolve(file, [], method="mezo")
    assert config.names["method"] == "mezo"
    assert config.adapter is None
    assert any("lam" in note for note in config.notes)
    assert any(note.startswith("adapter: left out") for note in config.notes)
    respelt = resolve(file, [], method="bilevel_zofo")  # the same method under its other spelling
    assert respelt.method.lam == 5


def test_file_with_another_method_than_the_preset(tmp_path: Path) -> None:
    file = write(tmp_path / "run.yaml", "method: mezo\n")
    config = resolve(file, [], "quickstart", **BASE)
    assert config.names["method"] == "mezo"
    assert config.reasons["train.batch_size"] == "preset quickstart"


# ---- saved and read again


@pytest.mark.parametrize("method", registry.names("methods"))
def test_saved_config_resolves_to_an_equal_one(method: str, tmp_path: Path) -> None:
    config = resolve(
        None, ["model.revision=1e-3", "train.report_to=[wandb]", "model.max_length=64"], method=method, **BASE
    )
    for text in (config.to_yaml(), config.to_yaml(reasons=True)):
        again = load(write(tmp_path / "config.yaml", text))
        assert again == config
        assert again.hash() == config.hash()
        assert again.to_yaml() == config.to_yaml()
    assert from_dict(config.to_dict()) == config


def test_hash_ignores_how_a_run_is_started_and_sees_the_rest() -> None:
    config = bilevel()
    assert len(config.hash()) == 64
    assert bilevel("train.output_dir=elsewhere").hash() == config.hash()
    assert bilevel("train.resume=latest").hash() == config.hash()
    assert bilevel("train.seed=1").hash() != config.hash()
    assert bilevel("method.lam=11").hash() != config.hash()
    assert bilevel("method.lam=10").hash() == config.hash()


def test_every_field_of_every_section_is_documented() -> None:
    classes = dict(config_module.CORE)
    for kind in ("methods", "adapters", "estimators", "rules"):
        classes |= {f"{kind}/{name}": registry.load(kind, name).Config for name in registry.names(kind)}
    for where, cls in classes.items():
        for spec in dataclasses.fields(cls):
            assert spec.metadata.get("help"), f"{where}.{spec.name} has no help"
