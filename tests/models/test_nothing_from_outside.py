"""Of a model's directory only what lies in it is read, whatever its files name; and no pickle, wherever one lies."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import llama_config, make_tokenizer, save_tiny, sentiment_rows, write_rows
from tests.strangers import change
from zofo import InputError, evaluate, export, finetune, generate, load, train
from zofo.config.resolve import resolve
from zofo.config.sections import ModelConfig
from zofo.models.load import load as load_model

SMALL: dict[str, Any] = {"max_steps": 4, "batch_size": 2, "eval_steps": 2, "save_steps": 2}
LORA = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model, of other sizes, with another tokenizer: what of it is read would show."""
    tokenizer = make_tokenizer(vocab_size=330)
    return save_tiny(tmp_path_factory.mktemp("outside"), llama_config(tokenizer, tied=False), tokenizer)


def names(outside: str) -> dict[str, tuple[str, dict[str, Any]]]:
    files = {"tokenizer_file": f"{outside}/tokenizer.json", "vocab_file": f"{outside}/tokenizer.json"}
    more = {"added_tokens_file": f"{outside}/tokenizer.json", "special_tokens_map_file": f"{outside}/config.json"}
    adapter = {**LORA, "base_model_name_or_path": outside}
    return {
        "tokenizer's files": ("tokenizer_config.json", {**files, **more}),
        "tokenizer of a class": ("tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer", **files}),
        "tokenizer of two files": ("tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", **files, **more}),
        "tokenizer's name": ("tokenizer_config.json", {"name_or_path": outside, "_name_or_path": outside}),
        "tokenizer by version": (
            "tokenizer_config.json",
            {"fast_tokenizer_files": [f"{outside}/tokenizer.4.0.0.json"]},
        ),
        "model's name": ("config.json", {"_name_or_path": outside, "name_or_path": outside}),
        "model by version": ("config.json", {"configuration_files": [f"config.4.0.0.json/../{outside}/config.json"]}),
        "weights": ("config.json", {"transformers_weights": f"{outside}/model.safetensors"}),
        "adapter": ("adapter_config.json", adapter),
        "generation": ("generation_config.json", {"custom_generate": outside, "assistant_model": outside}),
    }


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("what", names(""))
def test_what_a_file_names_outside_is_not_read(
    what: str, relative: bool, tiny_model_dir: Path, outside: Path, tmp_path: Path
) -> None:
    directory = shutil.copytree(tiny_model_dir, tmp_path / "model")
    file, fields = names(os.path.relpath(outside, directory) if relative else str(outside))[what]
    if not (directory / file).exists():
        (directory / file).write_text("{}")
    change(directory / file, **fields)
    plain = load_model(ModelConfig(name=str(tiny_model_dir)))
    loaded = None
    with contextlib.suppress(InputError):  # refusing it is right too
        loaded = load_model(ModelConfig(name=str(directory)))
    if loaded is None:
        return
    ours = loaded.tokenizer.get_vocab()  # GPT-2's class adds an end of its own
    assert plain.tokenizer.get_vocab().items() <= ours.items()
    assert len(ours) <= len(plain.tokenizer.get_vocab()) + 1
    theirs = plain.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in loaded.model.state_dict().items())


def test_an_adapter_beside_a_model_does_not_lead_to_another_one(
    tiny_model_dir: Path, outside: Path, tmp_path: Path
) -> None:
    """transformers reads the model that adapter_config.json names in place of the one that was given."""
    directory = shutil.copytree(tiny_model_dir, tmp_path / "model")
    (directory / "adapter_config.json").write_text(json.dumps({**LORA, "base_model_name_or_path": str(outside)}))
    rows = write_rows(tmp_path / "rows.jsonl", sentiment_rows(24))
    with pytest.raises(InputError, match=r"adapter_config\.json: an adapter beside a whole model"):
        finetune(str(directory), str(rows), "mezo", output_dir=tmp_path / "out", **SMALL)
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------------------ pickles


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.mark), "w")


NAMES = [
    *("pytorch_model.bin", "model.bin", "adapter_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt"),
    *("rng_state.pth", "rng_state_0.pth", "scaler.pt", "state.pkl", "data.pkl", "cache.pickle", "tokenizer.pkl"),
    *("theta.pt", "journal.pkl", "tf_model.h5", "flax_model.msgpack", "train.npy", "train.npz", "model.ckpt"),
    *("dataset.arrow.pkl", "prompt_encoder.pt", "data.joblib"),
]


@pytest.fixture
def plant(tmp_path: Path) -> Callable[[Path], None]:
    """plant(folder): pickles under all the names that a library could look for, in all of its folders."""
    bomb = pickle.dumps(Bomb(tmp_path / "marker"))
    with contextlib.suppress(Exception):  # the bomb is one: whoever loads it writes the marker
        pickle.loads(bomb)
    assert (tmp_path / "marker").exists()
    (tmp_path / "marker").unlink()

    def do(folder: Path) -> None:
        for place in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
            for name in NAMES:
                (place / name).write_bytes(bomb)
            torch.save(Bomb(tmp_path / "marker"), place / "zip_model.bin")
            shutil.copy(place / "zip_model.bin", place / "consolidated.00.pth")
            np.save(place / "array.npy", np.array([Bomb(tmp_path / "marker")], dtype=object), allow_pickle=True)

    return do


def test_no_pickle_is_read(tiny_model_dir: Path, tmp_path: Path, plant: Callable[[Path], None]) -> None:
    model = shutil.copytree(tiny_model_dir, tmp_path / "model")
    data = tmp_path / "data"
    write_rows(data / "train.jsonl", sentiment_rows(24))
    write_rows(data / "test.jsonl", sentiment_rows(30)[24:])
    plant(model)
    plant(data)
    start: dict[str, Any] = {"output_dir": tmp_path / "run", **SMALL}
    run = finetune(str(model), str(data), "bilevel-zofo", "lora", overrides=["method.inner_steps=1"], **start)
    plant(run.path)
    assert evaluate(run.path) == pytest.approx(run.test, rel=1e-6)
    config = resolve(str(run.path / "config.yaml"), ["train.resume=latest", "train.max_steps=6"])
    train(config)
    for merge in (True, False):
        out = export(run.path, tmp_path / f"export-{merge}", merge=merge)
        plant(out)
        evaluate(out)
        generate(out, ["film"], max_new_tokens=2)
        load(out)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "model.safetensors.index.json", "model.safetensors"])
def test_a_pickle_in_place_of_the_weights_is_refused(weights: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(tiny_model_dir, tmp_path / "model")
    bomb = pickle.dumps(Bomb(tmp_path / "marker"))
    (directory / "model.safetensors").unlink()
    if weights.endswith("json"):
        (directory / weights).write_text(json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": "b.bin"}}))
        (directory / "b.bin").write_bytes(bomb)
    else:
        (directory / weights).write_bytes(bomb)
    with pytest.raises(InputError, match=r"pickle|is damaged"):
        load_model(ModelConfig(name=str(directory)))
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("where", ["adapter_model.bin", "adapter_model.safetensors", "prompt_init.bin"])
def test_a_pickle_in_place_of_an_adapter_is_refused(where: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    directory, bomb = tmp_path / "adapter", pickle.dumps(Bomb(tmp_path / "marker"))
    directory.mkdir()
    (directory / where).write_bytes(bomb)
    config: dict[str, Any] = {**LORA, "base_model_name_or_path": str(tiny_model_dir)}
    if where == "prompt_init.bin":
        from safetensors.torch import save_file

        config = {"peft_type": "MULTITASK_PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 2}
        config |= {"prompt_tuning_init": "EXACT_SOURCE_TASK", "num_tasks": 1, "num_ranks": 1, "token_dim": 32}
        config |= {"prompt_tuning_init_state_dict_path": str(directory / where), "num_layers": 2}
        config |= {"num_transformer_submodules": 1, "base_model_name_or_path": str(tiny_model_dir)}
        save_file({"prompt_embeddings": torch.zeros(2, 32)}, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text(json.dumps(config))
    rows = write_rows(tmp_path / "rows.jsonl", sentiment_rows(24))
    said = "names another file" if where == "prompt_init.bin" else str(directory)
    with pytest.raises(InputError, match=said):
        evaluate(directory, task=str(rows))
    assert not (tmp_path / "marker").exists()
