"""`zofo export --push-to-hub`, against a hub of our own on the loopback: what is committed, refused, left behind."""

from __future__ import annotations

import getpass
import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import sentiment_rows, write_rows
from tests.hub_server import TOKEN, Hub, hub
from zofo import InputError, RunError, export, finetune, load
from zofo.cli import main as cli
from zofo.models.sealed import check_export
from zofo.train.trees import names_of

SMALL: dict[str, Any] = {"max_steps": 6, "batch_size": 4, "eval_steps": 3, "save_steps": 6}
METHOD = {"name": "bilevel-zofo", "inner_steps": 2, "lr_s": 1e-2, "lr_theta": 1e-3}
Say = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("the owners folder")
    rows = write_rows(folder / "rows.jsonl", sentiment_rows(60))
    return finetune(str(tiny_model_dir), str(rows), METHOD, output_dir=folder / "run", **SMALL).path


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with hub() as state:
        yield state


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """say(*args) -> (exit code, what `zofo export ARGS` prints)"""

    def call(*args: object) -> tuple[int, str]:
        capsys.readouterr()
        code = cli.run(["export", *map(str, args)])
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    return call


def files_of(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in names_of(directory)}


@pytest.mark.parametrize("form", ["--merge", "--separate"])
def test_what_is_committed_is_the_export_and_nothing_else(
    form: str, run: Path, served: Hub, tmp_path: Path, say: Say
) -> None:
    out = export(run, tmp_path / "out")
    (out / "thesis.txt").write_text("mine")
    code, shown = say(run, out, form, "--overwrite", "--push-to-hub", "me/films", "--private")
    assert code == 0
    there = served.repositories["me/films"]["main"]
    assert there == files_of(out)
    assert len(there) > 6
    assert "thesis.txt" not in there
    assert served.large, "the weights went the way of large files"
    assert (served.private["me/films"], len(served.messages)) == (True, 1)
    assert f"{served.url}/me/films" in shown
    private = [run.parent.name, str(tmp_path), getpass.getuser() + "/", socket.gethostname(), TOKEN, "film 3:"]
    for name, content in there.items():
        assert not [word for word in private if word.encode() in content], name
    assert TOKEN not in shown
    assert not [
        path for path in [*out.rglob("*"), *run.rglob("*")] if path.is_file() and TOKEN in str(path.read_bytes())
    ]


@pytest.mark.parametrize("form", [None, False])
@pytest.mark.parametrize("branch", [None, "v2"])
def test_the_cards_code_opens_it_from_the_hub(
    form: bool | None, branch: str | None, run: Path, served: Hub, tmp_path: Path
) -> None:
    out = export(run, tmp_path / "out", merge=form, push_to_hub="me/films", revision=branch)
    repository = served.repositories["me/films"]
    assert (set(repository), repository["main"] == {}) == ({"main", branch or "main"}, branch is not None)
    (code,) = re.findall(r"```python\n(.*?)```", repository[branch or "main"]["README.md"].decode(), re.S)
    names: dict[str, Any] = {}
    exec(code, names)
    ids = torch.tensor([[5, 9, 20, 33, 7]])
    theirs, ours = names["model"].eval()(input_ids=ids).logits, load(out)[0](input_ids=ids).logits
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
    assert (
        f"hf download me/films {'--revision v2 ' if branch else ''}--local-dir HERE" in (out / "README.md").read_text()
    )


def test_a_later_push_leaves_no_file_of_an_earlier_export(run: Path, served: Hub, tmp_path: Path) -> None:
    """As the directory itself: what another export had goes, what somebody else put there stays."""
    export(run, tmp_path / "apart", merge=False, push_to_hub="me/films")
    there = served.repositories["me/films"]["main"]
    assert "adapter_config.json" in there
    there["notes.md"] = b"by hand"
    whole = export(run, tmp_path / "whole", push_to_hub="me/films")
    assert there == files_of(whole) | {"notes.md": b"by hand"}
    there["manifest.json"] = b"{"
    export(run, tmp_path / "again", merge=False, push_to_hub="me/films")
    assert {"model.safetensors", "adapter_config.json"} <= set(there), "whose they are is not known, so they stay"


def test_a_private_folders_words_are_in_no_pushed_file_and_it_is_still_used(
    run: Path, served: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = export(run, tmp_path / "out", merge=False, push_to_hub="me/films")
    info = json.loads((out / "zofo.json").read_text())
    assert (info["config"]["task"]["name"], info["model"][:2]) == ("./rows.jsonl", "./")
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "backbone"
    rows = write_rows(tmp_path / "new.jsonl", sentiment_rows(8))
    assert cli.run(["eval", str(out), "--task", str(rows)]) == 0
    bare = write_rows(tmp_path / "bare.jsonl", [{"text": row["text"]} for row in sentiment_rows(4)])
    assert cli.run(["predict", str(out), "--file", str(bare), "--output", str(tmp_path / "answered.jsonl")]) == 0
    capsys.readouterr()
    assert cli.run(["eval", str(out)]) == 2
    assert "rows.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--push-to-hub", "films"), "names no owner; give OWNER/films"),
        (("--push-to-hub", "me/films/2"), "is no name of a repository"),
        (("--push-to-hub", "me/fi lms"), "is no name of a repository"),
        (("--push-to-hub", "me/films.git"), "is no name of a repository"),
        (("--push-to-hub", ""), "is no name of a repository"),
        (("--push-to-hub", "me/films", "--revision", "a b"), '--revision: "a b" is no name of a branch'),
        (("--push-to-hub", "me/films", "--revision", "../x"), "is no name of a branch"),
        (("--private",), "--private: is of a push to the hub; give --push-to-hub OWNER/NAME too"),
        (("--revision", "v2"), "--revision: is of a push to the hub"),
    ],
)
def test_wrong_words_are_said_before_anything_is_asked_or_written(
    given: tuple[str, ...], words: str, run: Path, served: Hub, tmp_path: Path, say: Say
) -> None:
    code, shown = say(run, tmp_path / "out", *given)
    assert (code, served.asked, (tmp_path / "out").exists()) == (2, [], False)
    (line,) = shown.splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_no_token_no_network_or_a_wrong_one_is_said_before_anything_is_written(
    run: Path, tmp_path: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    to = (run, tmp_path / "out", "--push-to-hub", "me/films")
    with hub(token=None) as served:
        code, shown = say(*to)
        assert (code, served.asked) == (2, [])
        assert "no token of the hub; set HF_TOKEN" in shown
    with hub(token="hf_" + "y" * 34) as served:
        code, shown = say(*to)
        assert (code, served.asked, "y" * 34 in shown) == (2, ["GET /api/whoami-v2"], False)
        assert "the hub does not know the token" in shown
    with hub() as served:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        code, shown = say(*to)
        assert (code, served.asked) == (2, [])
        assert "HF_HUB_OFFLINE" in shown
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        code, shown = say(*to)
        assert (code, len(shown.splitlines())) == (1, 1)
        assert "--push-to-hub: http://127.0.0.1:9: " in shown
        assert "nothing was written" in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("at", "status", "words"),
    [
        ("POST /api/repos/create", 403, "the token may not write there"),
        ("POST /api/repos/create", 402, "402: pay first"),
        ("POST /api/models/me/films/commit", 409, "409: pay first"),
        ("POST /api/models/me/films/commit", 401, "the hub does not know the token"),
        ("POST /api/validate-yaml", 400, "pay first"),
        ("PUT /lfs", 403, "Error while uploading 'model.safetensors' to the Hub. (403)"),
        ("GET /api/models/me/films/tree", 500, "500: pay first"),
    ],
)
def test_what_the_hub_refuses_is_one_line_and_the_export_stays(
    at: str, status: int, words: str, run: Path, served: Hub, tmp_path: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # huggingface_hub's own patience
    served.faults[at] = (status, "pay first")
    out = tmp_path / "my out"
    code, shown = say(run, out, "--push-to-hub", "me/films", "--private", "--revision", "v2")
    assert code == 1
    (line,) = [line for line in shown.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: me/films: not pushed: ")
    assert words in line
    assert f"`hf upload me/films '{out}' . --private --revision v2`" in line
    check_export(out)
    served.faults.clear()
    with pytest.raises(InputError, match="not empty"):
        export(run, out, push_to_hub="me/films")
    export(run, out, push_to_hub="me/films", overwrite=True)
    assert served.repositories["me/films"]["main"] == files_of(out)


def test_an_error_of_python_names_the_place(run: Path, served: Hub, tmp_path: Path) -> None:
    served.faults["repos/create"] = (403, "no")
    with pytest.raises(RunError, match=r"^me/films: not pushed: the token may not write there"):
        export(run, tmp_path / "out", push_to_hub="me/films")


def test_without_a_repository_nobody_is_asked(run: Path, served: Hub, tmp_path: Path, say: Say) -> None:
    assert say(run, tmp_path / "out")[0] == 0
    assert served.asked == []
