"""A model that is kept between runs: each run's files are those of a run that read it anew, whatever ran before."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.family_runs import METHODS, Directories, adapter_for, save_rows
from tests.tiny_models import FAMILIES, IDS
from zofo.api.configure import resolve
from zofo.api.finetune import train
from zofo.config import registry
from zofo.config.resolve import Config
from zofo.config.sections import ModelConfig
from zofo.models.load import load
from zofo.study.kept_model import KeptModel, Load
from zofo.train.record import peak_bytes, reset_peak

SAME = ("**/journal.bin", "**/*.safetensors", "metrics.jsonl", "eval/*")
RUNS = [("fo-ft", None), ("mezo", "lora"), *(("bilevel-zofo", name) for name in registry.names("adapters"))]
RUNS += [("sparse-mezo", None), ("two-stage", "prefix"), ("fo-ft", None), ("mezo", None)]


def config_of(model: Path, rows: Path, out: Path, method: str, adapter: Any, **options: Any) -> Config:
    options = {"max_steps": 6, "batch_size": 2, "eval_steps": 3, "save_steps": 3, **options}
    sections: dict[str, Any] = {"model": str(model), "task": str(rows), "method": {"name": method, **METHODS[method]}}
    return resolve(None, [], None, train={"output_dir": str(out), **options}, **sections, adapter=adapter)


def digests(root: Path) -> dict[str, str]:
    """Of what a run leaves but for its times."""
    found = {}
    for pattern in SAME:
        for path in sorted(root.glob(pattern)):
            content = path.read_bytes()
            if path.suffix == ".jsonl" and path.parent == root:
                lines = [json.loads(line) for line in content.splitlines()]
                content = repr([{k: v for k, v in line.items() if k != "seconds"} for line in lines]).encode()
            found[str(path.relative_to(root))] = hashlib.sha256(content).hexdigest()
    return found


def test_a_run_after_others_is_what_it_is_alone(family_dir: Directories, tmp_path: Path) -> None:
    model, rows, kept = family_dir("llama"), save_rows(tmp_path), KeptModel()
    for number, (method, adapter) in enumerate(RUNS):
        options: dict[str, Any] = {"gradient_checkpointing": True} if number % 3 == 0 else {}
        out: dict[str, Path] = {}
        for name, how in dict[str, Load | None](kept=kept, alone=None).items():
            out[name] = tmp_path / f"{number}-{name}"
            train(config_of(model, rows, out[name], method, adapter, **options), load=how)
        found = {name: digests(path) for name, path in out.items()}
        assert found["kept"] == found["alone"], (method, adapter)
        assert len(found["kept"]) > 4
    assert kept.built == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_run_moved_is_put_back(family: str, family_dir: Directories, tmp_path: Path) -> None:
    """Of a family whose files transformers rearranges (Mixtral's experts) the model is built again."""
    model, rows, kept = family_dir(family), save_rows(tmp_path), KeptModel()
    of = ModelConfig(name=str(model), device="cpu")
    fresh = load(of)
    before = {name: tensor.clone() for name, tensor in fresh.model.state_dict().items()}
    for number, method in enumerate(("bilevel-zofo", "fo-ft")):
        adapter = adapter_for(family, "lora") if method == "bilevel-zofo" else None
        config = config_of(model, rows, tmp_path / f"run-{number}", method, adapter)
        train(config, load=kept)
        again = kept(config.model)
        after = again.model.state_dict()
        assert list(after) == list(before), "no adapter's layers"
        assert all(bool((after[name] == before[name]).all()) for name in before)
        assert [type(m) for m in again.model.modules()] == [type(m) for m in fresh.model.modules()]
        assert again.model.config.to_dict() == fresh.model.config.to_dict()
        assert not any(parameter.requires_grad for parameter in again.model.parameters())
        assert bool((again.model(IDS).logits == fresh.model(IDS).logits).all())
    assert kept.built == (1 if family != "mixtral" else 4)


def test_another_model_and_files_that_changed_are_read(family_dir: Directories, tmp_path: Path) -> None:
    kept, place = KeptModel(), tmp_path / "model"
    shutil.copytree(family_dir("llama"), place)
    one = kept(ModelConfig(name=str(place)))
    assert kept(ModelConfig(name=str(place))).model is one.model
    assert kept(ModelConfig(name=str(place), dtype="bfloat16")).model is not one.model
    assert kept.built == 2
    shutil.rmtree(place)
    shutil.copytree(family_dir("llama-untied"), place)
    assert not kept(ModelConfig(name=str(place), dtype="bfloat16")).model.config.tie_word_embeddings
    assert kept.built == 3


def test_the_peak_is_counted_anew() -> None:
    import torch

    device = torch.device("cpu")
    held = torch.ones(2**26)  # 256 MiB
    high = peak_bytes(device)
    del held
    reset_peak()
    assert peak_bytes(device) < high - 2**27
