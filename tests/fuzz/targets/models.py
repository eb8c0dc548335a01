"""A model's directory: weights, configuration, tokenizer. What is accepted must say what the right model says."""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tests.fuzz.case import Case, Expected
from tests.fuzz.damage import LFS, PAGE, dumps, spoil_bytes, spoil_value
from tests.fuzz.world import FEW, World, copied

COUNT = 130
WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
FILES = (WEIGHTS, CONFIG, TOKENIZER, "tokenizer_config.json", "generation_config.json")


def header(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Changes what a safetensors file says of its tensors."""

    def spoil(model: Path) -> None:
        content = (model / WEIGHTS).read_bytes()
        (size,) = struct.unpack("<Q", content[:8])
        said = json.loads(content[8 : 8 + size])
        change(said)
        text = json.dumps(said).encode()
        (model / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])

    return spoil


def first(said: dict[str, Any]) -> dict[str, Any]:
    return next(value for key, value in said.items() if key != "__metadata__")


def tensors(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def spoil(model: Path) -> None:
        held = load_file(model / WEIGHTS)
        change(held)
        save_file(held, model / WEIGHTS, metadata={"format": "pt"})

    return spoil


def written(name: str, content: bytes) -> Callable[[Path], None]:
    def spoil(model: Path) -> None:
        (model / name).write_bytes(content)

    return spoil


def as_directory(name: str) -> Callable[[Path], None]:
    def spoil(model: Path) -> None:
        (model / name).unlink()
        (model / name).mkdir()

    return spoil


def sharded(index: Any) -> Callable[[Path], None]:
    """index: the text of model.safetensors.index.json, beside which there is a.safetensors."""

    def spoil(model: Path) -> None:
        (model / WEIGHTS).rename(model / "a.safetensors")
        (model / f"{WEIGHTS}.index.json").write_text(index if isinstance(index, str) else json.dumps(index))

    return spoil


def settings(**changes: Any) -> Callable[[Path], None]:
    def spoil(model: Path) -> None:
        said = json.loads((model / CONFIG).read_text()) | changes
        (model / CONFIG).write_text(json.dumps({key: value for key, value in said.items() if value != "LEFT OUT"}))

    return spoil


def added_tokens(*words: str, pad: str | None = None) -> Callable[[Path], None]:
    """Words for which the embedding has no rows."""

    def spoil(model: Path) -> None:
        from transformers import PreTrainedTokenizerFast

        tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(model)
        tokenizer.add_tokens(list(words))
        if pad is not None:
            tokenizer.add_special_tokens({"pad_token": pad})
        tokenizer.save_pretrained(model)

    return spoil


def cut(name: str, share: float) -> Callable[[Path], None]:
    def spoil(model: Path) -> None:
        content = (model / name).read_bytes()
        (model / name).write_bytes(content[: int(len(content) * share)])

    return spoil


EMBEDDING = "model.embed_tokens.weight"
NAMED: list[tuple[str, Callable[[Path], Any], Expected]] = [
    *((f"{name} gone", lambda model, name=name: (model / name).unlink(), "refused") for name in FILES[:3]),
    *((f"{name} is a git-lfs pointer", written(name, LFS), "refused") for name in FILES[:3]),
    *((f"{name} is a web page", written(name, PAGE), "refused") for name in FILES[:3]),
    *((f"{name} empty", written(name, b""), "refused") for name in FILES[:3]),
    *((f"{name} is a directory", as_directory(name), "refused") for name in FILES[:3]),
    *((f"{name} cut at {part:.0%}", cut(name, part), "refused") for name in FILES[:3] for part in (0.001, 0.5, 0.99)),
    ("the directory empty", lambda model: [path.unlink() for path in model.iterdir()], "refused"),
    ("header: length beyond the file", written(WEIGHTS, struct.pack("<Q", 2**40) + b"{}"), "refused"),
    ("header: no JSON", written(WEIGHTS, struct.pack("<Q", 8) + b"{{{{}}}}"), "refused"),
    ("header: no tensors", written(WEIGHTS, struct.pack("<Q", 2) + b"{}"), "refused"),
    ("header: another dtype", header(lambda said: first(said).update(dtype="F64")), "refused"),
    ("header: unknown dtype", header(lambda said: first(said).update(dtype="F77")), "refused"),
    ("header: another shape", header(lambda said: first(said).update(shape=[1, 2, 3])), "refused"),
    ("header: offsets beyond", header(lambda said: first(said).update(data_offsets=[0, 2**40])), "refused"),
    ("header: offsets reversed", header(lambda said: first(said).update(data_offsets=[64, 0])), "refused"),
    ("a tensor missing", tensors(lambda held: held.pop("model.norm.weight")), "refused"),
    ("the embedding missing", tensors(lambda held: held.pop(EMBEDDING)), "refused"),
    ("a tensor more", tensors(lambda held: held.update(more=held["model.norm.weight"].clone())), "either"),
    ("a shape", tensors(lambda held: held.update({EMBEDDING: held[EMBEDDING][:50].clone()})), "refused"),
    ("integers", tensors(lambda held: held.update({EMBEDDING: held[EMBEDDING].int()})), "refused"),
    ("booleans", tensors(lambda held: held.update({EMBEDDING: held[EMBEDDING].bool()})), "refused"),
    ("NaN", tensors(lambda held: held[EMBEDDING].fill_(float("nan"))), "refused"),
    ("half precision", tensors(lambda held: held.update({k: v.half() for k, v in held.items()})), "accepted"),
    ("another prefix", tensors(lambda held: [held.update({"x." + k: held.pop(k)}) for k in list(held)]), "refused"),
    ("index: an absent shard", sharded({"metadata": {}, "weight_map": {EMBEDDING: "b.safetensors"}}), "refused"),
    ("index: no map", sharded({"metadata": {}}), "refused"),
    ("index: another folder", sharded({"metadata": {}, "weight_map": {EMBEDDING: "../x.safetensors"}}), "refused"),
    ("index: an absolute path", sharded({"metadata": {}, "weight_map": {EMBEDDING: "/etc/passwd"}}), "refused"),
    ("index: pickled", sharded({"metadata": {}, "weight_map": {EMBEDDING: "b.bin"}}), "refused"),
    ("index: no JSON", sharded("{"), "refused"),
    ("index: a list", sharded([]), "refused"),
    ("index: some tensors", sharded({"metadata": {}, "weight_map": {EMBEDDING: "a.safetensors"}}), "either"),
    ("index: a number for a file", sharded({"metadata": {}, "weight_map": {EMBEDDING: 7}}), "refused"),
    *((f"config.json: {key} {value!r:.30}", settings(**{key: value}), expect) for key, value, expect in [
        ("model_type", "LEFT OUT", "refused"), ("model_type", "llamma", "refused"), ("model_type", 7, "refused"),
        ("model_type", "bert", "refused"), ("model_type", "t5", "refused"), ("model_type", None, "refused"),
        ("vocab_size", 0, "refused"), ("vocab_size", -1, "refused"), ("vocab_size", "many", "refused"),
        ("vocab_size", 10**12, "refused"), ("vocab_size", 300, "refused"),
        ("hidden_size", 31, "refused"), ("hidden_size", 64, "refused"), ("hidden_size", None, "refused"),
        ("num_attention_heads", 5, "refused"), ("num_attention_heads", 0, "refused"),
        ("num_key_value_heads", 3, "refused"), ("num_hidden_layers", 3, "refused"),
        ("num_hidden_layers", 10**7, "refused"), ("num_hidden_layers", -1, "refused"),
        ("num_hidden_layers", 1, "either"), ("max_position_embeddings", 0, "refused"),
        ("max_position_embeddings", -5, "refused"), ("max_position_embeddings", "x", "refused"),
        ("hidden_act", "none", "refused"), ("rope_theta", "x", "either"), ("rms_norm_eps", "x", "refused"),
        ("rope_scaling", {"rope_type": "none"}, "refused"), ("dtype", "float77", "refused"),
        ("architectures", ["Nothing"], "either"), ("quantization_config", {"quant_method": "none"}, "refused"),
        ("auto_map", {"AutoModelForCausalLM": "x.Y"}, "either"), ("eos_token_id", 10**9, "either"),
        ("pad_token_id", 10**9, "either"), ("bos_token_id", "x", "either"),
    ]),
    ("an added word", added_tokens("film"), "refused"),
    ("an added word that no row has", added_tokens("zebra"), "accepted"),
    ("an added pad", added_tokens(pad="<added pad>"), "refused"),
    ("a tokenizer of other words", lambda model: _other_tokenizer(model), "either"),
    ("tokenizer_config.json: no class", written("tokenizer_config.json", b'{"tokenizer_class": "Nothing"}'), "either"),
    ("tokenizer_config.json: a list", written("tokenizer_config.json", b"[]"), "refused"),
    ("generation_config.json cut", written("generation_config.json", b'{"eos_'), "either"),
]  # fmt: skip


def _other_tokenizer(model: Path) -> None:
    from tests.conftest import make_tokenizer

    make_tokenizer(vocab_size=280).save_pretrained(model)


def make(world: World, folder: Path, rng: random.Random, number: int) -> Case:
    model, out = copied(world.model, folder), folder / "out"
    expect: Expected = "either"
    if number < len(NAMED):
        what, spoil, expect = NAMED[number]
        spoil(model)
    else:
        name = rng.choice([CONFIG, TOKENIZER, "tokenizer_config.json", WEIGHTS])
        content = (model / name).read_bytes()
        if name != WEIGHTS and rng.random() < 0.6:
            what, tree = spoil_value(rng, json.loads(content))
            spoilt = dumps(tree).encode("utf-8", "surrogatepass")
        else:
            what, spoilt = spoil_bytes(rng, content)
        what = f"{name}: {what}"
        (model / name).write_bytes(spoilt)
        if rng.random() < 0.1 and name != CONFIG:
            shutil.rmtree(model)
            model.mkdir()
            (model / name).write_bytes(spoilt)
    args = [
        "train",
        "--model",
        str(model),
        "--task",
        str(world.rows),
        "--method",
        "zero-shot",
        "--output-dir",
        str(out),
    ]
    return Case(f"model: {what}", [*args, *FEW], (str(model), *FILES, "the token "), out, expect, _finite)


def _finite(shown: str) -> str:
    return "a loss that is NaN" if " nan" in shown.lower() else ""


__all__ = ["COUNT", "make"]
