"""From an adapter's directory and a base model to a model that computes with both. Nothing is left at its start."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch

from zofo.config import registry
from zofo.errors import InputError, ZofoError, first_few, out_of_memory
from zofo.models import files
from zofo.models._transformers import close
from zofo.models.adapters._peft import read_peft, soft_start
from zofo.models.adapters._set import CONFIG, WEIGHTS, both
from zofo.models.backbone import Loaded
from zofo.models.load import pad_id_of
from zofo.models.tensors import load_tensors

log = logging.getLogger("zofo")
ELSEWHERE = ("prompt_tuning_init_state_dict_path",)  # PEFT reads it, by torch.load too, whatever the weights are
NAME = "default"  # PEFT's name for the one adapter of a directory


def read_config(directory: Path) -> dict[str, Any]:
    """adapter_config.json. Raises InputError where it is no JSON object."""
    return files.read_json(directory / CONFIG)


def open_adapter(directory: Path, base: Any, tokenizer: Any) -> tuple[Any, int]:
    """(model in eval mode, virtual tokens in front of a row) of `base` with the adapter that was saved in `directory`.

    Raises InputError, naming the directory and both models, where the adapter was made for another model; and where
    its weights are not there as safetensors (pickled ones are not read).
    """
    raw = check_files(directory)
    check_weights(directory)
    _check_tokenizer(directory, base, tokenizer)
    if isinstance(raw.get("zofo"), str):
        return _open_own(directory, raw, base, tokenizer)
    return _open_peft(directory, base)


def check_files(directory: Path) -> dict[str, Any]:
    """adapter_config.json. Raises InputError where it is damaged, or the weights are not there as safetensors."""
    raw = read_config(directory)
    if not (directory / WEIGHTS).is_file():
        raise InputError(f"{directory}: no {WEIGHTS}, so no weights of the adapter (pickled weights are not loaded)")
    if fields := [key for key in ELSEWHERE if raw.get(key)]:
        raise InputError(
            f"{directory / CONFIG}: {fields[0]} names another file to start from, which may be a pickle; leave it out, "
            f"the weights are in {WEIGHTS}"
        )
    return raw


def check_weights(directory: Path) -> None:
    """Raises InputError for a damaged file, for tensors of another kind, and for weights that are no numbers."""
    path = directory / WEIGHTS
    files.shapes_of(path)
    for name, tensor in load_tensors(path).items():
        if not tensor.is_floating_point():
            raise InputError(f"{path}: tensor {name} holds {str(tensor.dtype)[6:]}, no floating-point numbers")
        if not bool(tensor.isfinite().all()):
            raise InputError(f"{path}: tensor {name} holds NaN or infinite weights, so no score would be a number")


def _check_tokenizer(directory: Path, base: Any, tokenizer: Any) -> None:
    """Raises InputError where the adapter was trained with words that the base model's embedding has no row for."""
    path = directory / "tokenizer.json"
    if not path.is_file():
        return
    content, rows = files.read_json(path), base.get_input_embeddings().weight.shape[0]
    added = content.get("added_tokens")
    words = {each.get("id"): each.get("content") for each in added or () if isinstance(each, dict)}
    known = tokenizer.get_vocab() if tokenizer is not None else {}
    for number, word in sorted((n, w) for n, w in words.items() if isinstance(n, int) and isinstance(w, str)):
        if number >= rows and word not in known:
            raise InputError(
                f'{directory}: its tokenizer has the added token "{word}" with id {number}, and the base model\'s '
                f"embedding has {rows} rows: the adapter is for a model whose embeddings were resized; give that "
                f"one as base_model_name_or_path in {CONFIG}, or beside it as backbone/"
            )


def _open_own(directory: Path, raw: dict[str, Any], base: Any, tokenizer: Any) -> tuple[Any, int]:
    module = registry.load("adapters", raw["zofo"])
    extra = ("zofo", "peft_type", "task_type", "base_model_name_or_path")
    try:
        config = module.Config(**{key: value for key, value in raw.items() if key not in extra})
        adapters = module.Adapter(config).build(base, (NAME,), 0, tokenizer)
        adapters.restore(NAME, directory)
    except ZofoError:
        raise
    except Exception as error:  # what torch says to a tensor of another shape or kind, too
        if out_of_memory(error):
            raise
        raise InputError(f"{directory}: the adapter does not fit the model ({files.reason(error)})") from error
    return adapters.deployable(NAME), adapters.virtual


def _open_peft(directory: Path, base: Any) -> tuple[Any, int]:
    """PEFT only warns of layers that the file lacks, says nothing of those it has too many, and puts a prompt of any
    width beside any model: that shows in what it left over, and in a forward of one token."""
    try:
        model, missing, unexpected = read_peft(directory, base, NAME)
        config = model.peft_config[NAME]
        if config.is_prompt_learning:
            wrong = _layers(config, base) if str(config.peft_type).endswith("PREFIX_TUNING") else ""
        else:
            wrong = _left_over(missing, unexpected)
        if not wrong:
            with torch.no_grad(), warnings.catch_warnings(action="ignore"):
                model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=base.device), use_cache=False)
    except Exception as error:  # PEFT may raise anything at a field of the wrong kind
        if out_of_memory(error):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        wrong = next((line for line in lines if line.startswith("size mismatch")), files.reason(error)).rstrip(".")
    if wrong:
        raise InputError(f"{directory}: the adapter does not fit the model ({wrong}); {both(directory, base.config)}")
    if config.is_prompt_learning:
        model = _own_soft(model, base) or model
    return model, getattr(config, "num_virtual_tokens", None) or 0


@torch.no_grad()
def _own_soft(model: Any, base: Any) -> Any | None:
    """zofo's model of the prompt or prefix that PEFT read, whose texts are what its forward says. None: where zofo
    has no such adapter, or its forward would say something else."""
    from zofo.models.adapters import prefix, prompt

    read = soft_start(model, NAME)
    if read is None:
        return None
    kind, start = read
    if kind == "prompt":
        adapters = prompt.soft_set(base, (NAME,), start)
    else:
        config = model.peft_config[NAME]
        adapters = prefix.soft_set(base, (NAME,), start, config.num_layers, config.num_attention_heads)
    ids = torch.arange(1, 4, device=base.device)[None]
    ours, theirs = (each(input_ids=ids, use_cache=False).logits[:, -3:] for each in (adapters.model, model))
    if close(ours, theirs):
        return adapters.deployable(NAME)
    log.info("%s is used as PEFT has it: its forward is not that of zofo's %s", type(model).__name__, kind)
    return None


def _left_over(missing: list[str], unexpected: list[str]) -> str:
    if missing:
        return f"it lacks {first_few(sorted(missing), 1)}"
    if unexpected:
        return f"it has {first_few(sorted(unexpected), 1)}"
    return ""


def _layers(config: Any, base: Any) -> str:
    """A prefix of more layers than the model has would be cut without a word."""
    theirs, ours = getattr(config, "num_layers", None), getattr(base.config, "num_hidden_layers", None)
    return f"it is for {theirs} layers" if None not in (theirs, ours) and theirs != ours else ""


def use_tokenizer_of(directory: Path, loaded: Loaded) -> None:
    """The tokenizer that was saved with an adapter, where there is one, takes the base model's place. Rows of added
    tokens are the adapter's own; where it has none, they would be random: InputError."""
    from transformers import AutoTokenizer

    if not (directory / "tokenizer_config.json").is_file():
        return
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(directory.resolve()), trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        first = str(error).strip().split("\n")[0]
        raise InputError(f"{directory}: its tokenizer cannot be loaded: {first}") from error
    base = loaded.model
    rows, saved = base.get_input_embeddings().weight.shape[0], _saved_rows(directory, base)
    words = {number: word for word, number in tokenizer.get_vocab().items()}
    beyond = min((number for number in words if number >= max(saved.get("in", rows), rows)), default=None)
    if beyond is not None:
        raise InputError(
            f'{directory}: its tokenizer has the added token "{words[beyond]}" with id {beyond}, and the base model\'s '
            f"embedding has {rows} rows; save the adapter with its embeddings (save_embedding_layers=True), or give "
            f"the model whose embeddings were resized with --model"
        )
    if saved.get("in", rows) != rows:
        if "out" not in saved and not _tied(base):
            raise InputError(f"{directory}: it has rows for added tokens, and none of the head's; save both")
        with torch.random.fork_rng():  # the new rows are drawn, and then the adapter's take their place
            base.resize_token_embeddings(saved["in"], mean_resizing=False)
        base.requires_grad_(False)
    loaded.tokenizer, loaded.pad_id = tokenizer, pad_id_of(tokenizer, base.config)


def _tied(base: Any) -> bool:
    head = base.get_output_embeddings()
    return head is not None and head.weight is base.get_input_embeddings().weight


def _saved_rows(directory: Path, base: Any) -> dict[str, int]:
    """Rows of the embeddings ("in") and of the head ("out") that the adapter's file holds whole."""
    from safetensors import safe_open

    modules = {"in": base.get_input_embeddings(), "out": base.get_output_embeddings()}
    named = {
        f"base_model.model.{name}.weight": kind
        for name, m in base.named_modules()
        for kind, each in modules.items()
        if m is each
    }
    try:
        with safe_open(directory / WEIGHTS, "pt") as file:
            return {named[key]: file.get_slice(key).get_shape()[0] for key in file.keys() if key in named}  # noqa: SIM118
    except Exception:  # damaged: opening the adapter says so
        return {}
