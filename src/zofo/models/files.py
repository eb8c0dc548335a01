"""A model's files, looked at before transformers reads them: what is damaged is named, with the way to mend it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from zofo.config import json_text
from zofo.errors import InputError
from zofo.models.sealed import NotAsWritten, check_export

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")
ADAPTER = "adapter_config.json"
AGAIN = "download it again"
POINTER = b"version https://git-lfs.github.com/spec/"
MOST_LAYERS = 10_000  # a typing error beyond; building them would take hours
WHOLE_NUMBERS = ("I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64", "BOOL")
# of config.json, what every model of transformers has under these names where it has it at all
POSITIVE = ("num_hidden_layers", "hidden_size", "vocab_size", "num_attention_heads", "max_position_embeddings")

Shapes = dict[str, tuple[str, tuple[int, ...]]]  # {tensor: (its dtype as safetensors has it, its shape)}


def fault(path: Path, what: str) -> InputError:
    return InputError(f"{path}: {what}")


@contextmanager
def _of_a_model() -> Iterator[None]:
    """Errors name the setting too."""
    try:
        yield
    except NotAsWritten:
        raise
    except InputError as error:
        raise InputError(f"model.name: {error}") from error.__cause__


@_of_a_model()
def check(directory: Path, tokenizer: bool = True) -> None:
    """Raises InputError naming the file of a model's directory that is missing or damaged, and the fix.

    tokenizer: whether its files are looked at too.
    """
    check_export(directory)
    config, weights = _sizes(directory), shapes(directory)
    if (directory / ADAPTER).exists():  # transformers would read the model that it names, and not this one
        raise fault(
            directory / ADAPTER,
            f"an adapter beside a whole model, so which one is meant is not clear; give a directory without {ADAPTER}, "
            "or eval, generate the adapter's own (without config.json)",
        )
    if not weights:
        raise InputError(
            f"{directory}: it has no safetensors file ({WEIGHTS}), and pickled weights are not loaded; convert it "
            f"first, or {AGAIN}"
        )
    for name, (dtype, _) in weights.items():
        if dtype in WHOLE_NUMBERS and name.endswith(".weight") and "quantization_config" not in config:
            raise fault(
                directory / WEIGHTS,
                f"tensor {name} holds {dtype}, no floating-point numbers, and {CONFIG} names no quantization_config; "
                "save the model's own weights",
            )
    if tokenizer:
        _check_tokenizer(directory)


@_of_a_model()
def read_config(directory: Path) -> dict[str, Any]:
    """config.json. Raises InputError where it is no JSON object, or its sizes are no sizes."""
    return _sizes(directory)


def _sizes(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG
    content = read_json(path)
    for key in POSITIVE:
        value = content.get(key, 1)
        if isinstance(value, int) and not isinstance(value, bool) and value < 1:
            raise fault(path, f"{key} is {value}, and must be 1 or more; {AGAIN}")
    if (place := _nan(content)) is not None:  # an infinity may be meant: a Mamba's limits of time steps have one
        raise fault(path, f"{place} is NaN; {AGAIN}")
    layers = content.get("num_hidden_layers")
    if isinstance(layers, int) and layers > MOST_LAYERS:
        raise fault(path, f"num_hidden_layers is {layers}, more than any model has ({MOST_LAYERS}); {AGAIN}")
    return content


def _nan(content: Any, place: str = "") -> str | None:
    """Where in a JSON tree a number is none: "rope_parameters.rope_theta"."""
    if isinstance(content, float):
        return place if math.isnan(content) else None
    parts = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return next((at for key, part in parts if (at := _nan(part, f"{place}.{key}".lstrip("."))) is not None), None)


def read_json(path: Path) -> dict[str, Any]:
    """Raises InputError where it is no JSON object."""
    _look(path)
    return json_text.read_json(path, AGAIN)


def _look(path: Path) -> None:
    """Raises InputError for what is no file, an empty one, or what stands for another one."""
    if path.is_dir():
        raise fault(path, f"is a directory, and a file is expected; {AGAIN}")
    if not path.is_file():
        raise fault(path, f"no such file; {AGAIN}")
    try:
        with path.open("rb") as file:
            start = file.read(256)
    except OSError as error:
        raise fault(path, f"{(error.strerror or str(error)).lower()}") from None
    if not start:
        raise fault(path, f"is empty; {AGAIN}")
    if start.startswith(POINTER):
        raise fault(path, f"is a git-lfs pointer and not the file itself; run `git lfs pull` there, or {AGAIN}")
    if start.lstrip()[:9].lower() in (b"<!doctype", b"<html>", b"<?xml ver"):
        raise fault(path, f"is a web page, as of an error while downloading; {AGAIN}")


# ----------------------------------------------------------------------------------------------------------- weights


def shapes(directory: Path) -> Shapes:
    """Of all tensors in a directory's safetensors files; empty where there are none, which transformers says.

    Raises InputError naming the file that is damaged, or absent though the index names it.
    """
    one, index = directory / WEIGHTS, directory / INDEX
    if one.exists() or one.is_symlink():
        return shapes_of(one)
    if not index.exists():
        return {}
    held: Shapes = {}
    for name, tensors in _shards(index).items():
        of_shard = shapes_of(index.parent / name)
        if missing := sorted(set(tensors) - set(of_shard)):
            raise fault(index, f"{missing[0]} is to be in {name}, which has no such tensor; {AGAIN}")
        held |= of_shard
    return held


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files that are read. Raises InputError where an index leads elsewhere."""
    if (one := directory / WEIGHTS).exists():
        return [one]
    index = directory / INDEX
    return [directory / name for name in _shards(index)] if index.exists() else []


def _shards(index: Path) -> dict[str, list[str]]:
    """{file: the tensors that it holds by the index}. Only safetensors files beside the index are read."""
    entries = read_json(index).get("weight_map")
    if not isinstance(entries, dict) or not entries:
        raise fault(index, f'has no "weight_map" of tensors and their files; {AGAIN}')
    files: dict[str, list[str]] = {}
    for tensor, name in entries.items():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise fault(
                index,
                f"{tensor} is to be in {name!r}, and only .safetensors files beside the index are read (no pickle, no "
                "other directory); convert the model first",
            )
        files.setdefault(name, []).append(tensor)
    return files


@_of_a_model()
def check_index(where: str, options: Mapping[str, Any]) -> None:
    """Of a model on the hub, before its weights are fetched: raises InputError where its index leads elsewhere."""
    if Path(where).is_dir():
        return
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    wanted = {key: options[key] for key in ("revision", "local_files_only") if key in options}
    try:
        index = hf_hub_download(where, INDEX, **wanted)
    except (
        OSError,
        ValueError,
        EntryNotFoundError,
    ):  # there is none, or nothing is reached, which reading the weights says
        return
    _shards(Path(index))


def shapes_of(path: Path) -> Shapes:
    """Of one file. Raises InputError where it is damaged."""
    _look(path)
    try:
        with safe_open(path, "np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
            held = {name: (str(part.get_dtype()), tuple(part.get_shape())) for name, part in slices.items()}
    except SafetensorError as error:
        raise fault(path, f"is damaged ({reason(error)}), as by a download that was cut; {AGAIN}") from None
    except OSError as error:
        raise fault(path, f"{(error.strerror or str(error)).lower()}") from None
    if not held:
        raise fault(path, f"holds no tensors; {AGAIN}")
    return held


def misfit(directory: Path, weights: Shapes, expected: Mapping[str, Iterable[int]]) -> InputError | None:
    """The first tensor whose shape is not what config.json makes of it. expected: {name: shape} of the model.

    A checkpoint's names may lack or have the model's prefix.
    """
    by_end = {name.split(".", 1)[-1]: shape for name, shape in expected.items()} | dict(expected)
    for name, (_, shape) in weights.items():
        wanted = by_end.get(name, by_end.get(name.split(".", 1)[-1]))
        if wanted is not None and tuple(wanted) != shape and math.prod(wanted) != 0:
            return InputError(
                f"model.name: {directory / CONFIG}: "
                f"by it {name} has shape {list(wanted)}, and in the weights it has {list(shape)}; the two files are "
                "not of one model",
            )
    return None


# --------------------------------------------------------------------------------------------------------- tokenizer


def misfit_of(directory: Path, settings: PreTrainedConfig, trust_remote_code: bool) -> InputError | None:
    """The tensor of which transformers says in a table of its log alone that its shape is another."""
    import torch
    from transformers import AutoModelForCausalLM

    if not directory.is_dir():
        return None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings, trust_remote_code=trust_remote_code)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    return misfit(directory, shapes(directory), expected)


@_of_a_model()
def check_tokenizer(directory: Path) -> None:
    """Raises InputError where there is no tokenizer, or one of its files is damaged."""
    _check_tokenizer(directory)


def _check_tokenizer(directory: Path) -> None:
    present = [directory / name for name in TOKENIZERS if (directory / name).exists()]
    settings = directory / "tokenizer_config.json"
    own = any(directory.glob("*.py")) or any(directory.glob("*.tiktoken")) or any(directory.glob("tekken*.json"))
    if not present and not own:
        raise InputError(
            f"{directory} has no tokenizer ({', '.join(TOKENIZERS[:3])}, ...); copy the tokenizer's files "
            "of the base model there"
        )
    for path in present:
        if path.suffix == ".json":
            read_json(path)
        else:
            _look(path)
    if settings.exists():
        read_json(settings)


def reason(error: BaseException) -> str:
    """What an exception of a library says, in one line without the names of Python's classes."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return "it gives no reason"
    line = lines[1] if len(lines) > 1 and lines[0].endswith(":") else lines[0]
    line = " ".join(line.split())
    while (head := line.partition(": "))[0].endswith(("Error", "Exception")) and " " not in head[0]:
        line = head[2]
    return line.removeprefix("Error while deserializing header: ").rstrip(".")
