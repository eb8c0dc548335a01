"""A configuration's faults: each on a line of its own, all at once; and a plug-in's Config is checked like ours."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from zofo.api.configure import resolve
from zofo.config import registry
from zofo.config.resolve import from_dict
from zofo.errors import InputError
from zofo.methods._base import Base

BASE: dict[str, Any] = {"model": "tiny", "task": "sst2", "train": {"output_dir": "out"}}


def errors_of(*overrides: str, file: str | None = None, preset: str | None = None, **sections: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        resolve(file, overrides, preset, **{**BASE, **sections})
    return str(caught.value).splitlines()


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
    assert 'method.lamda: unknown field; did you mean "method.lam"?' in lines
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
        ("model.device=a\nb", 'model.device: expected auto, cpu, cuda, cuda:N or mps, got "a\\nb"'),
        ("model.name=", "model.name: empty; give --model or model.name=..."),
        ("task.name=", "task.name: empty; give --task, --train-file or task.name=..."),
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
        "task.name: required; give --task, --train-file or task.name=...",
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
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    assert any(fault in line for line in errors_of(file=str(tmp_path / "run.yaml"), method="mezo"))


def test_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in errors_of(file=str(tmp_path / "run.yaml"))[0]
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
    assert errors_of("method.rate=10", method="my-method") == ["method.rate: must be > 0 and < 10, got 10"]
    assert errors_of("method.betas=[-1, 0]", method="my-method") == ["method.betas: must be >= 0, got [-1, 0]"]
    assert errors_of("method.betas=[1]", method="my-method") == ["method.betas: expected a list of 2 numbers, got [1]"]
    assert errors_of("method.kind=b", method="my-method") == ["method.kind: b wants a rate above 1"]


@pytest.mark.usefixtures("plugin")
def test_optional_sections_appear_only_when_given() -> None:
    assert resolve(None, [], method="my-method", **BASE).adapter is None
    config = resolve(None, ["adapter.r=4"], method="my-method", **BASE)
    assert config.names["adapter"] == "lora"
    assert config.adapter.r == 4


@pytest.mark.parametrize("adapter", ["lora", "ia3"])
@pytest.mark.parametrize("target", ["lm_head", "embed_out", "model.lm_head"])
def test_the_head_is_no_target_of_an_adapter(target: str, adapter: str) -> None:
    """Known by its name alone: `zofo validate` has no model."""
    section = {"name": adapter, "target_modules": ["q_proj", target]}
    (line,) = errors_of(method="fo-peft", adapter=section)
    assert line.startswith(f"adapter.target_modules: {target!r} is the head, which cannot be adapted")
    resolve(None, [], method="fo-peft", adapter={"name": adapter, "target_modules": ["head_proj"]}, **BASE)
