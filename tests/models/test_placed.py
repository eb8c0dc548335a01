"""model.device_map: one process, several devices. There is one device here; accelerate's hooks are those of several."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import dispatch_model

from zofo.api.finetune import train
from zofo.config.resolve import resolve
from zofo.config.sections import ModelConfig
from zofo.errors import InputError
from zofo.models import placed
from zofo.models.backbone import Loaded
from zofo.models.load import load

MEZO = {"method": {"name": "mezo", "lr": 1e-4}}
BILEVEL = {"method": {"name": "bilevel-zofo", "inner_steps": 1}, "adapter": {"name": "lora", "r": 2}}


def hooked(config: ModelConfig) -> Loaded:
    loaded = load(config)
    assert isinstance(config.device_map, dict)
    dispatch_model(loaded.model, {**config.device_map}, force_hooks=True)
    assert all(hasattr(loaded.model.get_submodule(part), "_hf_hook") for part in ("model", "lm_head"))
    return loaded


def run(model: Path, rows: Path, out: Path, sections: dict[str, Any], load: Callable[..., Loaded], *more: str) -> bytes:
    options = {"output_dir": str(out), "max_steps": 4, "eval_steps": 2, "batch_size": 4, "threads": 1}
    train(resolve(None, more, model=str(model), task=str(rows), train=options, **sections), load=load)
    return (out / "journal.bin").read_bytes()


@pytest.mark.parametrize("sections", [MEZO, BILEVEL], ids=["mezo", "bilevel"])
def test_hooks_meet_stand_ins(
    sections: dict[str, Any], tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path
) -> None:
    plain = run(tiny_model_dir, sentiment_file, tmp_path / "plain", sections, load)
    where = "model.device_map={model: cpu, lm_head: cpu}"
    placed_run = run(tiny_model_dir, sentiment_file, tmp_path / "placed", sections, hooked, where)
    assert placed_run == plain


def test_words_that_go_through(tiny_model_dir: Path) -> None:
    for given in ("auto", {"": "cpu"}):
        loaded = load(ModelConfig(name=str(tiny_model_dir), device_map=given))
        assert loaded.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("where", "words"),
    [({"model": 0, "lm_head": "cpu"}, "lm_head comes to cpu"), ({"model": "cpu", "lm_head": "disk"}, "disk")],
)
def test_offloaded_parts_are_refused(where: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        placed.device_of(SimpleNamespace(hf_device_map=where))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["model.device=cpu"], "leave model.device out"),
        (["model.quantization=int8"], "on one device"),
        (["mask=sensitivity"], "the mask sensitivity"),
    ],
)
def test_refused_beside_it(settings: list[str], words: str, tiny_model_dir: Path, sentiment_file: Path) -> None:
    given = ["model.device_map=auto", "train.output_dir=out", *settings]
    with pytest.raises(InputError, match=words):
        resolve(None, given, model=str(tiny_model_dir), task=str(sentiment_file), method="mezo")


def test_several_processes_are_refused(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="several devices are one process's"):
        load(ModelConfig(name=str(tiny_model_dir), device_map="auto"))
