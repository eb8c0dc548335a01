"""The command line as a user meets it: light verbs, options that reach the configuration, output for pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import TRAIN, fake_module, zofo
from tests.conftest import sentiment_rows, write_rows
from zofo.cli import main as cli
from zofo.config import registry

HEAVY = ("torch", "transformers", "peft", "datasets", "accelerate")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """(config, dry_run) of each call of api.train."""
    calls: list[Any] = []
    fake_module(
        "zofo.api.finetune", monkeypatch, train=lambda config, dry_run: calls.append((config, dry_run)) or FINISHED
    )
    return calls


FINISHED = types.SimpleNamespace(path="out", deployed="theta", test_by_candidate={"theta": {"loss": 1.0, "n": 3}})


# ---- in a process of its own


def test_light_verbs_import_nothing_heavy() -> None:
    """Every entry shown, every method, adapter and preset validated. An import of torch would fail."""
    entries = [f"{kind}/{name}" for kind in registry.KINDS for name in registry.names(kind)]
    run = ["model=m", "task=sst2", "train.output_dir=o"]
    adapters = [["validate", *run, "method=bilevel-zofo", f"adapter={name}"] for name in registry.names("adapters")]
    verbs = [
        ["--help"],
        ["train", "--help"],
        ["generate", "--help"],
        ["ls"],
        *(["ls", kind] for kind in registry.KINDS),
        ["env"],
        *(["show", name] for name in (*entries, "model", "task", "train")),
        *(["validate", *run, f"method={name}"] for name in registry.names("methods")),
        *adapters,
        *(["validate", "--preset", name, *run] for name in registry.names("presets")),
    ]
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({HEAVY}))\n"  # None there makes an import an ImportError
        f"from zofo.cli.main import run\nfor args in {verbs}: assert run(args) == 0, args"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > len(verbs)


def test_a_light_verb_reads_the_installed_packages_once() -> None:
    script = (
        "import importlib.metadata as m; from zofo.cli.main import run; calls = []; found = m.entry_points\n"
        "m.entry_points = lambda **group: calls.append(group) or found(**group)\n"
        "run(['ls']); print(len(calls))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600)
    assert done.stdout.splitlines()[-1] == "1", done.stderr


def test_help_imports_neither_pydantic_nor_yaml() -> None:
    script = (
        "import sys; from zofo.cli.main import run; run(['--help'])\n"
        "print([name for name in ('pydantic', 'yaml', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_lists_the_verbs() -> None:
    done = zofo("--help")
    assert done.returncode == 0
    for verb in ("train", "eval", "generate", "export", "ls", "show", "validate", "env", "quickstart"):
        assert f"\n  {verb} " in done.stdout


def test_validate_prints_a_configuration_that_validates_again(tmp_path: Path) -> None:
    done = zofo("validate", "--preset", "quickstart", "model=m", "task=sst2", "train.output_dir=o", "method.lam=5")
    assert done.returncode == 0, done.stderr
    assert "  lam: 5.0                            # command line" in done.stdout.splitlines()
    (tmp_path / "config.yaml").write_text(done.stdout)
    again = zofo("validate", str(tmp_path / "config.yaml"))
    assert [line.split("  #")[0] for line in again.stdout.splitlines()] == [
        line.split("  #")[0] for line in done.stdout.splitlines()
    ]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_is_no_traceback(unbuffered: str) -> None:
    command = f"{sys.executable} -m zofo.cli.main ls | true; exit ${{PIPESTATUS[0]}}"
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=600, env=env)
    assert done.returncode == 141, "as of every tool whose reader has gone: 128 + SIGPIPE"
    assert done.stderr == ""


# ---- in this process


def test_train_options_reach_the_configuration(trained: list[Any]) -> None:
    more = ["--seed", "3", "--max-steps", "5", "--threads", "1", "--overwrite", "--dry-run", "method.lr=1e-4"]
    assert cli.run([*TRAIN, *more]) == 0
    ((config, dry_run),) = trained
    assert dry_run is True
    assert (config.model.name, config.task.name, config.names["method"]) == ("m", "sst2", "mezo")
    assert (config.train.seed, config.train.max_steps, config.train.threads, config.train.overwrite) == (3, 5, 1, True)
    assert config.method.lr == 1e-4
    assert config.reasons["train.seed"] == "command line"


def test_train_takes_a_file_and_changes_to_it(trained: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: m\ntask: sst2\nmethod: mezo\ntrain: {output_dir: o, seed: 1}\n")
    assert cli.run(["train", "train.seed=2", str(file)]) == 0
    assert trained[0][0].train.seed == 2
    assert cli.run(["train", str(file), str(file)]) == 2


def test_resume_reads_the_saved_configuration(trained: list[Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    assert cli.run([*TRAIN[:-1], "elsewhere", "--seed", "9", "--overwrite"]) == 0
    (run / "config.yaml").write_text(trained[0][0].to_yaml())
    checkpoint = run / "checkpoint-4"
    checkpoint.mkdir()
    for resume in (["--resume", "latest", "--output-dir", str(run)], ["--resume", str(run)]):
        assert cli.run(["train", *resume, "train.max_steps=7"]) == 0
        train = trained[-1][0].train
        assert (train.output_dir, train.resume, train.seed, train.max_steps) == (str(run), "latest", 9, 7)
        assert not train.overwrite
    assert cli.run(["train", "--resume", str(checkpoint)]) == 0
    assert trained[-1][0].train.resume == str(checkpoint)
    assert trained[-1][0].train.output_dir == str(run)


def test_notes_go_to_stderr(trained: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train", "--preset", "quickstart", *TRAIN[1:]]) == 0
    assert "note: adapter: left out, method mezo takes one only if it is asked for" in capsys.readouterr().err


def test_eval_and_export_pass_their_options_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    def evaluate(*args: Any, **kwargs: Any) -> dict[str, Any]:
        calls.append((args, kwargs))
        return {"accuracy": 0.5, "examples": 3}

    def export(*args: Any, **kwargs: Any) -> Path:
        calls.append((args, kwargs))
        return Path("final")

    fake_module("zofo.api.finetune", monkeypatch, evaluate=evaluate, export=export)
    assert cli.run(["eval", "out", "--split", "dev", "--limit", "3", "--adapter", "p"]) == 0
    assert json.loads(capsys.readouterr().out) == {"accuracy": 0.5, "examples": 3}
    given = {
        "model": None,
        "task": None,
        "data": None,
        "template": None,
        "apply_chat_template": None,
        "system": None,
        "split": "dev",
        "adapter": "p",
        "limit": 3,
        "batch_size": None,
        "seed": None,
        "output": None,
        "num_fewshot": None,
        "run_generated_code": None,
        **dict.fromkeys(("train_file", "dev_file", "test_file", "text_column", "label_column")),
        "overrides": [],
    }
    assert calls[-1] == (("out",), given)
    assert cli.run(["export", "out", "final", "--merge"]) == 0
    assert capsys.readouterr().out == "final\n"
    given = {"model": None, "overrides": [], "merge": True, "adapter": None, "overwrite": False}
    hub: dict[str, Any] = {"push_to_hub": None, "private": None, "revision": None}
    assert calls[-1] == (("out", "final"), given | hub)
    assert cli.run(["export", "out", "final", "--push-to-hub", "me/x", "--private", "--revision", "v2"]) == 0
    hub = {"push_to_hub": "me/x", "private": True, "revision": "v2"}
    assert calls[-1] == (("out", "final"), given | hub | {"merge": None})


def test_quickstart_passes_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    fake_module("zofo.api.quickstart.run", monkeypatch, run=lambda *args: calls.append(args))
    assert cli.run(["quickstart", "--steps", "3"]) == 0
    assert calls == [(".cache/quickstart", "out/quickstart", 3)]


@pytest.mark.parametrize("length", [300, 5000])
def test_a_text_longer_than_a_path_is_a_value(length: int, tmp_path: Path, tiny_model_dir: Path) -> None:
    """A system turn, or a prompt's words; and what is meant as a path is said to be none, by its field."""
    rows = write_rows(tmp_path / "rows.jsonl", sentiment_rows(8))
    out = ["--output-dir", str(tmp_path / "out")]
    given = ["--model", str(tiny_model_dir), "--task", str(rows), "--method", "mezo", *out]
    text = "be kind " * (length // 8)
    assert cli.run(["validate", *given, "task.apply_chat_template=true", f"task.system={text}"]) == 0
    (tmp_path / "c.yaml").write_text(json.dumps({"model": "a" * length, "task": str(rows), "method": "mezo"}))
    assert cli.run(["validate", str(tmp_path / "c.yaml"), *out]) == 0, "a hub id it could be"
    assert cli.run(["validate", *given[2:], "--model", "./" + "a" * length]) == 2
