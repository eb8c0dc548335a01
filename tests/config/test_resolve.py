"""The configuration: precedence, strictness, every error at once, reasons, round trip."""

from __future__ import annotations

import dataclasses
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from zofo.api.configure import resolve
from zofo.config import registry
from zofo.config import resolve as config_module
from zofo.config.resolve import Config, from_dict, load
from zofo.config.sections import TrainConfig
from zofo.errors import InputError
from zofo.methods._base import Base

BASE: dict[str, Any] = {"model": "tiny", "task": "sst2", "train": {"output_dir": "out"}}


def bilevel(*overrides: str, **sections: Any) -> Config:
    return resolve(None, overrides, **{**BASE, "method": "bilevel-zofo", **sections})


def errors_of(*overrides: str, file: str | None = None, preset: str | None = None, **sections: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        resolve(file, overrides, preset, **{**BASE, **sections})
    return str(caught.value).splitlines()


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
    assert list(config.to_dict()) == ["model", "task", "method", "estimator", "rule", "train"]


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
    rows = write(tmp_path / "rows.jsonl", "")
    text = f"task: {{name: {rows}, choices: [yes, no, off, 010]}}\nmethod: zero-shot\n"
    file = write(tmp_path / "run.yaml", text)
    config = resolve(file, model="m", train={"output_dir": "o"})
    assert config.task.choices == ["yes", "no", "off", "010"]
    again = resolve(write(tmp_path / "config.yaml", config.to_yaml()))
    assert again == config


def test_null_and_lists_on_the_command_line(tmp_path: Path) -> None:
    own = f"task={write(tmp_path / 'rows.jsonl', '')}"
    lists = ("train.report_to=wandb,tensorboard", "task.choices=[good, bad]")
    config = bilevel("train.save_total_limit=null", own, *lists)
    assert config.train.save_total_limit is None
    assert config.train.report_to == ["wandb", "tensorboard"]
    assert config.task.choices == ["good", "bad"]
    assert bilevel(own, "task.choices=[0, 1]").task.choices == ["0", "1"]
    assert bilevel(own, "task.choices=0,1").task.choices == ["0", "1"]


def test_shorthand_scalar_is_the_name(tmp_path: Path) -> None:
    file = write(tmp_path / "run.yaml", "model: m\ntask: sst2\nmethod: mezo\ntrain: {output_dir: o}\n")
    assert resolve(file) == resolve(
        None, ["method.name=mezo"], model={"name": "m"}, task="sst2", train={"output_dir": "o"}
    )


def test_python_callers_may_pass_paths_and_dataclasses(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text("{}\n")
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
    kept = resolve(file, [], method="bilevel_zofo")  # the same method under its other spelling
    assert kept.method.lam == 5


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


# ---- what does not resolve


def test_all_errors_at_once() -> None:
    lines = errors_of(
        "method.lamda=3",
        "method.lr_s=-1",
        "train.batch_size=many",
        "train.eval_steps=0",
        "trian.seed=1",
        "model.dtype=float23",
        task="sst3",
        method="bilevel-zofo",
    )
    assert 'method.lamda: unknown field; did you mean "lam"?' in lines
    assert "method.lr_s: must be >= 0, got -1" in lines
    assert 'train.batch_size: expected an integer, got "many"' in lines
    assert "train.eval_steps: must be >= 1, got 0" in lines
    assert any(line.startswith('trian.seed: unknown section; did you mean "train.seed"?') for line in lines)
    assert any(line.startswith("model.dtype: expected one of") and '"float32"?' in line for line in lines)
    assert any(line.startswith('task.name: unknown task "sst3"; did you mean "sst2"?') for line in lines)
    assert len(lines) == 7


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.batch_size=1.5", "train.batch_size: expected an integer, got 1.5"),
        ("train.batch_size=true", "train.batch_size: expected an integer, got true"),
        ("train.batch_size=null", "train.batch_size: expected an integer, got null"),
        ("train.overwrite=1", "train.overwrite: expected true or false, got 1"),
        ("method.lr_s=[1]", "method.lr_s: expected a number, got [1]"),
        ("method.lr_s=.nan", "method.lr_s: expected a finite number, got nan"),
        ("method.lr_s=.inf", "method.lr_s: expected a finite number, got inf"),
        ("train.threads=0", "train.threads: must be >= 1, got 0"),
        ("train.threads=x", 'train.threads: expected an integer or null, got "x"'),
        ("task.choices={a: 1}", 'task.choices: expected a list of strings or null, got {"a": 1}'),
        ("task.choices=[a]", "task.choices: expected at least two different answers"),
        ("task.data=nowhere/x", "task.data: no such file or directory: nowhere/x"),
        ("task=nowhere.jsonl", "task.name: no such file: nowhere.jsonl"),
        ("model.device=gpu", 'model.device: expected auto, cpu, cuda, cuda:N or mps, got "gpu"'),
        ("train.report_to=wandbb", 'train.report_to: unknown "wandbb"; did you mean "wandb"?'),
        ("lr_s=1", 'lr_s: unknown section; did you mean "method.lr_s"? (command line)'),
        ("nonsense", 'nonsense: expected "section.key=value"'),
        ("train=3", 'train=3: expected "train.key=value"'),
        ("train.output_dir=''", "train.output_dir: must not be empty"),
    ],
)
def test_one_line_for_each_fault(override: str, line: str) -> None:
    assert errors_of(override, method="bilevel-zofo") == [line]


def test_missing_values_name_their_flag() -> None:
    with pytest.raises(InputError) as caught:
        resolve(None, ["method=mezo"])
    assert str(caught.value).splitlines() == [
        "model.name: required; give --model or model.name=...",
        "task.name: required; give --task or task.name=...",
        "train.output_dir: required; give --output-dir or train.output_dir=...",
    ]
    assert errors_of()[0].startswith("method.name: required; give --method or method.name=...; known: bilevel-")


def test_a_section_the_method_does_not_use() -> None:
    (line,) = errors_of("adapter.r=4", method="fo-ft")
    assert line.startswith("adapter: method fo-ft does not use it; remove the section (methods that do: ")
    assert "bilevel-zofo" in line


def test_unknown_modules_are_reported_with_the_rest() -> None:
    lines = errors_of("adapter=lorra", "rule.clip=-1", method="bilevel-zofo", preset="quickstrat")
    assert any(line.startswith('preset: unknown preset "quickstrat"; did you mean "quickstart"?') for line in lines)
    assert any(line.startswith('adapter.name: unknown adapter "lorra"; did you mean "lora"?') for line in lines)
    assert any(line.startswith("rule.clip: must be > 0") for line in lines)


def test_resume_and_overwrite_exclude_each_other() -> None:
    (line,) = errors_of("train.resume=latest", "train.overwrite=true", method="mezo")
    assert line == "train.overwrite: cannot be given together with resume"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("method: mezo\ntrain: {seed: 1, seed: 2}\n", ' line 2: key "seed" is given twice'),
        ("method: mezo\ntrain: {seed: 1\n", " line 3: "),
        ("- a\n", ': expected sections such as "method:" at the top level, got list'),
        ("train: 3\n", "expected a mapping of fields, got 3"),
        ("a: !!python/object:os.system x\n", " line 1: could not determine a constructor"),
    ],
)
def test_bad_files(text: str, fault: str, tmp_path: Path) -> None:
    file = write(tmp_path / "run.yaml", text)
    assert any(fault in line for line in errors_of(file=file, method="mezo"))


def test_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8 text" in errors_of(file=str(tmp_path / "run.yaml"))[0]
    assert errors_of(file=str(tmp_path / "none.yaml"))[0].endswith("none.yaml: no such file")


# ---- what a plug-in's Config may do


@dataclass(frozen=True)
class _Config:
    rate: float = field(default=1, metadata={"help": "a rate", "paper": "line 3", "gt": 0, "lt": 10})
    betas: tuple[float, float] = field(default=(0.9, 0.99), metadata={"help": "betas", "ge": 0})
    kind: Literal["a", "b"] | None = field(default=None, metadata={"help": "kind"})

    def problems(self) -> list[str]:
        return ["kind: b wants a rate above 1"] if self.kind == "b" and self.rate <= 1 else []


class _Method(Base):
    needs: ClassVar[frozenset[str]] = frozenset({"rule"})
    optional: ClassVar[frozenset[str]] = frozenset({"adapter"})


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("zofo_plugin", "A method from elsewhere.")
    module.Config, module.Method = _Config, _Method  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "zofo_plugin", module)
    points = [registry.EntryPoint("my_method", "zofo_plugin", "zofo.methods")]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "zofo.methods" else [])


@pytest.mark.usefixtures("plugin")
def test_plug_in_config_is_checked_like_ours() -> None:
    config = resolve(None, ["method.betas=[0.5, 0.6]", "method.kind=a"], method="my_method", **BASE)
    assert config.method == _Config(betas=(0.5, 0.6), kind="a")
    assert config.reasons["method.rate"] == "default: a rate (line 3)"
    assert from_dict(config.to_dict()) == config
    assert from_dict(config.to_dict()).hash() == config.hash()
    assert errors_of("method.rate=10", method="my-method") == ["method.rate: must be < 10, got 10"]
    assert errors_of("method.betas=[-1, 0]", method="my-method") == ["method.betas: must be >= 0, got [-1, 0]"]
    assert errors_of("method.betas=[1]", method="my-method") == ["method.betas: expected a list of 2 numbers, got [1]"]
    assert errors_of("method.kind=b", method="my-method") == ["method.kind: b wants a rate above 1"]


@pytest.mark.usefixtures("plugin")
def test_optional_sections_appear_only_when_given() -> None:
    assert resolve(None, [], method="my-method", **BASE).adapter is None
    config = resolve(None, ["adapter.r=4"], method="my-method", **BASE)
    assert config.names["adapter"] == "lora"
    assert config.adapter.r == 4
