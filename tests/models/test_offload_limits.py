"""Weights in a file: models of odd shapes, and what is left when a model is gone."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.offloaded import no_room
from tests.tiny_models import IDS, build
from zofo.models.offload import Offload
from zofo.zo.direction import Direction
from zofo.zo.grad import ZOGrad
from zofo.zo.paged_point import PagedPoint
from zofo.zo.point import Point

STEP = ZOGrad(((0.5, Direction(3)),), 0.0, 2)


def odd(model: Any) -> None:
    """Tensors of no, one and three elements, and one without a dimension."""
    for layer in model.model.layers:
        for name, values in (("none", torch.empty(0)), ("one", torch.tensor(2.0)), ("three", torch.ones(3))):
            layer.register_parameter(name, nn.Parameter(values))


def shared(model: Any) -> None:
    """All layers are one, as ALBERT's."""
    model.model.layers[1] = model.model.layers[0]


def again(model: Any) -> None:
    """The first layer comes once more at the end."""
    model.model.layers.append(model.model.layers[0])
    model.config.num_hidden_layers = 3


def larger(model: Any) -> None:
    """The second layer is larger than the first, by less than a page."""
    model.model.layers[1].register_parameter("more", nn.Parameter(torch.ones(1023)))


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("change", [odd, shared, again, larger])
def test_models_of_odd_shapes(change: Callable[[Any], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_room(monkeypatch)
    plain, model = build("llama"), build("llama")
    change(plain)
    change(model)
    offload = Offload(model, tmp_path)
    offload.move_in()
    theta, reference = PagedPoint(model, offload, offload.sides), Point(plain)
    theta.audit(lambda: logits(model))
    with theta.deferring():
        for step in range(3):
            theta.add_(STEP, -1e-3, step)
            reference.add_(STEP, -1e-3, step)
            assert torch.equal(logits(model), logits(plain))
    assert theta.sha256() == reference.sha256()


def test_a_disk_that_is_opened_past_the_cache_and_not_read_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one with larger blocks than a page: layers are read where they are mapped."""
    no_room(monkeypatch)

    def refuse(*_: Any) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "preadv", refuse)
    plain, model = build("llama"), build("llama")
    offload = Offload(model, tmp_path)
    offload.move_in()
    theta = PagedPoint(model, offload, offload.sides)
    with theta.deferring():
        theta.add_(STEP, -1e-3, 9)
        Point(plain).add_(STEP, -1e-3, 9)
        assert torch.equal(logits(model), logits(plain))


def test_nothing_is_left_of_a_model_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An open file without a name keeps its place on the disk."""
    no_room(monkeypatch)

    def use() -> None:
        model = build("llama")
        offload = Offload(model, tmp_path)
        offload.move_in()
        theta = PagedPoint(model, offload, offload.sides)
        with theta.deferring():
            theta.add_(STEP, -1e-3, 9)
            theta.sides(lambda: logits(model), Direction(4), 1e-3, "stochastic")

    def files() -> int:
        links = [Path("/proc/self/fd") / number for number in os.listdir("/proc/self/fd")]
        return sum(str(tmp_path) in os.readlink(link) for link in links if link.is_symlink())

    use()
    gc.collect()
    assert files() == 0


@torch.no_grad()
def test_between_forwards_weights_are_where_they_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is taken of them then keeps its values, what is written to them is not lost."""
    no_room(monkeypatch)
    plain, model = build("llama"), build("llama")
    offload = Offload(model, tmp_path)
    offload.move_in()
    PagedPoint(model, offload, offload.sides)
    logits(model)
    taken = model.state_dict()
    logits(model)
    assert all(torch.equal(values, taken[name]) for name, values in plain.state_dict().items())
    for each in (plain, model):
        for param in each.parameters():
            param.mul_(1.5)
    for _ in range(2):
        assert torch.equal(logits(model), logits(plain))


def test_updates_that_wait_are_made_where_weights_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay behind a forward, whose last layer was in a memory of its own."""
    no_room(monkeypatch)
    plain, model = build("llama"), build("llama")
    offload = Offload(model, tmp_path)
    offload.move_in()
    theta, reference = PagedPoint(model, offload, offload.sides), Point(plain)
    monkeypatch.setattr(PagedPoint, "_end", lambda *_: None)  # as of a forward that was cut
    logits(model)
    for each in (theta, reference):
        with each.waiting():
            each.add_(STEP, -1e-3, 9)
    assert theta.sha256() == reference.sha256()


def test_weights_that_were_given_other_memory_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_room(monkeypatch)
    model = build("llama")
    offload = Offload(model, tmp_path)
    offload.move_in()
    PagedPoint(model, offload, offload.sides)
    model.to(torch.float64)
    with pytest.raises(RuntimeError, match=r"model\.layers\.0\..* was moved, cast or given other memory"):
        logits(model)


@pytest.mark.parametrize("way", ["preadv", "pwritev"])
def test_a_disk_that_fails_is_told(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its folder, whatever was under way; nothing waits for a memory that is lost."""
    no_room(monkeypatch)
    model = build("llama")
    offload = Offload(model, tmp_path)
    offload.move_in()
    theta = PagedPoint(model, offload, offload.sides)

    def fail(*_: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, way, fail)

    def train() -> None:
        with theta.deferring():
            for step in range(6):
                theta.add_(STEP, -1e-3, step)
                theta.sides(lambda: logits(model), Direction(4), 1e-3, "stochastic")

    with pytest.raises(OSError, match="Input/output error") as caught:
        train()
    assert caught.value.filename == str(tmp_path)
