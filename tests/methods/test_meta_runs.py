"""Runs of many tasks: cut and resumed to the same bytes, replayed, deployed; tasks that came or went are an error."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from tests.six_tasks import META, make_tasks, session_of, train_on
from zofo import evaluate
from zofo.config.instantiate import make_estimator, make_rule
from zofo.errors import InputError, RunError
from zofo.zo.journal import read_header, read_records
from zofo.zo.replay import replay

RUNS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "bank": (META, {}),
    "shared": ({**META, "adapters": "shared"}, {}),
    "bank-adam-prefix": ({**META, "lr_p": "lr_theta"}, {"rule": {"name": "adam"}, "adapter": {"name": "prefix"}}),
    "bank-svrg": (META, {"estimator": {"name": "svrg", "refresh": 2, "anchor_batches": 2}}),
    "bank-blocks": (META, {"mask": {"name": "blocks"}}),
    "snapshots": (META, {"rule": {"name": "adam"}, "train": {"max_replay_seconds": 0.0}}),
    "metaicl": ({"name": "metaicl", "lr": 1e-3}, {"task": {"num_fewshot": 2}, "train": {"batch_size": 3}}),
    "multi-task-ft": ({"name": "multi-task-ft", "lr": 1e-3}, {"train": {"batch_size": 3}}),
    "bilevel-zofo": (
        {"name": "bilevel-zofo", "inner_steps": 2, "lr_s": 1e-2, "lr_theta": 1e-5},
        {"train": {"batch_size": 3}},
    ),
    "mezo": ({"name": "mezo", "lr": 1e-4}, {"train": {"batch_size": 3}}),
    "fo-peft": ({"name": "fo-peft"}, {"train": {"batch_size": 3}}),
    "fo-ft": ({"name": "fo-ft", "lr": 1e-3}, {"train": {"batch_size": 3}}),
}


class Cut(Exception):
    """Stands for a kill: nothing of the loop's own saving is done."""


class CutAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= self.step:
            raise Cut


def run_cut(model: Path, setting: Path, out: Path, name: str) -> None:
    """A run of RUNS that is cut between two checkpoints."""
    method, more = RUNS[name]
    with pytest.raises(Cut):
        train_on(model, setting, out, method, [CutAt(9)], **more)
    assert not (out / "run.json").exists()


def resume(model: Path, setting: Path, out: Path, name: str) -> Any:
    method, more = RUNS[name]
    return train_on(model, setting, out, method, **{**more, "train": {**more.get("train", {}), "resume": "latest"}})


def files_in(out: Path) -> dict[str, bytes]:
    """Journal, adapters and weights of the last checkpoint and the best, by name."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.suffix in (".bin", ".safetensors") or path.name == "adapter_config.json"
    }


@pytest.fixture(scope="module")
def whole_run(
    tiny_model_dir: Path, six_tasks: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Any, Path]]:
    """whole_run(name) -> a run of RUNS that was not cut, and its directory. Read only."""
    runs: dict[str, tuple[Any, Path]] = {}

    def get(name: str) -> tuple[Any, Path]:
        if name not in runs:
            method, more = RUNS[name]
            out = tmp_path_factory.mktemp("whole") / name
            runs[name] = train_on(tiny_model_dir, six_tasks, out, method, **more), out
        return runs[name]

    return get


# What a bank adds in every run of the suite; the others with `make test-slow`
USUAL = ("bank", "bank-svrg", "snapshots", "metaicl", "multi-task-ft")


@pytest.mark.parametrize("name", [n if n in USUAL else pytest.param(n, marks=pytest.mark.slow) for n in RUNS])
def test_cut_and_resumed(name: str, whole_run: Any, tiny_model_dir: Path, six_tasks: Path, tmp_path: Path) -> None:
    """Journal, adapters, optimizers and numbers of a run that was cut between two checkpoints are those of one that was
    not; the journal alone gives theta; the deployed numbers come back from the run's directory."""
    whole, whole_dir = whole_run(name)
    out = tmp_path / "cut"
    run_cut(tiny_model_dir, six_tasks, out, name)
    resumed = resume(tiny_model_dir, six_tasks, out, name)
    assert resumed.test_by_candidate == whole.test_by_candidate
    ours, theirs = files_in(out), files_in(whole_dir)
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if ours[key] != theirs[key]] == []
    assert any(key.endswith(".safetensors") for key in ours)
    if (out / "journal.bin").exists():
        method, more = RUNS[name]
        s = session_of(tiny_model_dir, six_tasks, method, **more)
        if s.method.theta_of == "backbone":
            header, start = read_header(out / "journal.bin")
            records = read_records(out / "journal.bin", start)
            count = replay(s.problem.theta, make_estimator(s.config), make_rule(s.config), records)
            assert count == whole.info["steps"]["upper"] > 0
            assert header["seed"] == 0
            if name == "bank":
                direct = session_of(tiny_model_dir, six_tasks, method, **more)
                for k in range(count):
                    direct.method.step(k)
                assert direct.problem.theta.sha256() == s.problem.theta.sha256()
    if name in ("bank", "shared", "metaicl", "fo-peft"):
        assert evaluate(out) == pytest.approx(whole.test, rel=1e-6)


def test_what_a_bank_deploys(whole_run: Any, tiny_model_dir: Path, six_tasks: Path, tmp_path: Path) -> None:
    """theta alone, and there is no s for a new task; a shared pair: theta, or s where dev prefers it."""
    bank, bank_dir = whole_run("bank")
    assert bank.deployed == "theta"
    assert set(bank.info["test"]) == {"theta"}
    out = bank.export(tmp_path / "exported")
    assert (out / "model.safetensors").is_file()
    with pytest.raises(InputError):
        bank.export(tmp_path / "no", adapter="s")
    with pytest.raises(InputError):
        evaluate(bank_dir, adapter="s")
    shared = train_on(tiny_model_dir, six_tasks, tmp_path / "shared", {**META, "adapters": "shared", "lr_s": 3e-2})
    assert set(shared.info["test"]) == {"theta", "s"}
    assert shared.deployed == min(("theta", "s"), key=lambda n: shared.info["dev"][n]["loss"])
    only = train_on(tiny_model_dir, six_tasks, tmp_path / "s", {**META, "adapters": "shared", "deploy": "s"})
    assert only.deployed == "s"


@pytest.mark.parametrize("name", ["shared", "metaicl"])
def test_resumed_without_one_of_its_tasks(name: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    """The data changed between two sittings: a line that names the task, and no traceback."""
    path = make_tasks(tmp_path, ("trec", "yes_no", "v1.0-mail"))
    out = tmp_path / "out"
    run_cut(tiny_model_dir, path, out, name)
    shutil.rmtree(path.parent / "data" / "yes_no")
    with pytest.raises(InputError, match=r"yes.no"):
        resume(tiny_model_dir, path, out, name)


@pytest.mark.parametrize("name", ["bank", "metaicl"])
def test_resumed_with_one_more_task(name: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    """It would go on with other tasks than it began with, and be no run that anyone could repeat."""
    path = make_tasks(tmp_path, ("trec", "yes_no", "v1.0-mail"))
    out, folder = tmp_path / "out", path.parent / "data" / "yes_no"
    folder.rename(tmp_path / "aside")
    run_cut(tiny_model_dir, path, out, name)
    (tmp_path / "aside").rename(folder)
    with pytest.raises(InputError, match=r"yes.no"):
        resume(tiny_model_dir, path, out, name)


def test_a_run_that_fails_says_where(tiny_model_dir: Path, six_tasks: Path, tmp_path: Path) -> None:
    """A rate at which theta explodes: one line, and theta is intact."""
    with pytest.raises(RunError, match="an update before this one was too large"):
        train_on(tiny_model_dir, six_tasks, tmp_path / "out", {**META, "lr_s": 1e30}, train={"max_steps": 30})
