"""What is not zofo's in a run's directory stays, and what is zofo's is written whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import sentiment_rows, write_rows
from zofo import InputError, finetune
from zofo.cli import main as cli
from zofo.config.resolve import resolve
from zofo.train import files
from zofo.train.run_dir import RunDir

SMALL: dict[str, Any] = {"batch_size": 4, "eval_steps": 2, "save_steps": 2, "save_total_limit": 2}


@pytest.fixture
def train(tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path) -> Callable[..., Any]:
    def run(**options: Any) -> Any:
        given = {"max_steps": 8, **SMALL, **options}
        return finetune(
            str(tiny_model_dir), str(sentiment_file), {"name": "mezo", "lr": 1e-4}, output_dir=tmp_path / "out", **given
        )

    return run


@pytest.fixture(scope="module")
def finished(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, to copy."""
    root = tmp_path_factory.mktemp("finished")
    rows = write_rows(root / "rows.jsonl", sentiment_rows())
    method = {"name": "mezo", "lr": 1e-4}
    return finetune(str(tiny_model_dir), str(rows), method, output_dir=root / "out", max_steps=8, **SMALL).path


THEIRS = (
    "README-notes.md",
    "best-photos/cat.jpg",
    "checkpoint-pics/dog.jpg",
    "checkpoint-99/mine.txt",
    "best-7/mine.txt",
    "eval/mine.csv",
    "src/model.py",
    ".hidden.tmp",
    "runs/events",
)


def put(root: Path) -> dict[str, bytes]:
    for name in THEIRS:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"mine: {name}")
    return theirs(root)


def theirs(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in THEIRS if (root / name).is_file()}


def test_a_new_run_a_pruning_a_resume_and_an_overwrite_leave_what_is_not_ours(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    before = put(out)
    assert len(before) == len(THEIRS)
    train()
    assert theirs(out) == before
    train(resume="latest", max_steps=16)
    assert theirs(out) == before
    assert len(RunDir(out).checkpoints()) == 2
    train(overwrite=True)
    assert theirs(out) == before
    named = set(json.loads((out / "manifest.json").read_text())["files"])
    there = {str(path.relative_to(out)).split("/")[0] for path in out.rglob("*")}
    assert {"config.yaml", "run.json", "journal.bin", "metrics.jsonl", "README.md"} <= named
    assert {name.split("/")[0] for name in named} <= there


def test_a_readme_that_was_edited_is_kept(train: Callable[..., Any], tmp_path: Path, caplog: Any) -> None:
    """Under a name of its own, which is said, at a resume's end and by --overwrite. One that was not is replaced."""
    out = tmp_path / "out"
    train()
    train(overwrite=True)
    assert not list(out.glob("README.edited*"))
    for number, how in enumerate([{"resume": "latest", "max_steps": 16}, {"overwrite": True}]):
        (out / "README.md").write_text(f"my notes {number}")
        train(**how)
        assert "| test |" in (out / "README.md").read_text()
    assert [path.read_text() for path in sorted(out.glob("README.edited*"))] == ["my notes 0", "my notes 1"]
    assert f"{out / 'README.md'}: changed since zofo wrote it, and kept as README.edited2.md" in caplog.text
    assert f"{out}: not the run's, and left there: README.edited.md, README.edited2.md" in caplog.text


@pytest.mark.parametrize(
    "name", ["README.md", "config.yaml", "run.json", "metrics.jsonl", "journal.bin", "manifest.json", "eval"]
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_that_a_run_would_overwrite_is_refused_by_name(
    name: str, overwrite: bool, train: Callable[..., Any], tmp_path: Path
) -> None:
    """A project's own README.md or config.yaml, with or without --overwrite."""
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("model: mine\n")
    with pytest.raises(InputError, match=rf"^train.output_dir: .*{name}"):
        train(overwrite=overwrite)
    assert {path.name for path in out.iterdir()} == {name}
    assert (out / name).read_text() == "model: mine\n"


@pytest.mark.parametrize(
    ("limit", "expected"), [(1, [8]), (2, [6, 8]), (3, [4, 6, 8]), (4, [2, 4, 6, 8]), (6, [2, 4, 6, 8])]
)
def test_as_many_checkpoints_are_kept_as_were_asked_for(
    limit: int, expected: list[int], train: Callable[..., Any]
) -> None:
    run = train(save_total_limit=limit)
    assert [path.name for path in RunDir(run.path).checkpoints()] == [f"checkpoint-{n}" for n in expected]


def test_a_checkpoint_that_is_a_link_is_pruned_as_a_link(train: Callable[..., Any], tmp_path: Path) -> None:
    run = train()
    other = tmp_path / "on-another-disk"
    (run.path / "checkpoint-6").rename(other)
    (run.path / "checkpoint-6").symlink_to(other)
    train(resume="latest", max_steps=16)
    assert not (run.path / "checkpoint-6").exists()
    assert (other / "state.json").is_file(), "what it led to is not ours to delete"


def test_what_a_person_put_into_a_checkpoint_stays_and_is_named(
    train: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """When it is pruned, when the run is replaced, when it is put aside."""
    out = train().path
    notes = [out / name / "notes.txt" for name in ("checkpoint-6", "best-2", "checkpoint-8")]
    notes = [path for path in notes if path.parent.is_dir()]
    for path in notes:
        path.write_text("mine")
    train(resume="latest", max_steps=12)
    assert f"{out / 'checkpoint-6'}: not zofo's, and left there: notes.txt" in caplog.text
    assert [path.name for path in (out / "checkpoint-6").iterdir()] == ["notes.txt"]
    train(resume=str(out / "checkpoint-10"), max_steps=12)
    train(overwrite=True)
    assert all(path.read_text() == "mine" for path in notes)
    RunDir(out).verify_checkpoint(out / "checkpoint-8")  # written beside the notes
    assert not list(out.glob(".*"))


@pytest.mark.parametrize(
    "name", ["checkpoint-4/trainer_state.json", "best-2", "eval/predictions-theta.jsonl", "checkpoint-8/state.json"]
)
def test_another_trainers_checkpoint_is_in_the_way(name: str, train: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(InputError, match=rf"would write, {path.name if '-' in path.name else path.parent.name} \(not"):
        train(overwrite=True)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("name", ["README.md", "eval/predictions-theta.jsonl", "checkpoint-8/state.json"])
def test_what_came_while_a_run_stood_still_is_refused_by_its_resume(
    name: str, train: Callable[..., Any], tmp_path: Path
) -> None:
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step >= 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(callbacks=[Stop()])
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    with pytest.raises(InputError, match="is not zofo's, and the run would overwrite it"):
        train(resume="latest")
    assert path.read_text() == "mine"
    path.unlink()
    assert RunDir(train(resume="latest").path).finished


def test_config_yaml_is_rewritten_whole(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever operation a kill comes before, config.yaml is the old or the new one, and the run is of use."""
    run = RunDir(train().path)
    config, old = run.read_config(), run.config.read_text()
    longer = resolve(str(run.config), ["train.max_steps=99"])
    real: dict[str, Any] = {name: getattr(os, name) for name in ("replace", "fsync")}

    class Killed(BaseException):
        pass

    survived = calls = stop = 0

    def counted(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > stop:
                raise Killed
            return real[name](*args, **kwargs)

        return call

    for stop in range(20):
        calls = 0
        for name in real:
            monkeypatch.setattr(os, name, counted(name))
        try:
            RunDir(run.root).write_config(longer)
        except Killed:
            survived += 1
        finally:
            for name, function in real.items():
                monkeypatch.setattr(os, name, function)
        assert RunDir(run.root).read_config().train.max_steps in (config.train.max_steps, 99)
        if calls <= stop:
            break
    assert survived > 5
    assert run.config.read_text() != old


@pytest.mark.parametrize("name", ["run.json", "manifest.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"format": 7}', "\x00\x01", "[" * 100000])
def test_a_damaged_file_is_named(
    name: str, content: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (run / name).write_text(content)
    for verb in (["eval", str(run)], ["export", str(run), str(tmp_path / "export")]):
        capsys.readouterr()
        assert cli.run(verb) == 2
        (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error: ")]
        assert str(run / name) in line
        assert "bug" not in line
    assert not (tmp_path / "export").exists()


def test_a_kill_right_after_the_manifest_is_begun_anew(train: Callable[..., Any], tmp_path: Path) -> None:
    RunDir(tmp_path / "out").begin({})
    train()
    assert RunDir(tmp_path / "out").finished


def test_a_manifest_cannot_name_what_is_outside(train: Callable[..., Any], tmp_path: Path) -> None:
    """A stranger's run must not make --overwrite delete another folder."""
    run = train()
    (tmp_path / "precious.txt").write_text("mine")
    path = run.path / "manifest.json"
    content = json.loads(path.read_text())
    for name in ("../precious.txt", str(tmp_path / "precious.txt"), "eval/../../precious.txt"):
        path.write_text(json.dumps({**content, "files": [*content["files"], name]}))
        with pytest.raises(InputError, match=r"manifest\.json: damaged"):
            train(overwrite=True)
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_a_text_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_text(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"
