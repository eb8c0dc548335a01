"""Weights in a file: what is read and written, for every family; what a folder or a checkpoint cannot do."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.forked import run, zofo_main
from tests.offloaded import folder_is_empty, no_room
from tests.tiny_models import FAMILIES, IDS, build
from zofo.config.sections import ModelConfig
from zofo.data.batch import Batch
from zofo.errors import InputError
from zofo.models.label_head import LabelHead
from zofo.models.load import load
from zofo.models.offload import Offload, layers_of
from zofo.zo.direction import Direction
from zofo.zo.grad import ZOGrad
from zofo.zo.paged_point import PagedPoint
from zofo.zo.point import Point


def batch() -> Batch:
    """Three rows with two labels each."""
    rows, length = IDS.shape
    ends = torch.arange(rows) * length
    every, gold = torch.arange(rows), torch.ones(rows, dtype=torch.bool)
    places, labels = torch.cat([ends + 4, ends + 8]), torch.tensor([5, 6, 7] * 2)
    options = every.repeat(2)
    return Batch(IDS, torch.ones_like(IDS), places, labels, options, every, gold, gold, every, rows, IDS.numel())


def updates(theta: Point, head: LabelHead, model: Any, settle: bool) -> list[tuple[float, float]]:
    """Three estimates and updates."""
    values = []
    for step in range(3):
        z = Direction(40 + step)

        def f() -> float:
            return float(head.logprobs(model, batch()).sum())

        plus, minus = theta.sides(f, z, 1e-2, "stochastic")
        values.append((plus, minus))
        theta.add_(ZOGrad(((0.5, z),), 0.0, 2), -1e-3, 9 + step)
        if settle:
            theta.settle()
    return values


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_both_sides_and_updates_in_one_reading(
    family: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of models that read their weights in different ways: Mamba's convolution reads past its module, experts are
    stacked, heads are tied."""
    plain = build(family, dtype)
    known = updates(theta := Point(plain), LabelHead(plain), plain, settle=True)
    no_room(monkeypatch)
    model = build(family, dtype)
    offload = Offload(model, tmp_path)
    offload.move_in()
    there, head = PagedPoint(model, offload, offload.sides), LabelHead(model, offload.sides)
    unread = theta.audit(lambda: LabelHead(plain).logprobs(plain, batch()))
    assert there.audit(lambda: head.logprobs(model, batch())) == unread
    with there.deferring():
        assert updates(there, head, model, settle=False) == known
    for name, param in plain.named_parameters():
        assert torch.equal(dict(model.named_parameters())[name], param), name
    assert folder_is_empty(tmp_path)


def test_a_weight_that_is_read_outside_its_layer_is_moved_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer that reads a weight of the one behind it would find it a step behind."""
    no_room(monkeypatch)

    def spoiled() -> Any:
        model = build("llama")
        first, second = layers_of(model)
        norm: Any = second.input_layernorm
        forward = first.forward
        first.forward = lambda hidden, *a, **k: forward(hidden * norm.weight, *a, **k)
        return model

    plain = spoiled()
    known = updates(Point(plain), LabelHead(plain), plain, settle=True)
    model = spoiled()
    offload = Offload(model, tmp_path)
    offload.move_in()
    theta, head = PagedPoint(model, offload, offload.sides), LabelHead(model, offload.sides)
    theta.audit(lambda: head.logprobs(model, batch()))
    with theta.deferring():
        assert updates(theta, head, model, settle=False) == known


def test_theta_is_settled_for_whoever_reads_it(tmp_path: Path) -> None:
    model, other = build("llama"), build("llama")
    offload = Offload(model, tmp_path)
    offload.move_in()
    theta, plain = PagedPoint(model, offload, offload.sides), Point(other)
    g = ZOGrad(((0.5, Direction(3)),), 0.0, 2)
    plain.add_(g, -1e-3, 9)
    with theta.deferring():
        theta.add_(g, -1e-3, 9)
        assert theta.sha256() == plain.sha256()
        theta.add_(g, -1e-3, 10)
    plain.add_(g, -1e-3, 10)
    moved, reference = dict(model.named_parameters()), dict(other.named_parameters())
    assert all(torch.equal(moved[name], reference[name]) for name in reference)


def test_modes_that_need_all_of_theta_are_refused(tmp_path: Path) -> None:
    model = build("llama")
    offload = Offload(model, tmp_path)
    for mode in ("copy", "inplace"):
        with pytest.raises(ValueError, match=f"in mode {mode}; use layer"):
            PagedPoint(model, offload, offload.sides, mode=mode)


# -------------------------------------------------------------------------------------------------------------- loading


def narrow(model_dir: Path, to: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype).save_pretrained(to, max_shard_size="20KB")
    AutoTokenizer.from_pretrained(model_dir).save_pretrained(to)
    return to


def test_weights_are_widened_on_the_disk(tiny_opt_dir: Path, tmp_path: Path) -> None:
    """In shards, one tensor at a time; what was made for it is gone when the model is there."""
    model = narrow(tiny_opt_dir, tmp_path / "narrow")
    assert len(list(model.glob("*.safetensors"))) > 1
    disk = tmp_path / "disk"
    there = load(ModelConfig(str(model), dtype="float32", offload_folder=str(disk)))
    plain = load(ModelConfig(str(model), dtype="float32"))
    assert Point(there.model).sha256() == Point(plain.model).sha256()
    assert there.dtype == torch.float32
    assert folder_is_empty(disk)
    buffers = dict(plain.model.named_buffers())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in there.model.named_buffers())


def test_weights_are_not_narrowed(tiny_opt_dir: Path, tmp_path: Path) -> None:
    fault = r"are float32, and bfloat16 would be made of them in memory; take model\.dtype"
    with pytest.raises(InputError, match=fault):
        load(ModelConfig(str(tiny_opt_dir), dtype="bfloat16", offload_folder=str(tmp_path)))


def test_what_a_killed_process_left_is_swept(tiny_opt_dir: Path, tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left, used = tmp_path / f".zofo-{gone.pid}-float32", tmp_path / ".zofo-1-float32"
    for path in (left, used, tmp_path / "mine"):
        path.mkdir()
    load(ModelConfig(str(narrow(tiny_opt_dir, tmp_path / "narrow")), dtype="float32", offload_folder=str(tmp_path)))
    assert not left.exists()
    assert used.exists()
    assert (tmp_path / "mine").exists()


def test_what_a_killed_process_of_this_number_left_is_not_read(tiny_opt_dir: Path, tmp_path: Path) -> None:
    """Another model's config.json, say, would stand beside the weights of this one."""
    model, left = narrow(tiny_opt_dir, tmp_path / "narrow"), tmp_path / f".zofo-{os.getpid()}-float32"
    left.mkdir()
    text = (
        (model / "config.json")
        .read_text("utf-8")
        .replace('"activation_function": "relu"', '"activation_function": "gelu"')
    )
    assert "gelu" in text
    (left / "config.json").write_text(text, "utf-8")
    there = load(ModelConfig(str(model), dtype="float32", offload_folder=str(tmp_path)))
    assert there.model.config.activation_function == "relu"
    assert not left.exists()


def _limited(*args: str) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # files cannot grow beyond it, as on a full disk
    zofo_main(*args)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_folder_without_room(dtype: str, tiny_opt_dir: Path, sentiment_file: Path, tmp_path: Path) -> None:
    """For the file, or for the widened copy before it."""
    model = tiny_opt_dir if dtype == "float32" else narrow(tiny_opt_dir, tmp_path / "narrow")
    args = ["train", "--model", str(model), "--task", str(sentiment_file), "--method", "mezo", "model.dtype=float32"]
    done = run(_limited, *args, "--output-dir", str(tmp_path / "run"), f"model.offload_folder={tmp_path / 'disk'}")
    assert done.returncode == 2, done.stderr
    assert "model.offload_folder: " in done.stderr
    assert "has no room for" in done.stderr
    assert "Traceback" not in done.stderr
    assert folder_is_empty(tmp_path / "disk")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tiny_opt_dir: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    offload = Offload(load(ModelConfig(str(tiny_opt_dir))).model, tmp_path)
    with pytest.raises(InputError, match=r"model\.offload_folder: .*: Permission denied"):
        offload.move_in()


def test_a_folder_that_is_a_file(tiny_opt_dir: Path, sentiment_file: Path) -> None:
    offload = Offload(load(ModelConfig(str(tiny_opt_dir))).model, sentiment_file)
    with pytest.raises(InputError, match=r"model\.offload_folder: .*: File exists"):
        offload.move_in()


def test_layers_stay_while_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zofo.models import offload as module
    from zofo.models.room import Room

    model = build("llama")
    layer = sum(p.numel() * 4 for p in layers_of(model)[0].parameters())
    whole = sum(p.numel() * 4 for p in model.parameters())
    outside = whole - 2 * layer
    monkeypatch.setattr(module, "AT_ONCE", 0)
    for free, resident in ((0, 0), ((outside + 1.5 * layer) / 0.6, 1), (2 * whole, 2)):
        monkeypatch.setattr(module, "of_machine", lambda free=free: Room(int(free), int(free), ""))
        offload = Offload(build("llama"), tmp_path)
        offload.move_in()
        assert len(offload.resident) == resident, free
        assert f"{whole / 2**30:.2f} GiB" in offload.words()
