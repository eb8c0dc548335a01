"""Models and adapters that are damaged, or do not belong to their tokenizer: one line with the file and the fix."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from tests.conftest import make_tokenizer, sentiment_rows, write_rows
from tests.family_runs import Directories
from tests.small_runs import METHODS, SMALL
from zofo import InputError, evaluate, finetune, generate
from zofo.config.sections import ModelConfig
from zofo.models.load import load

WEIGHTS, CONFIG, TOKENIZER, INDEX = "model.safetensors", "config.json", "tokenizer.json", "model.safetensors.index.json"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 538090408\n"
PAGE = b"<!DOCTYPE html><html><body>404</body></html>"
EMBEDDING = {
    "llama": "model.embed_tokens.weight",
    "opt": "model.decoder.embed_tokens.weight",
    "gpt2": "transformer.wte.weight",
}
FAMILIES = tuple(EMBEDDING)


@pytest.fixture
def copied(family_dir: Directories, tmp_path: Path) -> Callable[..., Path]:
    def copy(family: str, sharded: bool = False) -> Path:
        path = tmp_path / "model"
        shutil.copytree(family_dir(family), path)
        if sharded:
            model = AutoModelForCausalLM.from_pretrained(path)
            (path / WEIGHTS).unlink()
            model.save_pretrained(path, max_shard_size="20KB")
            assert len(list(path.glob("model-*.safetensors"))) > 1
        return path

    return copy


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load(ModelConfig(name=str(path), device="cpu"))
    text = str(caught.value)
    assert "\n" not in text
    assert "Error" not in text
    return text


DAMAGES: dict[str, tuple[bytes | float | None, str]] = {  # (other content, a share of it, or a directory; the reason)
    "pointer": (LFS, "is a git-lfs pointer and not the file itself; run `git lfs pull` there"),
    "page": (PAGE, "is a web page"),
    "empty": (b"", "is empty; download it again"),
    "directory": (None, "is a directory, and a file is expected"),
    "half": (0.5, "download it again"),
    "nearly all": (0.98, "download it again"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, TOKENIZER, "shard", INDEX])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_damaged_file(name: str, damage: str, family: str, copied: Callable[..., Path]) -> None:
    path = copied(family, sharded=name in ("shard", INDEX))
    file = sorted(path.glob("model-*"))[-1] if name == "shard" else path / name
    content, reason = DAMAGES[damage]
    whole = file.read_bytes()
    file.unlink()
    if content is None:
        file.mkdir()
    elif isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_bytes(whole[: int(len(whole) * content)])
    text = refusal(path)
    assert text.startswith(f"model.name: {file}: ")
    assert reason in text


@pytest.mark.parametrize("name", [CONFIG, TOKENIZER, WEIGHTS, "shard"])
def test_a_missing_file(name: str, copied: Callable[..., Path]) -> None:
    path = copied("llama", sharded=name == "shard")
    file = sorted(path.glob("model-*"))[0] if name == "shard" else path / name
    file.unlink()
    text = refusal(path)
    expected = {
        CONFIG: f"{path} has no config.json, so it is no transformers model directory",
        TOKENIZER: f"{path} has no tokenizer (tokenizer.json, tokenizer.model, vocab.json, ...); copy the tokenizer's",
        WEIGHTS: "it has no safetensors file (model.safetensors), and pickled weights are not loaded; convert it first",
        "shard": f"{file}: no such file; download it again",
    }
    assert expected[name] in text


def test_a_directory_of_nothing_but_a_tokenizer_class(copied: Callable[..., Path]) -> None:
    """The line is not cut before its sense, as transformers' own, of many lines, was."""
    path = copied("llama")
    (path / TOKENIZER).rename(path / "tokenizer.model")
    text = refusal(path)
    assert "pip install" in text, "tiktoken, or sentencepiece, by what is installed"
    assert "tokenizer" in text or "tiktoken" in text


def in_header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path, str], None]:
    def spoil(path: Path, embedding: str) -> None:
        content = (path / WEIGHTS).read_bytes()
        (size,) = struct.unpack("<Q", content[:8])
        said = json.loads(content[8 : 8 + size])
        change(said[embedding])
        text = json.dumps(said).encode()
        (path / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])

    return spoil


def in_tensors(change: Callable[[dict[str, Any], str], Any]) -> Callable[[Path, str], None]:
    def spoil(path: Path, embedding: str) -> None:
        held = load_file(path / WEIGHTS)
        change(held, embedding if embedding in held else embedding.partition(".")[2])
        save_file(held, path / WEIGHTS, metadata={"format": "pt"})

    return spoil


TENSORS: dict[str, tuple[Callable[[Path, str], None], str]] = {
    "shape": (in_tensors(lambda held, e: held.update({e: held[e][:9].clone()})), r"config.json: by it .* has shape \["),
    "integers": (in_tensors(lambda held, e: held.update({e: held[e].long()})), "holds I64, no floating-point numbers"),
    "booleans": (in_tensors(lambda held, e: held.update({e: held[e] > 0})), "holds BOOL, no floating-point numbers"),
    "nan": (in_tensors(lambda held, e: held[e][3].fill_(float("nan"))), "holds NaN or infinite weights"),
    "infinite": (in_tensors(lambda held, e: held[e][3].fill_(float("-inf"))), "holds NaN or infinite weights"),
    "missing": (in_tensors(lambda held, e: held.pop(e)), "of the weights of a causal LM"),
    "no tensors": (in_tensors(lambda held, e: held.clear()), "holds no tensors; download it again"),
    "dtype": (in_header(lambda said: said.update(dtype="F64")), r"model.safetensors: is damaged \("),
    "offsets": (in_header(lambda said: said.update(data_offsets=[0, 2**50])), r"model.safetensors: is damaged \("),
    "unknown dtype": (in_header(lambda said: said.update(dtype="F77")), r"model.safetensors: is damaged \("),
}


@pytest.mark.parametrize("what", TENSORS)
@pytest.mark.parametrize("family", FAMILIES)
def test_tensors(what: str, family: str, copied: Callable[..., Path]) -> None:
    import re

    path = copied(family)
    spoil, reason = TENSORS[what]
    name = EMBEDDING[family]
    if what in ("dtype", "offsets", "unknown dtype") and name not in load_file(path / WEIGHTS):
        name = name.partition(".")[2]
    spoil(path, name)
    assert re.search(reason, refusal(path)), refusal(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"vocab_size": 0}, "vocab_size is 0, and must be 1 or more"),
        ({"vocab_size": 10**12}, "config.json: by it "),
        ({"num_hidden_layers": 10**7}, "num_hidden_layers is 10000000, more than any model has (10000)"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1, and must be 1 or more"),
        ({"num_hidden_layers": 3}, "lacks 9 of the weights"),
        ({"hidden_size": 64}, "config.json: by it "),
        ({"hidden_size": "wide"}, "expected int, got str"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"hidden_act": "none"}, "none"),
        ({"model_type": "llamma"}, "llamma"),
        ({"dtype": "float77"}, "config.json cannot be used: module 'torch' has no attribute 'float77'"),
    ],
)  # fmt: skip
def test_a_configuration_that_is_not_the_weights(
    changes: dict[str, Any], reason: str, copied: Callable[..., Path]
) -> None:
    path = copied("llama")
    (path / CONFIG).write_text(json.dumps(json.loads((path / CONFIG).read_text()) | changes))
    assert reason in refusal(path)


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ({"weight_map": {"a": "b.bin"}}, "only .safetensors files beside the index are read"),
        ({"weight_map": {"a": "../b.safetensors"}}, "only .safetensors files beside the index are read"),
        ({"weight_map": {"a": "/etc/b.safetensors"}}, "only .safetensors files beside the index are read"),
        ({"weight_map": {"a": 7}}, "only .safetensors files beside the index are read"),
        ({"weight_map": {"a": "none.safetensors"}}, "none.safetensors: no such file"),
        ({"weight_map": {"a": "one.safetensors"}}, "a is to be in one.safetensors, which has no such tensor"),
        ({"weight_map": {}}, 'has no "weight_map"'),
        ([], "expected one JSON object, found a list"),
    ],
)
def test_an_index_that_leads_elsewhere(index: Any, reason: str, copied: Callable[..., Path]) -> None:
    path = copied("llama")
    (path / WEIGHTS).rename(path / "one.safetensors")
    (path / INDEX).write_text(json.dumps(index))
    assert reason in refusal(path)


def test_layers_that_the_configuration_leaves_out_are_said(
    copied: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = copied("llama")
    load(ModelConfig(name=str(path), device="cpu"))
    assert caplog.text == ""
    (path / CONFIG).write_text(json.dumps(json.loads((path / CONFIG).read_text()) | {"num_hidden_layers": 1}))
    load(ModelConfig(name=str(path), device="cpu"))
    assert "9 of its tensors have no place in the model that its config.json describes" in caplog.text


# ------------------------------------------------------------------------------------------- words without embeddings


def with_words(path: Path, *words: str, **special: str) -> Path:
    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(path)
    tokenizer.add_tokens(list(words))
    tokenizer.add_special_tokens(special)
    tokenizer.save_pretrained(path)
    return path


@pytest.mark.parametrize("length", ["many", [5], 0, float("nan"), True])
def test_a_tokenizers_length_that_is_none(length: object, tiny_model_dir: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    file = model / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": length}))
    with pytest.raises(InputError, match=r"model: tokenizer_config.json: model_max_length is"):
        evaluate(str(model), task=str(write_rows(tmp_path / "rows.jsonl", sentiment_rows(8))))


@pytest.mark.parametrize("method", METHODS)
def test_a_word_that_the_embedding_lacks(
    method: str, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By training, evaluating and writing, before anything is written; where no text holds it, all is well."""
    model = with_words(Path(shutil.copytree(tiny_model_dir, tmp_path / "model")), "story")
    rows = write_rows(tmp_path / "rows.jsonl", sentiment_rows(24))
    message = r'rows.jsonl:\d+: the token "story" has id 400, and the model\'s embedding has no such row'
    with pytest.raises(InputError, match=message):
        finetune(str(model), str(rows), METHODS[method], output_dir=tmp_path / "out", **SMALL)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=message):
        evaluate(str(model), task=str(rows))
    with pytest.raises(InputError, match=r'prompt 1: the token "story" has id 400'):
        generate(str(model), ["a story"])
    others = write_rows(tmp_path / "o.jsonl", [{**r, "text": r["text"].split(":")[0]} for r in sentiment_rows(24)])
    assert finetune(str(model), str(others), METHODS[method], output_dir=tmp_path / "out", **SMALL).test["n"] > 0


@pytest.mark.parametrize("special", ["pad_token", "eos_token"])
def test_padding_and_ends_that_the_embedding_lacks(special: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    model = with_words(Path(shutil.copytree(tiny_model_dir, tmp_path / "model")), **{special: "<new>"})
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": f"say {i}", "completion": " yes"} for i in range(24)])
    expected = (
        rf'model.name: {model}: the padding token "<new>" has id 400, and the embedding has 400 rows; resize'
        if special == "pad_token"
        else r'rows.jsonl:\d+: the token "<new>" has id 400, and the model\'s embedding has no such row'
    )
    with pytest.raises(InputError, match=expected):
        finetune(str(model), str(rows), "mezo", output_dir=tmp_path / "out", **SMALL)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("adapter", ["lora", "prompt", "dept"])
def test_an_adapters_added_words(adapter: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", sentiment_rows(24))
    run = finetune(str(tiny_model_dir), str(rows), "fo-peft", {"name": adapter}, output_dir=tmp_path / "run", **SMALL)
    out = run.export(tmp_path / "export", merge=False)
    assert evaluate(out)["n"] == run.test["n"]
    make_tokenizer().save_pretrained(out)
    assert evaluate(out)["n"] == run.test["n"], "the same words"
    with_words(out, "story")
    with pytest.raises(InputError, match=r'its tokenizer has the added token "story" with id 400, and the base model'):
        evaluate(out)


@pytest.mark.parametrize("adapter", ["lora", "prompt", "prefix", "dept", "ia3"])
@pytest.mark.parametrize("damage", ["pointer", "empty", "half", "nan", "integers", "directory", "deep"])
def test_a_damaged_adapter(adapter: str, damage: str, tmp_path: Path, exports: Callable[[str], Path]) -> None:
    out = Path(shutil.copytree(exports(adapter), tmp_path / "export"))
    file = out / ("adapter_config.json" if damage == "deep" else "adapter_model.safetensors")
    content = file.read_bytes()
    if damage in ("nan", "integers"):
        held = load_file(file)
        key = sorted(held)[0]
        held[key] = torch.full_like(held[key], float("nan")) if damage == "nan" else held[key].int()
        save_file(held, file, metadata={"format": "pt"})
    elif damage == "directory":
        file.unlink()
        file.mkdir()
    else:
        spoilt = {"pointer": LFS, "empty": b"", "half": content[: len(content) // 2], "deep": b"[" * 20_000}
        file.write_bytes(spoilt[damage])
    with pytest.raises(InputError) as caught:
        evaluate(out)
    assert str(out) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("exports")
    rows = write_rows(root / "rows.jsonl", sentiment_rows(24))

    def get(adapter: str) -> Path:
        out = root / adapter
        if not out.exists():
            run_dir = root / f"run-{adapter}"
            finetune(str(tiny_model_dir), str(rows), "fo-peft", {"name": adapter}, output_dir=run_dir, **SMALL).export(
                out, merge=False
            )
        return out

    return get
