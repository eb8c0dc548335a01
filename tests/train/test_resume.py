"""Real processes killed with SIGKILL and SIGINT, then resumed: the bytes of a run that was never cut."""

from __future__ import annotations

import io
import os
import resource
import shlex
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from tests import forked
from tests.conftest import sentiment_rows, write_rows
from tests.cut import cut
from tests.traces import traces
from zofo.cli import main as cli
from zofo.train.loop import Loop

METHODS = {
    "bilevel-zofo": ["method.inner_steps=3", "method.lr_s=1e-2", "method.lr_theta=1e-5", "train.max_steps=80"],
    "mezo": ["method.lr=1e-4", "train.max_steps=80"],
    "fo-peft": ["method.lr=1e-2", "train.max_steps=80"],
    "bilevel-fo": ["method.inner_steps=3", "method.lr_s=1e-2", "method.lr_theta=1e-4", "train.max_steps=80"],
    "two-stage": ["method.inner_steps=1", "method.lr=1e-2", "method.lr_theta=1e-5", "train.max_steps=80"],
    "mezo-lora": ["--method", "mezo", "--adapter", "lora", "method.lr=1e-3", "train.max_steps=80"],
}
COMMON = [
    "train.eval_steps=24",
    "train.save_steps=20",
    "train.batch_size=4",
    "train.logging_steps=4",
    "train.threads=1",
]


def arguments(model: Path, data: Path, out: Path, method: str, *more: str) -> list[str]:
    fixed = ["--model", str(model), "--task", str(data), "--output-dir", str(out)]
    fixed += [] if "--method" in METHODS[method] else ["--method", method]
    return [*fixed, *METHODS[method], *COMMON, *more]


def resume(out: Path) -> subprocess.CompletedProcess[str]:
    return run(["--output-dir", str(out), "--resume", "latest"])


def run(args: list[str]) -> subprocess.CompletedProcess[str]:
    """`zofo train ARGS` in this process: what libraries take to load is a fifth of a minute's work."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = cli.run(["train", *args])
    return subprocess.CompletedProcess(args, code, out.getvalue(), err.getvalue())


def run_cut(args: list[str], sent: int, call: str, holding: str = "", nth: int = 1) -> subprocess.CompletedProcess[str]:
    """`zofo train ARGS` in a process of its own, which sends itself a signal on the way."""
    return forked.run(cut, str(int(sent)), call, holding, str(nth), "train", *args)


@pytest.fixture(scope="module")
def module_sentiment_file(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "sentiment.jsonl", sentiment_rows(120))


@pytest.fixture(scope="module")
def uncut(tmp_path_factory, tiny_model_dir, module_sentiment_file):
    """One uninterrupted run of each method, made on first need."""
    made: dict[str, Path] = {}

    def get(method: str) -> Path:
        if method not in made:
            out = tmp_path_factory.mktemp("uncut") / method
            done = run(arguments(tiny_model_dir, module_sentiment_file, out, method))
            assert done.returncode == 0, done.stderr
            made[method] = out
        return made[method]

    return get


# One method of each kind in every run of the suite; the others with `make test-slow`
SLOW_ONES = ("mezo", "mezo-lora", "fo-peft", "bilevel-fo", "two-stage")


@pytest.mark.parametrize("method", [pytest.param(m, marks=pytest.mark.slow if m in SLOW_ONES else ()) for m in METHODS])
def test_kill_in_the_middle_and_resume(method, tmp_path, tiny_model_dir, module_sentiment_file, uncut):
    out = tmp_path / "run"
    args = arguments(tiny_model_dir, module_sentiment_file, out, method)
    done = run_cut(args, signal.SIGKILL, "os:rename", "checkpoint-20")
    assert done.returncode == -signal.SIGKILL
    assert (out / "checkpoint-20").is_dir()
    assert not (out / "run.json").exists()
    done = resume(out)
    assert done.returncode == 0, done.stderr
    assert traces(out) == traces(uncut(method))


def test_kill_inside_a_checkpoint(tmp_path, tiny_model_dir, module_sentiment_file, uncut):
    """max_replay_seconds=0 adds theta to every checkpoint; the kill comes when a file of the second one is written."""
    out = tmp_path / "run"
    args = arguments(tiny_model_dir, module_sentiment_file, out, "bilevel-zofo", "train.max_replay_seconds=0")
    done = run_cut(args, signal.SIGKILL, "zofo.models.adapters._set:save_tensors", ".checkpoint-40.tmp", 2)
    assert done.returncode == -signal.SIGKILL
    assert (out / "checkpoint-20").is_dir()
    assert any((out / ".checkpoint-40.tmp").rglob("*.safetensors"))
    done = resume(out)
    assert done.returncode == 0, done.stderr
    ours, theirs = traces(out), traces(uncut("bilevel-zofo"))
    assert ours["run"] == theirs["run"]
    assert ours["metrics"] == theirs["metrics"]
    assert all(ours[name] == theirs[name] for name in theirs)  # ours has snapshots of theta besides
    assert not any(out.glob(".checkpoint-*.tmp"))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupt_saves_and_resumes(sent, tmp_path, tiny_model_dir, module_sentiment_file, uncut):
    out = tmp_path / "run"
    args = arguments(tiny_model_dir, module_sentiment_file, out, "bilevel-zofo")
    done = run_cut(args, sent, "zofo.objectives._loss:Loss.backward", nth=8)  # inside a round
    shown = done.stderr
    assert done.returncode == 128 + sent
    assert "finishing this round of 4 updates" in shown
    assert "saved in " in shown
    assert "--resume latest" in shown
    assert "Traceback" not in shown
    saved = [p.name for p in out.glob("checkpoint-*")]
    assert saved
    done = resume(out)
    assert done.returncode == 0, done.stderr
    ours, theirs = traces(out), traces(uncut("bilevel-zofo"))
    assert ours["run"] == theirs["run"]
    assert ours["journal.bin"] == theirs["journal.bin"]
    assert ours["checkpoint-80/state.safetensors"] == theirs["checkpoint-80/state.safetensors"]


def test_what_a_process_ignores_stays_ignored(tmp_path, tiny_model_dir, module_sentiment_file, uncut):
    """As under nohup: the terminal goes, the run stays."""
    out = tmp_path / "run"
    args = arguments(tiny_model_dir, module_sentiment_file, out, "bilevel-zofo")
    call = "zofo.objectives._loss:Loss.backward"
    done = forked.run(cut, str(int(signal.SIGHUP)), call, "", "8", "train", *args, ignored=[signal.SIGHUP])
    assert done.returncode == 0, done.stderr
    assert traces(out)["run"] == traces(uncut("bilevel-zofo"))["run"]


@contextmanager
def heard(number):
    """A shell's background job ignores SIGINT, and what a process ignores stays ignored."""
    before = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize(
    ("sent", "at"),
    [
        (signal.SIGINT, 24),
        (signal.SIGTERM, 3),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in ((signal.SIGINT, 3), (signal.SIGTERM, 24))),
    ],
)
def test_both_lines_of_an_interrupt_say_what_is_kept_and_what_goes_on(
    sent, at, tmp_path, tiny_model_dir, module_sentiment_file, monkeypatch
):
    """Before the first checkpoint and after it, one signal and two at once; each command that is offered works."""
    out = tmp_path / "a run"
    args = arguments(tiny_model_dir, module_sentiment_file, out, "mezo", "train.max_steps=30")
    for number in (1, 2):
        real, calls = Loop._step, [0]

        def step(self, number=number, real=real, calls=calls):
            real(self)
            calls[0] += 1
            if calls[0] == at:
                for _ in range(number):
                    os.kill(os.getpid(), sent)
                    time.sleep(0)  # a signal's handler runs between two instructions

        with monkeypatch.context() as patch, heard(sent):
            patch.setattr(Loop, "_step", step)
            done = run([*args, *(["--overwrite"] if number == 2 else [])])
        assert done.returncode == 128 + sent
        go_on = f"zofo train --resume latest --output-dir '{out}'"
        begin, *second = [line for line in done.stderr.splitlines() if line.startswith(("interrupted: ", "stopped "))]
        assert f"1 update, then saving, to go on with `{go_on}`" in begin
        kept = "what checkpoint-20 holds" if at > 20 else "nothing kept, since there is no checkpoint yet"
        assert begin.endswith(f"again to stop at once, with {kept}")
        if number == 1:
            assert f"saved in {out / f'checkpoint-{at}'}; go on with `{go_on}`, or resume='latest' in" in done.stderr
            command = go_on
        else:
            command = go_on if at > 20 else f"zofo train '{out / 'config.yaml'}' --overwrite"
            way = f"go on with `{command}`" if at > 20 else f"start again with `{command}`"
            assert second[0].startswith(f"stopped at once, at step {at} of 30, with {kept}; {way}")
            assert "saved in" not in done.stderr
        assert run(shlex.split(command)[2:]).returncode == 0


def test_a_checkpoint_cut_short_is_refused(tmp_path, uncut):
    out = tmp_path / "run"
    shutil.copytree(uncut("bilevel-zofo"), out)
    victim = out / "checkpoint-80" / "s" / "adapter_model.safetensors"
    victim.write_bytes(victim.read_bytes()[:-10])
    done = run(["--output-dir", str(out), "--resume", str(out / "checkpoint-80")])  # latest would pass it over
    assert done.returncode == 2
    assert "checkpoint-80/s/adapter_model.safetensors" in done.stderr
    assert "cut short" in done.stderr
    assert "Traceback" not in done.stderr


def test_more_steps_go_on_from_a_finished_run(tmp_path, tiny_model_dir, module_sentiment_file, uncut):
    out = tmp_path / "run"
    args = arguments(tiny_model_dir, module_sentiment_file, out, "mezo", "train.max_steps=40")
    done = run(args)
    assert done.returncode == 0, done.stderr
    done = run([*args, "train.max_steps=80", "--resume", "latest"])
    assert done.returncode == 0, done.stderr
    assert (out / "journal.bin").read_bytes() == (uncut("mezo") / "journal.bin").read_bytes()


def test_other_settings_are_refused_on_resume(tmp_path, tiny_model_dir, module_sentiment_file, uncut):
    out = tmp_path / "run"
    shutil.copytree(uncut("mezo"), out)
    args = arguments(tiny_model_dir, module_sentiment_file, out, "mezo", "method.lr=3e-4", "--resume", "latest")
    done = run(args)
    assert done.returncode == 2
    assert "method.lr: the run has 0.0001, this command 0.0003" in done.stderr


@pytest.mark.parametrize(
    "method", ["bilevel-zofo", *(pytest.param(m, marks=pytest.mark.slow) for m in ("mezo", "fo-peft", "bilevel-fo"))]
)
def test_a_full_disk_is_one_line_and_the_run_goes_on(method, tmp_path, tiny_model_dir, module_sentiment_file, uncut):
    """A file-size limit makes the kernel refuse writes part of the way into a run, as a full disk does."""
    uncut(method)  # compiled kernels are cached by now: only the run itself writes
    out = tmp_path / "run"
    args = arguments(tiny_model_dir, module_sentiment_file, out, method, "train.max_replay_seconds=0")
    done = forked.run(with_small_files, "12", "train", *args)  # KiB: the first checkpoint fits for no method
    assert done.returncode == 1, done.stderr
    assert "no space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(out.glob(".*.tmp"))


def with_small_files(limit: str, *args: str) -> None:
    """zofo ARGS, no file of which may be larger than so many KiB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit) << 10, int(limit) << 10))
    forked.zofo_main(*args)
