"""No secret of the environment is in a file of a run or an export, and with local files no network is asked."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import sentiment_rows, write_rows
from zofo import InputError, resolve
from zofo.cli import main as cli

SECRET = "s3cr3t-marker"
VARIABLES = [
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "AWS_SECRET_KEY"),
    *("COMET_API_KEY", "MLFLOW_TRACKING_PASSWORD", "NEPTUNE_API_TOKEN", "GITHUB_TOKEN", "PGPASSWORD"),
]
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "PIP_INDEX_URL")
SMALL = ["train.max_steps=4", "train.batch_size=2", "train.eval_steps=2", "train.save_steps=2", "method.inner_steps=1"]


@pytest.fixture
def work(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "model").symlink_to(tiny_model_dir)
    write_rows(tmp_path / "rows.jsonl", sentiment_rows(24))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the network was asked for: names looked up, addresses connected to or sent to."""
    seen: list[Any] = []

    def record(what: str) -> Any:
        def refuse(*args: Any, **options: Any) -> Any:
            seen.append((what, args[-1] if what == "connect" else args[0]))
            raise OSError("no network here")

        return refuse

    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "create_connection"):
        monkeypatch.setattr(socket, name, record(name))
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, record("connect"))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return seen


def verbs() -> list[list[str]]:
    start = ["--model", "model", "--task", "rows.jsonl", "--method", "bilevel-zofo", "--adapter", "lora"]
    return [
        ["validate", *start, "--output-dir", "run"],
        ["memory", *start, "--measure"],  # predicts, too
        ["train", *start, *SMALL, "--output-dir", "run"],
        ["train", *start, *SMALL, "--output-dir", "run", "--resume", "latest", "train.max_steps=8"],
        ["eval", "run", "--output", "scored"],
        ["eval", "model", "--task", "rows.jsonl"],
        ["export", "run", "whole"],
        ["export", "run", "apart", "--separate"],
        ["eval", "whole"],
        ["eval", "apart"],
        ["generate", "run", "--prompt", "film", "--max-new-tokens", "2", "--output", "texts.jsonl"],
        ["generate", "apart", "--prompt", "film", "--max-new-tokens", "2"],
        ["env"],
    ]


def test_with_local_files_nothing_is_asked_and_no_secret_is_written(
    work: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, SECRET)
    for name in PROXIES:
        monkeypatch.setenv(name, f"http://user:{SECRET}@localhost:1")
    monkeypatch.setenv("NO_PROXY", "*")
    for args in verbs():
        assert cli.run(args) == 0, args
        assert asked == [], args
    shown = capfd.readouterr()
    assert SECRET not in shown.out + shown.err
    files = [path for path in work.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 30
    assert {"config.yaml", "run.json", "manifest.json", "README.md", "metrics.jsonl"} <= {path.name for path in files}
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_what_is_not_there_is_not_asked_for(work: Path, asked: list[Any]) -> None:
    for model in ("./gone", "/gone/too", "gone/in/three"):
        assert cli.run(["train", "--model", model, "--task", "rows.jsonl", "--method", "mezo"]) == 2
        assert asked == [], model
    assert cli.run(["eval", "somebody/a-model", "--task", "rows.jsonl"]) == 2
    assert asked, "a hub is asked where one is named, so that these tests could have failed"


@pytest.mark.parametrize("field", ["model.name", "model.revision", "task.data"])
@pytest.mark.parametrize(
    "text", [f"https://me:{SECRET}@hf.co/a/b", f"https://hf.co/a?token={SECRET}", "hf_" + "a1B2" * 9]
)
def test_a_secret_in_a_name_is_refused_without_repeating_it(field: str, text: str, work: Path) -> None:
    settings = {"model.name": "model", "task.name": "rows.jsonl", "method.name": "mezo", field: text}
    with pytest.raises(InputError) as caught:
        resolve(None, [f"{key}={value}" for key, value in settings.items()])
    said = str(caught.value)
    assert field in said
    assert SECRET not in said
    assert "a1B2" not in said
    assert "HF_TOKEN" in said


def test_json_of_a_run_names_no_variable(work: Path) -> None:
    """Not even the names of what is set: what a run says of its environment is versions and hardware."""
    assert cli.run(verbs()[2]) == 0
    text = json.dumps(json.loads(Path("run/run.json").read_text())).lower()
    assert not [name for name in os.environ if len(name) > 6 and f'"{name.lower()}"' in text]
