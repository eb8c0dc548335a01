"""A run and an export can be moved, and are used from any directory; what has moved is named on the command line."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import sentiment_rows, write_rows
from zofo import InputError, evaluate, export, finetune, generate, load
from zofo.cli import main as cli

SMALL: dict[str, Any] = {"max_steps": 6, "batch_size": 4, "eval_steps": 3, "save_steps": 6}
BILEVEL = {"name": "bilevel-zofo", "inner_steps": 2, "lr_s": 1e-2, "lr_theta": 1e-3}
IDS = torch.tensor([[5, 9, 20, 33, 7]])


@pytest.fixture
def project(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with model/ and rows.jsonl, which is the working directory."""
    root = tmp_path / "project"
    shutil.copytree(tiny_model_dir, root / "model")
    write_rows(root / "rows.jsonl", sentiment_rows(60))
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere"


def test_a_run_is_moved(project: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finetune("model", "rows.jsonl", BILEVEL, output_dir="out/run", **SMALL)
    monkeypatch.chdir(elsewhere)
    assert evaluate(project / "out/run") == pytest.approx(run.test, rel=1e-6)
    shutil.move(project / "out/run", elsewhere / "moved")
    assert evaluate("moved") == pytest.approx(run.test, rel=1e-6)
    monkeypatch.chdir(elsewhere / "moved")
    assert evaluate(".") == pytest.approx(run.test, rel=1e-6)
    assert cli.run(["train", "--resume", "latest", "--output-dir", ".", "--max-steps", "12"]) == 0
    assert json.loads(Path("run.json").read_text())["steps"]["lower"] == 8
    assert (export(".", elsewhere / "export") / "model.safetensors").is_file()


def test_model_and_data_have_moved(project: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finetune("model", "rows.jsonl", BILEVEL, output_dir="out/run", **SMALL)
    prompts = generate(run.path, ["film"], max_new_tokens=5)
    shutil.move(project / "model", elsewhere / "model")
    shutil.move(project / "rows.jsonl", elsewhere / "rows.jsonl")
    for verb in (["eval", "out/run"], ["export", "out/run", "out/export"], ["generate", "out/run", "--prompt", "film"]):
        capsys.readouterr()
        assert cli.run(verb) == 2
        assert f"no such model directory: {project / 'model'}" in capsys.readouterr().err
        assert cli.run([*verb, "--model", str(elsewhere / "model"), *more(verb, elsewhere)]) == 0
    assert generate(run.path, ["film"], max_new_tokens=5, model=str(elsewhere / "model")) == prompts
    with pytest.raises(InputError, match=r"is not the one this run started from .*in float32"):
        load(run.path, model=str(elsewhere / "model"), overrides=["model.dtype=bfloat16"])


def more(verb: list[str], elsewhere: Path) -> list[str]:
    return ["--task", str(elsewhere / "rows.jsonl"), "--limit", "4"] if verb[0] == "eval" else ["model.device=cpu"]


@pytest.mark.parametrize("adapter", ["lora", "ia3", "prompt", "prefix", "dept"])
@pytest.mark.parametrize("merge", [None, False])
def test_an_export_is_moved_and_opened_as_its_readme_says(
    adapter: str, merge: bool | None, project: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finetune("model", "rows.jsonl", BILEVEL, adapter, output_dir="out/run", **SMALL)
    ours = load(run.path)[0](input_ids=IDS, use_cache=False).logits[:, -5:]
    run.export("out/export", merge=merge)
    assert (project / "out/export/model.safetensors").is_file() == (merge is None and adapter in ("lora", "ia3"))
    shutil.move(project / "out/export", elsewhere / "export")
    readme = (elsewhere / "export/README.md").read_text()
    assert str(project) not in readme, "nothing in it hangs on a place"
    assert "the model in a directory `model`" in readme
    shutil.rmtree(project)  # with the base model: an export needs none
    monkeypatch.chdir(elsewhere.parent)
    (code,) = re.findall(r"```python\n(.*?)```", (elsewhere / "export/README.md").read_text(), re.S)
    here = 'HERE = "."  # the path of this folder'
    assert here in code
    names: dict[str, Any] = {}
    exec(code.replace(here, f"HERE = {str(elsewhere / 'export')!r}"), names)
    theirs = names["model"].eval()(input_ids=IDS, use_cache=False).logits[:, -5:]
    torch.testing.assert_close(theirs.float(), ours.float(), atol=1e-4, rtol=1e-4)
    assert names["tokenizer"]("film")["input_ids"]
    assert generate(elsewhere / "export", ["film"], max_new_tokens=3)
    assert evaluate("elsewhere/export", task=None if (merge, adapter) == (0, 0) else rows(elsewhere))["n"] == 8


def rows(folder: Path) -> str:
    return str(write_rows(folder / "new.jsonl", sentiment_rows(8)))


def test_a_plain_pipeline_opens_a_merged_export_anywhere(
    project: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own, without zofo, in another directory, and the base model gone."""
    run = finetune("model", "rows.jsonl", BILEVEL, output_dir="out/run", **SMALL)
    (text,) = generate(run.path, ["film"], max_new_tokens=6)
    run.export(elsewhere / "export")
    shutil.rmtree(project / "model")
    monkeypatch.chdir(elsewhere)
    code = (
        "import sys\n"
        "from transformers import pipeline\n"
        "pipe = pipeline('text-generation', model='export', device='cpu')\n"
        "out = pipe('film', max_new_tokens=6, do_sample=False, return_full_text=False)\n"
        "assert 'zofo' not in sys.modules\n"
        "print(repr(out[0]['generated_text']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert eval(done.stdout.splitlines()[-1]).strip() == text.strip()


def test_a_base_that_is_not_needed_is_refused(project: Path, elsewhere: Path) -> None:
    run = finetune("model", "rows.jsonl", BILEVEL, output_dir="out/run", **SMALL)
    for merge in (True, False):
        out = run.export(elsewhere / f"{merge}", merge=merge)
        with pytest.raises(InputError, match="leave out --model"):
            evaluate(out, model="model")
    with pytest.raises(InputError, match="leave out --model"):
        evaluate("model", model="model", task="rows.jsonl")


def test_code_of_a_models_own_is_run_by_the_command_alone(project: Path) -> None:
    """Whatever a run's config.yaml says: it may be a stranger's."""
    finetune("model", "rows.jsonl", BILEVEL, output_dir="out/run", overrides=["model.trust_remote_code=true"], **SMALL)
    from zofo.api.restore import restore

    assert restore(Path("out/run")).config.model.trust_remote_code is False
    from zofo.api.restore import given_model

    given, _ = given_model(None, ["model.trust_remote_code=true"], "eval")
    assert restore(Path("out/run"), None, given).config.model.trust_remote_code is True
