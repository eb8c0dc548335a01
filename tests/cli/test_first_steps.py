"""What somebody meets on the first day: a run in the way, a setting too many, a name that is nothing, an export."""

from __future__ import annotations

import json
import re
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from zofo import InputError, evaluate, export, finetune, generate, load
from zofo.api.configure import resolve
from zofo.cli import main as cli
from zofo.train.progress import gib

SMALL: dict[str, Any] = {"max_steps": 4, "batch_size": 4, "eval_steps": 2, "save_steps": 2}
VERBS = (["train", "--dry-run"], ["train"], ["validate"])


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> list[str]:
    """The lines that a command line is refused with."""
    capsys.readouterr()
    assert cli.run(args) == 2
    return [line.removeprefix("error: ") for line in capsys.readouterr().err.splitlines()]


@pytest.fixture
def run(tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path) -> Path:
    """A finished MeZO run on sentences."""
    finetune(str(tiny_model_dir), str(sentiment_file), "mezo", output_dir=tmp_path / "run", **SMALL)
    return tmp_path / "run"


# ------------------------------------------------------------------------------------------------- a run in the way


def killed(run: Path) -> Path:
    """`run` as it is after a kill before the first checkpoint."""
    (run / "run.json").unlink()
    for directory in run.glob("checkpoint-*"):
        shutil.rmtree(directory)
    return run


def test_a_run_without_a_checkpoint_is_started_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither error may send its reader to the other."""
    config = str(run / "config.yaml")
    (line,) = refused(capsys, "train", config)
    assert line.startswith(f"train.output_dir: {run} holds this run already; choose another directory, go on with it")
    killed(run)
    (line,) = refused(capsys, "train", config)
    assert f"{run} holds this run already, without a checkpoint; start again (--overwrite)" in line
    assert "resume" not in line
    (line,) = refused(capsys, "train", config, "train.seed=1")
    assert f"{run} holds another run, without a checkpoint" in line
    (line,) = refused(capsys, "train", "--output-dir", str(run), "--resume", "latest")
    assert line == f"train.resume: no checkpoint in {run}; instead of --resume, start it again with --overwrite"
    (line,) = refused(capsys, "eval", str(run))
    assert line.endswith("stopped before the first checkpoint: train again with --overwrite")
    assert cli.run(["train", config, "--overwrite"]) == 0


def test_a_checkpoint_is_gone_on_with(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    (run / "run.json").unlink()
    assert cli.run(["eval", str(run)]) == 0
    assert "the run is not finished; this is the best of its evaluations so far, step" in caplog.text
    assert cli.run(["train", "--output-dir", str(run), "--resume", "latest"]) == 0


# ---------------------------------------------------------------------------- settings that do not go together

TOGETHER = [
    (
        "bilevel-zofo",
        ["train.max_steps=10"],
        "train.max_steps: 10 is less than the 11 counted steps that one iteration",
    ),
    ("two-stage", ["train.count=outer"], "train.count: outer counts iterations, and method two-stage has stages"),
    (
        "mezo",
        ["estimator.shift=inplace", "train.on_nonfinite=skip"],
        "train.on_nonfinite: skip needs estimator.shift=layer",
    ),
    (
        "bilevel-zofo",
        ["adapter=prefix", "train.gradient_checkpointing=true"],
        "train.gradient_checkpointing: a prefix is read from a cache, which a layer computed again would fill twice",
    ),
    *(
        (method, ["method.apart=true", f"adapter={name}"], f"method.apart: adapter {name} starts from {start}, nothing")
        for name, start in (("prompt", "a text"), ("prefix", "a text"), ("ia3", "ones"))
        for method in ("bilevel-ablations",)
    ),
    ("mezo", ["task.template=plane"], 'task.template: sst2.yaml: no template "plane"; did you mean "plain"?'),
    ("mezo", ["task.choices=[a, b]"], "task.choices: is for own files with text and label; the answers of sst2 are in"),
]


@pytest.mark.parametrize(("method", "changes", "expected"), TOGETHER)
@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_validate_refuses_what_train_refuses(
    verb: list[str], method: str, changes: list[str], expected: str, tmp_path: Path, capsys: Any
) -> None:
    """The model is a hub id that nobody asks for."""
    fixed = ["--model", "no/model", "--task", "sst2", "--method", method, "--output-dir", str(tmp_path / "out")]
    (line,) = refused(capsys, *verb, *fixed, *changes)
    assert line.startswith(expected)


@pytest.mark.parametrize("name", ["lora", "dept"])
def test_adapters_that_are_drawn_may_start_apart(name: str) -> None:
    method = {"name": "bilevel-ablations", "apart": True}
    resolve(model="no/model", task="sst2", method=method, adapter=name, train={"output_dir": "out"})


def test_every_fault_of_that_kind_at_once() -> None:
    with pytest.raises(InputError) as caught:
        resolve(
            model="no/model",
            task="sst2",
            method={"name": "bilevel-ablations", "apart": True},
            adapter="ia3",
            train={"output_dir": "out", "max_steps": 3},
        )
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["train.max_steps", "method.apart"]


# ------------------------------------------------------------------------------------------------ wrong arguments


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"callbacks": [3]}, "callbacks: expected transformers' TrainerCallbacks, got 3"),
        ({"callbacks": [dict]}, "callbacks: expected transformers' TrainerCallbacks, got an object of type type"),
        ({"callbacks": TrainerCallback()}, "callbacks: expected a list, got an object of type TrainerCallback"),
        ({"model": ["a", "b"]}, "model: expected a hub id, a directory (save_pretrained writes one) or a mapping"),
        ({"method": [3]}, "method: expected a mapping of fields or a name, got [3] (caller)"),
        ({"task": 3.5}, "task: expected a mapping of fields or a name, got 3.5 (caller)"),
        (
            {"adapter": [1] * 100},
            "adapter: expected a mapping of fields or a name, got an object of type list (caller)",
        ),
        ({"model": {"name": object()}}, 'model.name: expected a string, got "<object object at'),
        (
            {"report_to": ["tensorboard"]},
            'train.report_to: tensorboard is not installed; pip install "zofo[tensorboard]"',
        ),
    ],
)
def test_wrong_arguments_are_one_short_line(
    changes: dict[str, Any], expected: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers.integrations.integration_utils as integrations

    monkeypatch.setattr(integrations, "is_tensorboard_available", lambda: False)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    given = {"model": "no/model", "task": "sst2", "method": "mezo", "overwrite": True, **changes}
    with pytest.raises(InputError) as caught:
        finetune(**given, output_dir=run)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 160
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before, (
        "the old run is still there"
    )


def test_a_model_object_is_named_by_its_type(tiny_model_dir: Path) -> None:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    for call in (lambda: finetune(model, "sst2", output_dir="out"), lambda: load(model), lambda: evaluate(model)):
        with pytest.raises(InputError, match=r"got an object of type LlamaForCausalLM( \(caller\))?$"):
            call()


# ------------------------------------------------------------------------------------------------- names of nothing


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """No name has an address. The look-ups."""
    asked: list[Any] = []

    def getaddrinfo(*args: Any, **_: Any) -> Any:
        asked.append(args)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return asked


def test_a_name_of_nothing_is_said_at_once(
    offline: list[Any], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    for call in (
        lambda: load("nowhere"),
        lambda: generate("no/where", ["a"]),
        lambda: evaluate("nowhere", task="sst2"),
    ):
        with pytest.raises(InputError, match=r"^cannot load '.*': it is neither a directory here nor reachable on the"):
            call()
    assert sum(slept) < 1, "the hub was tried again and again"
    assert sum(port is None for _, port, *_ in offline) == 3, "one look-up of ours each"
    assert refused(capsys, "eval", "nowhere") == ["nowhere: no such directory; a model on the hub needs --task"]
    assert refused(capsys, "export", "nowhere", str(tmp_path / "x")) == [
        "nowhere: no finished run here: no such directory"
    ]


def test_adapters_of_a_run_without_any(run: Path, capsys: Any) -> None:
    assert refused(capsys, "eval", str(run), "--adapter", "s") == ["adapter 's': this run has theta"]


# ---------------------------------------------------------------------------------------------------------- exports


def test_an_export_knows_its_task(run: Path, tmp_path: Path, sentiment_file: Path, capsys: Any) -> None:
    out = export(run, tmp_path / "export")
    assert evaluate(out) == pytest.approx(json.loads((run / "run.json").read_text())["test"]["theta"], rel=1e-6)
    assert refused(capsys, "export", str(out), str(tmp_path / "again")) == [
        f"{out}: no finished run here; it is an export already, give the directory of its run"
    ]
    sentiment_file.unlink()
    assert refused(capsys, "eval", str(out)) == [
        f"task.name: no such file: {sentiment_file}; give where it is as --data FILE, or other data with --task"
    ]
    for name in ("manifest.json", "zofo.json"):  # as one who changes an export is told to
        (out / name).unlink()
    assert refused(capsys, "eval", str(out)) == [f"{out} is no run, so it names no task: give --task"]


def test_a_run_is_exported_without_its_data(run: Path, tmp_path: Path, sentiment_file: Path) -> None:
    sentiment_file.unlink()
    assert (export(run, tmp_path / "export") / "model.safetensors").is_file()
    load(run)


# ---------------------------------------------------------------------------------------------------------- numbers


def test_small_sizes_are_in_mib() -> None:
    assert gib(0.1 * 2**30) == "0.10 GiB"
    assert gib(1.25 * 2**20) == "1.25 MiB"
    assert gib(3 * 2**30) == "3.00 GiB"


def test_show_names_what_a_method_takes_unless_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["show", "bilevel-zofo"]) == 0
    assert "adapter (lora unless named), estimator (spsa unless named)" in capsys.readouterr().out


def test_no_text_cites_a_page_that_users_do_not_have() -> None:
    """`zofo show` prints docstrings; the design notes are not in the repository."""
    import zofo

    sources = sorted(Path(str(zofo.__file__)).parent.rglob("*"))
    cited = [p.name for p in sources if p.suffix in (".py", ".yaml") and re.search(r"\bSPEC\b", p.read_text("utf-8"))]
    assert cited == []
