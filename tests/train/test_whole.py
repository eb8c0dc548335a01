"""What to do where a checkpoint is damaged: an older one is whole, only the best is, nothing is; a newer one is."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import sentiment_rows, write_rows
from tests.small_runs import SMALL
from zofo import InputError, evaluate, export, finetune, resolve, train
from zofo.api.check_run import check_run
from zofo.cli.main import run as command_line
from zofo.config.reward_name import asked_again
from zofo.models.sealed import sha256_of
from zofo.train.whole import going_on

METHODS = {
    "mezo": {"name": "mezo", "lr": 1e-4},
    "bilevel-zofo": {"name": "bilevel-zofo", "inner_steps": 1, "lr_theta": 1e-4},
    "fo-ft": {"name": "fo-ft", "lr": 1e-4},
}


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.slow] * (name != "bilevel-zofo")) for name in METHODS]
)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """A run with checkpoints at 4, 8 and 12."""
    root = tmp_path_factory.mktemp(request.param)
    rows = write_rows(root / "rows.jsonl", sentiment_rows(40))
    options = {**SMALL, "max_steps": 12, "save_total_limit": None}
    return finetune(str(tiny_model_dir), str(rows), METHODS[request.param], output_dir=root / "run", **options).path


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "a run")


def spoil(*directories: Path) -> None:
    for directory in directories:
        files = [path for path in directory.rglob("*.json") if path.name != "manifest.json"]
        for path in files or [directory / "manifest.json"]:
            path.write_text("{")


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(InputError) as refusal:
        act()
    (line,) = str(refusal.value).split("\n")
    return line


def resume(run: Path, checkpoint: str = "latest") -> str:
    return refused(lambda: _resume(run, checkpoint))


def _resume(run: Path, checkpoint: str) -> None:
    train(resolve(str(run / "config.yaml"), [], train={"resume": checkpoint, "output_dir": str(run)}))


def best_of(run: Path) -> Path:
    return run / f"best-{json.loads((run / 'run.json').read_text())['best_step']}"


def follow(line: str) -> None:
    """The command that a line offers does what it says."""
    command = line.partition(": zofo ")[2]
    assert command, line
    assert command_line(shlex.split(command)) == 0


@pytest.mark.parametrize("asked", ["checkpoint-4", "checkpoint-8", "checkpoint-12"])
def test_another_one_is_whole(asked: str, run: Path) -> None:
    """The newest that is, older or newer than the one that was asked for."""
    spoil(run / asked)
    line = resume(run, str(run / asked))
    newest = "checkpoint-8" if asked == "checkpoint-12" else "checkpoint-12"
    assert line.startswith(f"{run / asked}/")
    assert f"; put back a copy, or go on from {newest}, which is whole: zofo train --resume " in line
    assert [line for _, fault in check_run(run) if fault and f"go on from {newest}, which is whole" in fault]
    assert re.search(rf"{asked}.* nothing of it can be used", refused(lambda: evaluate(run / asked)))
    follow(line)


def test_all_are_damaged_and_the_best_is_not(run: Path, tmp_path: Path) -> None:
    """Nothing says to delete one for an older one; what it offers instead works."""
    spoil(*run.glob("checkpoint-*"))
    for line in (resume(run), resume(run, str(run / "checkpoint-8"))):
        assert "delete it" not in line
        assert "older" not in line
        assert f"no checkpoint is whole, so the run cannot go on, but its best is ({best_of(run).name}): " in line
        assert (
            f"`zofo eval '{run}'` and `zofo export '{run}' OUT` have it; to train, start anew with --overwrite" in line
        )
    assert evaluate(run)["n"]
    export(run, tmp_path / "out")
    assert command_line(["train", str(run / "config.yaml"), "--overwrite"]) == 0


def test_nothing_is_whole(run: Path) -> None:
    spoil(*run.glob("checkpoint-*"), *run.glob("best-*"))
    for line in (resume(run), refused(lambda: evaluate(run))):
        assert line.endswith("no checkpoint is whole, so the run cannot go on; start anew with --overwrite")
    faults = [fault for _, fault in check_run(run) if fault]
    assert sum(fault.endswith("start anew with --overwrite") for fault in faults) >= 4
    (run / "run.json").unlink()
    assert refused(lambda: evaluate(run)).endswith("start anew with --overwrite"), "not finished, either"


def test_of_a_run_that_is_not_finished_the_best_alone_is_of_no_use(run: Path) -> None:
    """Which of its evaluations it is, and of which adapter, its checkpoints knew."""
    (run / "run.json").unlink()
    spoil(*run.glob("checkpoint-*"))
    for line in (resume(run), refused(lambda: evaluate(run))):
        assert line.endswith("no checkpoint is whole, so the run cannot go on; start anew with --overwrite")


def test_the_best_is_damaged(run: Path) -> None:
    """Checkpoints that need it are not whole either; one before it is, and leads to it again."""
    best = best_of(run)
    spoil(best)
    line = refused(lambda: evaluate(run))
    assert line.startswith(f"{best}/")
    before = [step for step in (4, 8) if step < int(best.name.rpartition("-")[2])]
    if not before:
        assert line.endswith("start anew with --overwrite")
        return
    assert f"go on from checkpoint-{before[-1]}, which is whole" in line
    follow(line)
    assert evaluate(run)["n"]


def change(run: Path, name: str, **fields: object) -> Path:
    """Fields of a file of checkpoint-12, its checksum with them; "gone" takes one away. Returns the checkpoint."""
    path = run / "checkpoint-12" / name
    content = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({key: value for key, value in content.items() if value != "gone"}))
    manifest = json.loads((path.parent / "manifest.json").read_text())
    manifest["sha256"][name] = sha256_of(path)
    (path.parent / "manifest.json").write_text(json.dumps(manifest))
    return path.parent


def test_a_checkpoint_that_fits_its_checksums_alone(run: Path) -> None:
    """Somebody changed it and its checksums: --resume latest would take it again, so the other is named."""
    checkpoint = change(run, "state.json", meter="gone")
    line = resume(run)
    assert line.startswith(f"{checkpoint}: is not what this run wrote")
    assert "go on from checkpoint-8, which is whole" in line
    follow(line)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        *(("state.json", {"environment": value}) for value in ("gone", " ", None, [1], {"packages": {"torch": {}}})),
        *(("trainer_state.json", {"max_steps": value}) for value in ("%s%n", None, [], {}, True)),
        *(("trainer_state.json", {"log_history": value}) for value in (0.5, {}, None, [1], ["a"])),
        *(("trainer_state.json", {key: "x"}) for key in ("epoch", "global_step", "save_steps", "stateful_callbacks")),
    ],
)
def test_fields_of_another_type(name: str, field: dict[str, object], run: Path) -> None:
    """Are refused in one line, or have no part in what goes on."""
    change(run, name, **field)
    train_on = resolve(str(run / "config.yaml"), train={"resume": "latest", "output_dir": str(run)})
    try:
        train(train_on)
    except InputError as error:
        (line,) = str(error).split("\n")
        assert re.search(r"checkpoint-12.*(is not what this run wrote|damaged)", line), line
    else:
        harmless = {"environment": {"packages": {"torch": {}}}}, {"log_history": None}  # a note; what none is
        assert field in harmless


def test_a_damaged_record_and_a_checkpoint_before_it(run: Path) -> None:
    if not (run / "journal.bin").exists():
        return
    raw = (run / "journal.bin").read_bytes()
    (run / "journal.bin").write_bytes(raw[:-60] + b"\xff" + raw[-59:])
    (fault,) = [fault for _, fault in check_run(run) if "record" in fault]
    assert "or go on from before that: zofo train --resume " in fault
    follow(fault)


def test_the_command_that_goes_on() -> None:
    run = Path("/a b/run")
    assert going_on(run) == "zofo train --resume latest --output-dir '/a b/run'"
    code = going_on(run, run / "checkpoint-4", again=asked_again(True, "f1"))
    assert code == ("zofo train --resume '/a b/run/checkpoint-4' --output-dir '/a b/run' model.trust_remote_code=true")


@pytest.mark.parametrize("name", ["9" * 5000, "a\0b", "nowhere/checkpoint-4"])
def test_a_checkpoint_that_can_be_none(name: str, run: Path) -> None:
    assert resume(run, name).startswith("train.resume: ")


@pytest.mark.parametrize("metric", ["a b/mine.py:reward", "$HOME/mine.py:reward", "it's.py:reward", "mine.py:reward"])
def test_what_is_asked_for_again_can_be_pasted(metric: str) -> None:
    assert shlex.split(asked_again(True, metric)) == ["model.trust_remote_code=true", f"task.metric={metric}"]
