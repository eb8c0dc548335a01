"""How a run ended is known to whoever opens it later: failed, interrupted, killed, or still going in a process."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from tests.conftest import sentiment_rows, write_rows
from tests.small_runs import SMALL
from zofo import RunError, evaluate, finetune, generate
from zofo.cli.main import run as command_line
from zofo.train.lease import Lease
from zofo.train.selection import Selection

Say = Callable[..., tuple[int, list[str]]]
SLOW: dict[str, Any] = {"name": "mezo", "lr": 1e-4}


class Stop(TrainerCallback):
    def __init__(self, step: int, error: BaseException) -> None:
        self.step, self.error = step, error

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise self.error


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """A folder of runs, by how they ended."""
    root = tmp_path_factory.mktemp("ended")
    rows = write_rows(root / "rows.jsonl", sentiment_rows(40))

    def run(name: str, method: Any = SLOW, stop: Stop | None = None, **more: Any) -> None:
        callbacks = [stop] if stop else []
        options = {**SMALL, **more}
        finetune(str(tiny_model_dir), str(rows), method, output_dir=root / name, callbacks=callbacks, **options)

    run("finished")
    with pytest.raises(RunError, match="ruined"):
        run("ruined", {"name": "mezo", "lr": 1e30})
    with pytest.raises(RunError, match="hardly trained"):
        run("lost", overrides=["estimator.eps=1e-30"])
    with pytest.raises(RunError, match="nan"):
        run("nan", stop=Stop(6, RunError("step 6: upper update: the loss is nan; theta is finite; lower the rates")))
    with pytest.raises(KeyboardInterrupt):
        run("interrupted", stop=Stop(6, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run("early", stop=Stop(2, KeyboardInterrupt()))
    with pytest.raises(ZeroDivisionError):
        run("bug", stop=Stop(6, ZeroDivisionError("a callback's own\nfault")))
    return root


WORDS = {
    "ruined": "failed: 7 of 8 updates of theta had a coefficient c of exactly 0, so they changed nothing; its weights "
    "are ruined, by an update too large: the largest weight of theta is ",
    "lost": "failed: 8 of 8 updates of theta had a coefficient c of exactly 0, so they changed nothing; its weights "
    "are hardly trained in theta, since the shift did not reach the loss",
    "nan": "failed at step 6 of 8: upper update: the loss is nan",
    "interrupted": "was interrupted at step 6 of 8",
    "bug": "failed at step 6 of 8: ZeroDivisionError: a callback's own fault",
}
PASSED_ON = ["ruined", "lost", *(pytest.param(name, marks=pytest.mark.slow) for name in ("nan", "bug"))]


@pytest.fixture
def run_of(made: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy to change."""
    return lambda name: shutil.copytree(made / name, tmp_path / name)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Say:
    """say(*args) -> (exit code, the lines that a user sees of `zofo ARGS`, warnings too)."""

    def call(*args: object) -> tuple[int, list[str]]:
        capsys.readouterr()
        caplog.clear()
        code = command_line([str(arg) for arg in args])
        shown = capsys.readouterr()
        told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        return code, [*told, *shown.out.splitlines(), *shown.err.splitlines()]

    return call


def verbs(run: Path, out: Path) -> dict[str, list[object]]:
    return {
        "eval": ["eval", run, "--limit", 2],
        "generate": ["generate", run, "--prompt", "a", "--max-new-tokens", 1],
        "export": ["export", run, out],
    }


@pytest.mark.parametrize("name", WORDS)
def test_whoever_opens_it_is_told_once(name: str, run_of: Callable[[str], Path], tmp_path: Path, say: Say) -> None:
    run = run_of(name)
    for verb, args in verbs(run, tmp_path / "out").items():
        code, lines = say(*args)
        assert code == 0, verb
        (line,) = [line for line in lines if WORDS[name] in line]
        assert line.startswith(f"{run}: the run "), verb
        assert ("the best of its evaluations so far, step 4" in line) == (name in ("nan", "interrupted", "bug"))
    for place in (run, tmp_path / "out"):
        if (place / "README.md").exists():
            assert f"**The run {WORDS[name]}" in (place / "README.md").read_text()
    code, lines = say("validate", run)
    assert code == (0 if name == "interrupted" else 1)
    assert len([line for line in lines if WORDS[name] in line]) == 1


@pytest.mark.parametrize("name", PASSED_ON)
def test_an_export_of_it_passes_the_word_on(
    name: str, made: Path, tmp_path: Path, say: Say, caplog: pytest.LogCaptureFixture
) -> None:
    """To eval, to generate, and to a training that starts from it."""
    say("export", made / name, out := tmp_path / "export")
    told = f"{out}: the run that it was exported from {WORDS[name]}"
    for verb, args in verbs(out, tmp_path).items():
        if verb != "export":
            code, lines = say(*args)
            assert (code, len([line for line in lines if line.startswith(told)])) == (0, 1), verb
    caplog.clear()
    if name == "lost":
        options = {**SMALL, "max_steps": 2}
        finetune(str(out), str(made / "rows.jsonl"), SLOW, output_dir=tmp_path / "new", **options)
        assert sum(record.getMessage().startswith(told) for record in caplog.records) == 1


def test_one_that_came_to_its_end_is_no_news(made: Path, tmp_path: Path, say: Say) -> None:
    for args in (*verbs(made / "finished", tmp_path / "out").values(), ["eval", tmp_path / "out"]):
        code, lines = say(*args)
        assert code == 0
        assert not [line for line in lines if "the run" in line.lower()]
    cards = [(place / "README.md").read_text() for place in (made / "finished", tmp_path / "out")]
    assert "**The run" not in "".join(cards)
    code, lines = say("validate", made / "finished")
    assert (code, "outcome: the run came to its end" in lines) == (0, True)


def test_the_readme_of_an_export_says_where_it_was_interrupted_and_what_was_measured(
    made: Path, tmp_path: Path, run_of: Callable[[str], Path], say: Say
) -> None:
    logged = [json.loads(line) for line in (made / "interrupted" / "metrics.jsonl").read_text().splitlines()]
    (dev,) = [row for row in logged if row["event"] == "dev" and row["step"] == 4]
    say("export", made / "interrupted", tmp_path / "so-far")
    text = (tmp_path / "so-far" / "README.md").read_text()
    assert "Test: not measured.\n" in text
    assert re.search(row := rf"\| dev, at step 4 \| \d+ \| {dev['accuracy']:.4f} \| {dev['loss']:.4f} \|\n", text)
    assert "What is here is the best of its evaluations until then, that of step 4." in text
    assert "**The run was interrupted at step 6 of 8.**" in text
    killed = run_of("interrupted")
    forget(killed)
    say("export", killed, tmp_path / "killed")
    text = (tmp_path / "killed" / "README.md").read_text()
    assert "**The run is not finished, its last checkpoint then is of step 4 of 8.**" in text
    with Lease(killed):
        say("export", killed, tmp_path / "going")
    text = (tmp_path / "going" / "README.md").read_text()
    assert "**The run is still going, its last checkpoint then is of step 4 of 8.**" in text
    assert "process" not in text, "whose machine that was is nobody's business"
    assert str(os.getpid()) not in (tmp_path / "going" / "zofo.json").read_text()
    say("export", made / "finished" / "checkpoint-4", tmp_path / "checkpoint")
    text = (tmp_path / "checkpoint" / "README.md").read_text()
    assert re.search(row, text)
    assert "What is here is checkpoint-4 of the run." in text


def forget(run: Path) -> None:
    """As a kill leaves it."""
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["outcome"]
    (run / "manifest.json").write_text(json.dumps(manifest))


@contextmanager
def going(run: Path) -> Iterator[str]:
    """A live process holds its lock: this one."""
    with Lease(run):
        yield f"the run is still going (process {os.getpid()} on "


def test_a_live_run_is_not_called_unfinished(run_of: Callable[[str], Path], tmp_path: Path, say: Say) -> None:
    run = run_of("interrupted")
    forget(run)
    with going(run) as words:
        for verb, args in verbs(run, tmp_path / "out").items():
            code, lines = say(*args)
            assert (code, len([line for line in lines if f"{run}: {words}" in line])) == (0, 1), verb
            assert not [line for line in lines if "resume" in line or "not finish" in line]
        code, lines = say("validate", run)
        assert code == 0
        assert lines[-1].startswith("the run is whole, and is still going")
        (run / "metrics.jsonl").unlink()
        code, lines = say("validate", run)
        assert (code, lines[0].startswith(f"error: {run}: in use by process {os.getpid()} on ")) == (2, True)


def test_a_live_run_without_a_checkpoint_is_waited_for(run_of: Callable[[str], Path], say: Say, tmp_path: Path) -> None:
    """No verb sends its reader to --overwrite or --resume, and then to the first process."""
    run = run_of("early")
    with going(run) as words:
        for verb, args in verbs(run, tmp_path / "out").items():
            code, lines = say(*args)
            assert code == 2, verb
            assert f"error: {run}: no finished run here; {words}" in lines[-1], verb
            assert lines[-1].endswith("has no checkpoint yet: wait"), verb
        code, lines = say("meta-test", run, "--ways", "zero-shot")
        assert (code, f"{run}: no finished run here; {words}" in lines[-1]) == (2, True)
        for more in ([], ["--overwrite"], ["--resume", "latest"], ["train.seed=5"]):
            given = [] if "--resume" in more else [run / "config.yaml"]
            code, lines = say("train", *given, "--output-dir", run, *more)
            assert (code, len(lines)) == (2, 1), more
            assert lines[0].startswith(f"error: {run}: in use by process {os.getpid()} on "), more
            assert "resume" not in lines[0], more
            assert "overwrite" not in lines[0], more
    code, lines = say("eval", run)
    assert lines == [
        f"error: {run}: no finished run here; the run was interrupted at step 2 of 8 before the first checkpoint: "
        f"train again with --overwrite"
    ]


def test_a_run_that_was_at_its_end_and_is_gone_on_with(
    run_of: Callable[[str], Path], tiny_model_dir: Path, say: Say, made: Path
) -> None:
    run = run_of("finished")
    with going(run) as words:
        _, lines = say("eval", run)
        assert f"{run}: the run was at its end, was gone on with and {words.removeprefix('the run ')}" in lines[0]
    with pytest.raises(KeyboardInterrupt):
        finetune(
            *(str(tiny_model_dir), str(made / "rows.jsonl"), SLOW),
            output_dir=run,
            callbacks=[Stop(10, KeyboardInterrupt())],
            **{**SMALL, "max_steps": 12, "resume": "latest"},
        )
    _, lines = say("eval", run)
    step = json.loads((run / "run.json").read_text())["best_step"]
    assert lines[0] == (
        f"{run}: the run was at its end, was gone on with and was interrupted at step 10 of 12; this is the best of "
        f"what it was then, step {step}"
    )
    code, _ = say("train", "--resume", "latest", "--output-dir", run, "--max-steps", 12)
    assert code == 0
    _, lines = say("eval", run)
    assert not [line for line in lines if "the run" in line], "at its end again"


@pytest.mark.parametrize("how", ["interrupted", "killed"])
def test_the_best_of_an_end_that_was_gone_on_from_may_be_gone(
    how: str, tmp_path: Path, tiny_model_dir: Path, say: Say, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pruned for a better one, of a method whose theta is in it: then the better one is what is opened."""
    better = Selection.better  # each evaluation, than the one before
    monkeypatch.setattr(Selection, "better", lambda self, values, best, *at: better(self, values, None, *at))
    full, run = {"name": "fo-ft", "lr": 1e-4}, tmp_path / "run"
    options: dict[str, Any] = {**SMALL, "eval_steps": 2, "save_steps": 2, "save_total_limit": 1, "output_dir": run}
    finetune(str(tiny_model_dir), str(made / "rows.jsonl"), full, **options)
    then = json.loads((run / "run.json").read_text())["best_step"]
    more = {**options, "max_steps": 16, "resume": "latest", "callbacks": [Stop(14, KeyboardInterrupt())]}
    with pytest.raises(KeyboardInterrupt):
        finetune(str(tiny_model_dir), str(made / "rows.jsonl"), full, **more)
    assert not (run / f"best-{then}").exists()
    if how == "killed":
        forget(run)
    words = "is not finished" if how == "killed" else "was interrupted at step 14 of 16"
    for verb, args in verbs(run, tmp_path / "out").items():
        code, lines = say(*args)
        assert (code, len([line for line in lines if f"{run}: the run {words}; this is the best" in line])) == (0, 1), (
            verb
        )
    code, lines = say("validate", run)
    assert code == 0
    assert lines[-1].startswith(f"the run is whole, and {words}: `zofo train --resume latest")


def test_what_stands_in_the_way_of_a_new_run_failed(run_of: Callable[[str], Path], say: Say, made: Path) -> None:
    """Going on is no advice then; going on for all that says what with."""
    run = run_of("ruined")
    code, lines = say("train", run / "config.yaml", "--output-dir", run)
    assert code == 2
    assert f"holds this run already, which {WORDS['ruined']}" in lines[0]
    assert lines[0].endswith("; choose another directory, or replace it (--overwrite)")
    code, lines = say("train", "--resume", "latest", "--output-dir", run, "--max-steps", 10)
    assert code == 1
    assert [line for line in lines if line.startswith(f"{run}: goes on with a run that {WORDS['ruined']}")]
    run = run_of("nan")
    assert evaluate(run)["n"]
    code, lines = say("train", "--resume", "latest", "--output-dir", run)
    assert code == 0
    assert [line for line in lines if line == f"{run}: goes on with a run that {WORDS['nan']}"]
    assert "outcome" not in json.loads((run / "manifest.json").read_text()), "it came to its end"
    assert json.loads((run / "run.json").read_text())["outcome"]["kind"] == "finished"


def test_a_run_of_before_is_of_unknown_outcome(run_of: Callable[[str], Path], say: Say, caplog: Any) -> None:
    run = run_of("finished")
    info = json.loads((run / "run.json").read_text())
    del info["outcome"]
    (run / "run.json").write_text(json.dumps(info))
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["info"]
    (run / "manifest.json").write_text(json.dumps(manifest))
    caplog.clear()
    assert generate(run, ["a"], max_new_tokens=1)
    assert not caplog.records
    code, lines = say("validate", run)
    assert (code, "outcome: not known, of a version that kept none" in lines) == (0, True)
