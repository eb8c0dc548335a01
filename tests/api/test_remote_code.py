"""Code that comes with a model runs where this command line, or this call, asks for it, and nowhere else."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import sentiment_rows, write_rows
from tests.strangers import change, stranger
from zofo import InputError, evaluate, finetune, generate, load, resolve, train
from zofo.cli import main as cli
from zofo.config.yaml_reader import dump

SMALL = ["train.max_steps=4", "train.batch_size=2", "train.eval_steps=4", "train.save_steps=2"]
FLAG = "model.trust_remote_code=true"
VERBS = ("train", "dry-run", "memory", "measure", "eval", "generate")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with rows.jsonl; copies of a model's code are kept here too. Nobody answers a question."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", sentiment_rows(24))
    return tmp_path


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "marker"


def command(verb: str, model: str) -> list[str]:
    start = ["--model", model, "--task", "rows.jsonl", "--method", "mezo"]
    return {
        "train": ["train", *start, *SMALL, "--output-dir", f"out/{verb}"],
        "dry-run": ["train", *start, *SMALL, "--output-dir", f"out/{verb}", "--dry-run"],
        "memory": ["memory", *start, "--length", "16"],
        "measure": ["memory", *start, "--measure"],
        "eval": ["eval", model, "--task", "rows.jsonl", "--limit", "4"],
        "generate": ["generate", model, "--prompt", "film", "--max-new-tokens", "2"],
    }[verb]


@pytest.mark.parametrize(
    ("part", "verb"),
    [
        pytest.param(part, verb, marks=pytest.mark.slow if part != "model" and verb in ("memory", "measure") else ())
        for part in ("model", "tokenizer", "generate")
        for verb in VERBS
    ],
)
def test_no_verb_imports_it_without_the_flag(
    verb: str, part: str, tiny_model_dir: Path, mark: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {name: name == part for name in ("model", "tokenizer", "generate")}
    stranger(tiny_model_dir, here / f"one_{verb}_{part}", mark, **parts)
    code = cli.run(command(verb, f"one_{verb}_{part}"))
    shown = capsys.readouterr()
    assert not mark.exists(), "imported"
    assert code in (0, 2), shown  # a tokenizer may be read without it
    assert code == 0 or FLAG in shown.err
    shutil.rmtree("out", ignore_errors=True)
    assert cli.run([*command(verb, f"one_{verb}_{part}"), FLAG]) == 0 or part == "generate"
    if verb != "memory" or part == "model":  # which reads no more than config.json
        assert mark.exists(), "the flag works, so the test above could have failed"


def configuration(here: Path, model: str, **changes: Any) -> Path:
    content = {
        "model": {"name": model, "trust_remote_code": True, **changes},
        "task": {"name": "rows.jsonl"},
        "method": {"name": "mezo"},
        "train": {"max_steps": 4, "batch_size": 2, "eval_steps": 4, "save_steps": 2, "output_dir": "out/file"},
    }
    (here / "config.yaml").write_text(dump(content))
    return here / "config.yaml"


@pytest.mark.parametrize("verb", [["train"], ["train", "--dry-run"], ["validate"], ["memory"]])
@pytest.mark.parametrize("strange", [True, False])
def test_a_configuration_that_asks_for_it_is_refused(
    verb: list[str], strange: bool, tiny_model_dir: Path, mark: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = stranger(tiny_model_dir, here / "two", mark) if strange else tiny_model_dir
    file = configuration(here, str(model))
    assert cli.run([*verb, str(file)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: model.trust_remote_code: file ")
    assert FLAG in error
    assert str(file) in error
    assert error.count("\n") == 1
    assert not mark.exists()
    assert not (here / "out").exists()
    assert cli.run([*verb, str(file), "model.trust_remote_code=false"]) == (
        2 if strange and verb != ["validate"] else 0
    )
    assert not mark.exists()


def test_a_preset_that_asks_for_it_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zofo.config import registry

    real: Callable[..., Any] = registry.load
    file = configuration(here, "gpt2")
    monkeypatch.setattr(registry, "load", lambda kind, name: file if kind == "presets" else real(kind, name))
    with pytest.raises(InputError, match=r"model\.trust_remote_code: preset mine cannot set it"):
        resolve(preset="mine")
    with pytest.raises(InputError, match=r"model\.trust_remote_code: preset mine cannot set it"):
        resolve(preset="mine", overrides=["train.max_steps=3"])
    assert resolve(preset="mine", overrides=[FLAG]).model.trust_remote_code is True
    assert resolve(preset="mine", model={"trust_remote_code": True}).model.trust_remote_code is True


def test_a_run_goes_on_with_it_where_it_is_asked_for_again(
    tiny_model_dir: Path, mark: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger(tiny_model_dir, here / "three", mark)
    assert cli.run([*command("train", "three"), FLAG]) == 0
    assert yaml.safe_load((here / "out/train/config.yaml").read_text())["model"]["trust_remote_code"] is True
    mark.unlink()
    again = ["train", "--resume", "latest", "--output-dir", "out/train", "--max-steps", "6"]
    before = {path: path.read_bytes() for path in (here / "out/train").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert cli.run(again) == 2
    assert FLAG in capsys.readouterr().err
    assert cli.run(["train", "out/train/config.yaml"]) == 2, "the file of a run is a file"
    assert cli.run([*command("train", "three"), "--resume", "latest"]) == 2, "another setting than the run's"
    for verb in (["eval"], ["generate", "--prompt", "a"], ["meta-test"]):
        assert cli.run([verb[0], "out/train", *verb[1:]]) == 2, verb
    assert cli.run(["export", "out/train", "out/export"]) == 2
    for refused in (lambda: evaluate("out/train"), lambda: generate("out/train", ["a"]), lambda: load("out/train")):
        with pytest.raises(InputError):
            refused()
    assert not mark.exists()
    assert before == {path: path.read_bytes() for path in (here / "out/train").rglob("*") if path.is_file()}
    assert cli.run([*again, FLAG]) == 0
    assert json.loads((here / "out/train/run.json").read_text())["steps"]


def test_a_callers_argument_may(tiny_model_dir: Path, mark: Path, here: Path) -> None:
    stranger(tiny_model_dir, here / "four", mark)
    options: dict[str, Any] = {"max_steps": 2, "batch_size": 2, "eval_steps": 2}
    with pytest.raises(InputError, match="brings its own code"):
        finetune("four", "rows.jsonl", "mezo", output_dir="out/a", **options)
    with pytest.raises(InputError, match=r"file .*config\.yaml cannot set it"):
        train(resolve(str(configuration(here, "four"))))
    assert not mark.exists()
    assert finetune("four", "rows.jsonl", "mezo", output_dir="out/b", overrides=[FLAG], **options).deployed == "theta"
    assert mark.exists()


def test_the_tokenizer_of_an_adapter_is_read_without_its_code(tiny_model_dir: Path, mark: Path, here: Path) -> None:
    """PEFT and transformers would ask on the terminal, and take "y" from it."""
    run = finetune(
        str(tiny_model_dir), "rows.jsonl", "fo-peft", output_dir="out/c", max_steps=2, batch_size=2, eval_steps=2
    )
    out = run.export("out/apart", merge=False)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model_dir / file, out / file)
    plain = evaluate(out)
    name = "own_adapter"
    (out / f"{name}.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass OwnTokenizer: pass\n")
    change(
        out / "tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": [None, f"{name}.OwnTokenizer"]}
    )
    with contextlib.suppress(InputError):  # by transformers' version it is read as plain, or refused
        assert evaluate(out) == plain
    assert not mark.exists()
