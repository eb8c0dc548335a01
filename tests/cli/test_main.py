"""The command line as a user meets it: exit codes, one clear line per fault, output for terminals and pipes."""

from __future__ import annotations

import errno
import importlib
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zofo.cli import main as cli
from zofo.config import registry
from zofo.errors import InputError, RunError

HEAVY = ("torch", "transformers", "peft", "datasets", "accelerate")


def zofo(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zofo.cli.main", *args]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env}, timeout=600)


def fake_module(path: str, monkeypatch: pytest.MonkeyPatch, **functions: Callable[..., Any]) -> None:
    """Stands in for a module of zofo, so that no verb computes here."""
    module = types.ModuleType(path)
    module.__dict__.update(functions)
    package, _, name = path.rpartition(".")
    monkeypatch.setitem(sys.modules, path, module)
    monkeypatch.setattr(importlib.import_module(package), name, module, raising=False)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """(config, dry_run) of each call of api.train."""
    calls: list[Any] = []
    fake_module(
        "zofo.api.finetune", monkeypatch, train=lambda config, dry_run: calls.append((config, dry_run)) or FINISHED
    )
    return calls


def failing(error: BaseException) -> Callable[..., Any]:
    def train(*_: Any) -> None:
        raise error

    return train


FINISHED = types.SimpleNamespace(path="out", deployed="theta", test_by_candidate={"theta": {"loss": 1.0, "n": 3}})
ARGS = ["train", "--model", "m", "--task", "sst2", "--method", "mezo", "--output-dir", "out"]

# ---- in a process of its own


def test_light_verbs_import_nothing_heavy() -> None:
    """Every entry shown, every method, adapter and preset validated. An import of torch would fail."""
    entries = [f"{kind}/{name}" for kind in registry.KINDS for name in registry.names(kind)]
    own = ["model=m", "task=sst2", "train.output_dir=o"]
    adapters = [["validate", *own, "method=bilevel-zofo", f"adapter={name}"] for name in registry.names("adapters")]
    verbs = [
        ["--help"], ["train", "--help"], ["generate", "--help"], ["ls"], *(["ls", kind] for kind in registry.KINDS),
        ["env"], *(["show", name] for name in (*entries, "model", "task", "train")),
        *(["validate", *own, f"method={name}"] for name in registry.names("methods")), *adapters,
        *(["validate", "--preset", name, *own] for name in registry.names("presets")),
    ]  # fmt: skip
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


def test_wrong_input_exits_2_with_every_fault_and_no_traceback(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "model: m\ntask: sst2\nmethod: {name: bilevel-zofo, lamda: 3, lr_s: -1}\ntrain: {batch_size: many}\n"
    )
    done = zofo("validate", str(file))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        'error: method.lamda: unknown field; did you mean "lam"?',
        "error: method.lr_s: must be >= 0, got -1",
        "error: train.output_dir: required; give --output-dir or train.output_dir=...",
        'error: train.batch_size: expected an integer, got "many"',
    ]


def test_debug_shows_the_traceback_anywhere_on_the_line() -> None:
    for args, env in (
        (["--debug", "show", "x"], {}),
        (["show", "x", "--debug"], {}),
        (["show", "x"], {"ZOFO_DEBUG": "1"}),
    ):
        done = zofo(*args, **env)
        assert done.returncode == 2
        assert "Traceback" in done.stderr
        assert "error: nothing is called" in done.stderr


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
def test_a_closed_pipe_is_no_error(unbuffered: str) -> None:
    command = f"{sys.executable} -m zofo.cli.main ls | true; exit ${{PIPESTATUS[0]}}"
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=600, env=env)
    assert done.returncode == 0
    assert done.stderr == ""


# ---- in this process


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'?"),
        (["train", "--modle", "x"], "No such option: --modle"),
        (["train", "--seed", "x"], "Invalid value for '--seed'"),
        (["train", "none.yaml"], "config file none.yaml: no such file"),
        (["train"], "no configuration: give a CONFIG.yaml, --preset NAME, or --model, --task and --method"),
        (["train", "--resume", "latest"], "--resume latest: give --output-dir"),
        (["train", "--resume", "latest", "--output-dir", "nowhere"], "--resume: nowhere holds no config.yaml"),
        (["ls", "metods"], 'unknown kind "metods"; did you mean "methods"? known: methods, '),
        (["show", "bilevel-zof"], 'nothing is called "bilevel-zof"; did you mean "bilevel-zofo"?'),
        (
            [*ARGS[:5], "--method", "mezoo", "--output-dir", "o"],
            'method.name: unknown method "mezoo"; did you mean "mezo"?',
        ),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(args: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {line}")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("a: wrong\nb: wrong"), 2, "error: a: wrong\nerror: b: wrong"),
        (RunError("loss is NaN at step 3"), 1, "error: loss is NaN at step 3"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out/x"),
            1,
            "error: no space left on device: out/x, free some and use --resume latest",
        ),
        (
            RuntimeError("I/O error: No space left on device (os error 28)"),
            1,
            "error: no space left on device: the output directory's disk is full, free some and use --resume latest",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "error: /x: permission denied"),
        (ValueError("odd"), 1, "error: ValueError: odd (this is a bug or a missing check: --debug shows where)"),
    ],
)
def test_failures_of_a_verb(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_module("zofo.api.finetune", monkeypatch, train=failing(error))
    assert cli.run(ARGS) == code
    assert capsys.readouterr().err.strip() == line


def test_no_space_is_recognised_inside_another_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: Any) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "out/checkpoint-5")
        except OSError as cause:
            raise RuntimeError("could not save") from cause

    fake_module("zofo.api.finetune", monkeypatch, train=train)
    assert cli.run(ARGS) == 1
    assert "error: no space left on device: out/checkpoint-5, free some" in capsys.readouterr().err


def test_train_options_reach_the_configuration(trained: list[Any]) -> None:
    more = ["--seed", "3", "--max-steps", "5", "--threads", "1", "--overwrite", "--dry-run", "method.lr=1e-4"]
    assert cli.run([*ARGS, *more]) == 0
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
    assert cli.run([*ARGS[:-1], "elsewhere", "--seed", "9", "--overwrite"]) == 0
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
    assert cli.run(["train", "--preset", "quickstart", *ARGS[1:]]) == 0
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
        "overrides": [],
    }
    assert calls[-1] == (("out",), given)
    assert cli.run(["export", "out", "final", "--merge"]) == 0
    assert capsys.readouterr().out == "final\n"
    assert calls[-1] == (("out", "final"), {"merge": True, "adapter": None, "overwrite": False})


def test_quickstart_passes_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    fake_module("zofo.api.quickstart.run", monkeypatch, run=lambda *args: calls.append(args))
    assert cli.run(["quickstart", "--steps", "3"]) == 0
    assert calls == [(".cache/quickstart", "out/quickstart", 3)]


@pytest.mark.parametrize("kind", registry.KINDS)
def test_ls_is_one_tab_separated_line_each_in_a_pipe(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    for argument in (kind, registry.singular(kind)):
        assert cli.run(["ls", argument]) == 0
        rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
        assert [row[0] for row in rows] == registry.names(kind)
        assert all(len(row) == 2 and row[1] for row in rows)


@pytest.mark.parametrize("name", [f"{kind}/{name}" for kind in registry.KINDS for name in registry.names(kind)])
def test_show_every_entry(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["show", name]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{registry.singular(name.split('/')[0])} {name.split('/')[1]}\n")


def test_show_prints_fields_types_defaults_and_the_paper(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["show", "bilevel_zofo"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines() if line.startswith("method.")]
    lam = next(row for row in rows if row[0] == "method.lam")
    assert lam[1] == "a number, >= 0"
    assert float(lam[2]) == 10
    assert "4.3" in lam[4]
    assert cli.run(["show", "train"]) == 0
    assert "train.batch_size\tan integer, >= 1\t16\t" in capsys.readouterr().out


def test_show_and_ls_draw_tables_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    assert cli.run(["show", "mezo"]) == 0
    out = capsys.readouterr().out
    assert "what it does" in out
    assert "in the paper" in out
    assert "\t" not in out
    assert cli.run(["ls"]) == 0
    assert "bilevel-zofo" in capsys.readouterr().out


def test_env_names_versions_and_hardware(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["env"]) == 0
    rows = dict(line.split("\t", 1) for line in capsys.readouterr().out.splitlines())
    assert {"zofo", "python", "torch", "transformers", "peft", "cpu", "cores", "memory"} <= set(rows)
