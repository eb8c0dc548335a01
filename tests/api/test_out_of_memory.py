"""Memory that runs out at each part of a command: one line, three ways out, exit code 1, the last checkpoint whole."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch

from tests.fuzz.world import World
from tests.setting_files import task_args
from zofo import finetune
from zofo.api import out_of_memory as oom
from zofo.cli.main import run as command_line
from zofo.errors import InputError, OutOfMemory, RunError, during, out_of_memory
from zofo.train.run_dir import RunDir

CPU = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
KINDS: dict[str, Callable[[], Exception]] = {
    "Python": MemoryError,
    "torch on a CPU": lambda: RuntimeError(f"{CPU} 8 bytes. Error code 12 (Cannot allocate memory)"),
    "torch on CUDA": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has"),
    "the system": lambda: OSError(12, "Cannot allocate memory"),
}
# part that the line must name: (module, attribute, the call from 1 that fails, more settings)
BILEVEL = "--method bilevel-zofo method.inner_steps=1 adapter.r=2"
MANAGER = "zofo.train.checkpoint_manager.CheckpointManager"
TRAIN: dict[str, tuple[str, str, int, str]] = {
    "loading the model": ("transformers.AutoModelForCausalLM", "from_pretrained", 1, BILEVEL),
    "building the adapters": ("zofo.models.adapters.lora.Adapter", "build", 1, BILEVEL),
    "preparing the run": ("zofo.train.setup", "tokenize_task", 1, BILEVEL),
    "the first forward": ("zofo.zo.point.Point", "audit", 1, BILEVEL),
    "the lower update at step 0": ("torch.optim.AdamW", "step", 1, BILEVEL),  # its moments are made then
    "the upper update at step 0": ("zofo.objectives._loss.Loss", "each", 1, BILEVEL),
    "the upper update at step 6": ("zofo.zo.point.Point", "add_", 4, BILEVEL),
    "the lower update at step 6": ("zofo.objectives._loss.Loss", "backward", 10, BILEVEL),
    "the dev evaluation at step 4": ("zofo.eval.likelihood", "eval_parts", 3, BILEVEL),
    "saving the best so far at step 2": (MANAGER, "_write_adapters", 1, BILEVEL),
    "saving a checkpoint at step 8": ("zofo.train.checkpoint", "save_tensors", 2, BILEVEL),
    "the test evaluation": ("zofo.eval.likelihood", "eval_parts", 9, BILEVEL),
    "the upper update at step 0, fo-ft": ("torch.optim.AdamW", "step", 1, "--method fo-ft"),
    "the upper update at step 1, mezo": ("zofo.zo.point.Point", "add_", 2, "--method mezo estimator.shift=copy"),
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("memory"))
    _ = made.model, made.rows
    return made


def failing(monkeypatch: pytest.MonkeyPatch, place: str, name: str, call: int, error: Exception) -> list[int]:
    """`place.name` raises `error` at this call (from 1) and at all that follow."""
    owner = resolve_name(place)
    real, calls = getattr(owner, name), []

    def sometimes(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) >= call:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, sometimes)
    return calls


def train(world: World, out: Path, settings: str, *more: str) -> int:
    fixed = ["train", "--model", str(world.model), "--task", str(world.rows), "--output-dir", str(out)]
    few = "train.batch_size=4 train.max_steps=8 train.eval_steps=2 train.save_steps=4 train.threads=1"
    few += " task.train_examples=12 task.dev_examples=4 task.test_examples=4"
    return command_line([*fixed, *settings.split(), *few.split(), *more])


def the_line(said: str) -> str:
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, said
    return lines[0]


REAL = oom.asked


@pytest.fixture(autouse=True)
def without_a_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process takes seconds; `test_what_is_predicted` has it."""

    def asked(*_: Any) -> Any:
        raise RunError("left out here")

    monkeypatch.setattr(oom, "asked", asked)


# Every other one in every run of the suite; all with `make test-slow`
@pytest.mark.parametrize(
    "number",
    [pytest.param(n, id=part, marks=pytest.mark.slow if n % 2 else ()) for n, part in enumerate(TRAIN)],
)
def test_a_run_says_where_and_what_helps(
    number: int, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The kinds of errors take turns over the parts."""
    part, (place, name, call, settings) = list(TRAIN.items())[number]
    kind = list(KINDS)[number % len(KINDS)]
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        failing(patch, place, name, call, KINDS[kind]())
        assert train(world, out, settings) == 1
    line = the_line(capsys.readouterr().err)
    assert line.startswith(f"error: out of memory in {part.partition(',')[0]}: ")
    assert re.search(r": the process (held|took) [\d.]+ [GM]iB.* and (may have )?[\d.]+ [GM]iB", line)
    assert "; not predicted (left out here); " in line
    options = line.partition("less is taken by ")[2].partition("; ")[0].split(", or ")
    assert len(options) == 3
    assert len(line) <= 800
    present = RunDir(out).checkpoints()
    if present:
        RunDir(out).verify_checkpoint(present[-1])
        go_on = re.search(rf"(checkpoint-\d+) is kept: go on with `zofo train --resume latest --output-dir {out}", line)
        assert go_on is not None
        assert go_on[1] == present[-1].name
        changed = re.search(r"--output-dir \S+ (train\S+?)`", line)
        capsys.readouterr()
        assert train(world, out, settings, "--resume", "latest", *([changed[1]] if changed else [])) == 0
    else:
        assert "nothing was saved; start again" in line
        assert ("--overwrite" in line) == bool(RunDir(out).ours())


VERBS = {
    "the evaluation": (["eval"], "zofo.eval.likelihood", "eval_parts"),
    "loading the model": (["eval"], "transformers.AutoModelForCausalLM", "from_pretrained"),
    "generation": (["generate", "--prompt", "a"], "zofo.api.generate", "decode"),
}


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        pytest.param(part, kind, marks=() if i % len(KINDS) == j else pytest.mark.slow)
        for i, part in enumerate(VERBS)
        for j, kind in enumerate(KINDS)
    ],
)
def test_other_verbs(
    part: str, kind: str, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verb, place, name = VERBS[part]
    _ = world.mezo
    capsys.readouterr()
    with monkeypatch.context() as patch:
        failing(patch, place, name, 1, KINDS[kind]())
        target = (
            [verb[0], str(world.mezo), *verb[1:]] if verb[0] != "generate" else [*verb[:1], str(world.mezo), *verb[1:]]
        )
        assert command_line(target) == 1
    line = the_line(capsys.readouterr().err)
    assert line.startswith(f"error: out of memory in {part}: the process ")
    assert len(line.partition("less is taken by ")[2].partition("; ")[0].split(", or ")) == 3


def test_an_export_says_so_too(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _ = world.mezo
    capsys.readouterr()
    failing(monkeypatch, "transformers.PreTrainedModel", "save_pretrained", 1, MemoryError())
    assert command_line(["export", str(world.mezo), str(tmp_path / "export")]) == 1
    line = the_line(capsys.readouterr().err)
    assert line.startswith("error: out of memory")
    assert "less is taken by" in line


LATER = {  # what a second start does: (module, attribute, settings)
    "going back to a checkpoint": ("zofo.train.checkpoint_manager", "replay", ""),
    "going back to the best evaluation": ("zofo.train.checkpoint_manager", "move_theta", "method.lr=3e-2"),
}


@pytest.mark.parametrize("part", LATER)
def test_a_resume(
    part: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its last checkpoint is whole afterwards, and a start that has the memory ends as one that was left alone."""
    place, name, more = LATER[part]
    out = tmp_path / "out"
    assert train(world, out, "--method mezo", *more.split()) == 0
    numbers = json.loads((out / "run.json").read_text())["test"]
    with monkeypatch.context() as patch:
        calls = failing(patch, place, name, 1, MemoryError())
        assert train(world, out, "--method mezo", *more.split(), "--resume", "latest") == 1
        assert calls
    line = the_line(capsys.readouterr().err)
    assert line.startswith(f"error: out of memory in {part}")
    assert "checkpoint-8 is kept: go on with `zofo train --resume latest --output-dir" in line
    assert train(world, out, "--method mezo", *more.split(), "--resume", "latest") == 0
    assert json.loads((out / "run.json").read_text())["test"] == numbers


def test_a_meta_test(
    tiny_model_dir: Path, small_setting: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, "zofo.eval.likelihood", "eval_parts", 1, MemoryError())
    assert command_line(["meta-test", str(tiny_model_dir), *task_args(small_setting), "--ways", "zero-shot"]) == 1
    assert the_line(capsys.readouterr().err).startswith("error: out of memory in the meta-test: the process ")


def test_what_is_no_lack_of_memory() -> None:
    for error in (ValueError("out of memory"), RuntimeError("size mismatch"), OSError(28, "no space"), KeyError("x")):
        assert not out_of_memory(error)
        with pytest.raises(type(error)), during("a part"):
            raise error
    refused = InputError("cannot load")
    refused.__cause__ = MemoryError()  # a library's error made into one of ours
    assert out_of_memory(refused)


def test_the_innermost_part_names_it() -> None:
    with pytest.raises(OutOfMemory, match=r"^out of memory in the inner$"), during("the outer"), during("the inner"):
        raise MemoryError


def test_options_are_those_that_are_not_used(world: World) -> None:
    from zofo.api.configure import resolve

    def settings(*more: str) -> set[str]:
        sections: dict[str, Any] = {
            "model": str(world.model),
            "task": str(world.rows),
            "method": "bilevel-zofo",
            "adapter": "lora",
        }
        config = resolve(None, more, None, train={"output_dir": "x"}, source="caller", **sections)
        return {option.setting.partition("=")[0] for option in oom.options_of(config)}

    plain = settings()
    assert {"train.micro_batch_size", "train.gradient_checkpointing", "model.dtype", "train.eval_batch_size"} <= plain
    assert "estimator.shift" not in plain
    used = settings(
        *("train.micro_batch_size=1", "train.gradient_checkpointing=true", "model.dtype=bfloat16"),
        *("train.eval_batch_size=1", "estimator.shift=copy", "rule=adamw"),
    )
    assert used >= {"estimator.shift", "rule.state"}
    assert not used & {"train.micro_batch_size", "train.gradient_checkpointing", "model.dtype", "train.eval_batch_size"}


def test_a_prediction_that_fails_is_left_out(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process has no memory either, or it is a model of which nothing can be predicted."""
    monkeypatch.setattr(oom, "asked", REAL)
    failing(monkeypatch, "zofo.objectives._loss.Loss", "each", 1, MemoryError())
    failing(monkeypatch, "subprocess", "run", 1, OSError(12, "Cannot allocate memory"))
    words = r"not predicted \(\[Errno 12\] Cannot allocate memory\); less is taken by train\.micro_batch_size=4, or "
    with pytest.raises(RunError, match=words):
        finetune(str(world.model), str(world.rows), "mezo", output_dir=tmp_path / "out", max_steps=2)


@pytest.mark.slow
def test_what_is_predicted(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The option that takes least in this part comes first, with what it saves."""
    monkeypatch.setattr(oom, "asked", REAL)
    place, name, call, _ = TRAIN["the first forward"]
    failing(monkeypatch, place, name, call, MemoryError())
    assert train(world, tmp_path / "out", "--method mezo") == 1
    line = the_line(capsys.readouterr().err)
    assert re.search(
        r"; predicted [\d.]+ [GM]iB .*?; less is taken by model\.dtype=bfloat16 \([\d.]+ [GM]iB less", line
    )


LIMITED = """
import resource, sys, torch, zofo.api.finetune, zofo.train.setup
from pathlib import Path
from zofo.cli.main import run
from zofo.cli.memory import process_bytes
torch.set_num_threads(1)
process_bytes()  # compiles kernels, which takes as much where none are kept
torch.ones(64, 64) @ torch.ones(64, 64)
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv[1]) * 2**20, resource.RLIM_INFINITY))
sys.exit(run(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the limit of addresses is Linux's")
@pytest.mark.parametrize(("batch", "part"), [(4, ""), (6_000, "the (lower|upper) update at step 0")])
def test_a_real_limit(batch: int, part: str, world: World, tmp_path: Path) -> None:
    """A process that may have 400 MiB more: enough for a batch of 4, not for one of 6,000. It ends by itself."""
    out = tmp_path / "out"
    settings = [*f"{BILEVEL} train.batch_size={batch} train.max_steps=4 train.threads=1".split()]
    settings += [f"task.{split}_examples={n}" for split, n in (("train", 12), ("dev", 4), ("test", 4))]
    fixed = ["--model", str(world.model), "--task", str(world.rows), "--output-dir", str(out)]
    command = [sys.executable, "-c", LIMITED, "400", "train", *fixed, *settings]
    child = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if not part:
        assert (child.returncode, "this run needs" in child.stderr) == (0, False), child.stderr[-800:]
        return
    assert re.search(r"this run needs about .*, and .* of addresses \(ulimit -v\) are free", child.stderr)
    assert child.returncode == 1, child.stderr[-800:]
    line = the_line(child.stderr)
    assert re.match(rf"error: out of memory in {part}: the process took [\d.]+ GiB of addresses at most, and may", line)
    assert "less is taken by train.micro_batch_size=" in line


@pytest.mark.parametrize("code", [28, 122, 120, 30, 5])
def test_a_disk_error_of_a_library_is_no_lack_of_memory(code: int) -> None:
    """safetensors says its errors of the disk as texts: a quota's has number 122, and memory's 12."""
    failed = type("SafetensorError", (Exception,), {"__module__": "safetensors_rust"})
    assert not out_of_memory(failed(f"Error while serializing: I/O error: {os.strerror(code)} (os error {code})"))
    assert out_of_memory(failed("Error while serializing: I/O error: Cannot allocate memory (os error 12)"))
    assert out_of_memory(failed("I/O error (os error 12)"))
