"""Loading a causal language model and its tokenizer: device, dtype, and the refusals that keep a run safe."""

from __future__ import annotations

import logging
import socket
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch

from zofo.config.sections import ModelConfig
from zofo.data import ending
from zofo.errors import InputError
from zofo.models import quantization
from zofo.models._transformers import quiet
from zofo.models.activation_checkpointing import dequantize_in_backward
from zofo.models.backbone import Loaded
from zofo.zo.quantized import Frozen

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

log = logging.getLogger("zofo")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(config: ModelConfig) -> Loaded:
    """Load `config.name`, a hub id or a directory. Weights come from safetensors files only: no pickle is read.

    Raises InputError for a model that is not there, is no causal LM, lacks weights, needs its own code, or has no
    safetensors. A router's auxiliary loss is switched off: it is no part of F.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where = source_of(config.name)
    options = hub_options(config, where)
    device = _device(config.device)
    try:
        settings = AutoConfig.from_pretrained(where, **options)
        if getattr(settings, "is_encoder_decoder", False):
            raise ValueError(f"{settings.model_type} is an encoder-decoder model, and zofo takes causal LMs only")
        dtype = choose_dtype(config.dtype, device, settings)
        quantized = quantization.options(config, settings, dtype, device)
        with quiet():
            read: Any = AutoModelForCausalLM.from_pretrained(
                where, dtype=dtype, use_safetensors=True, output_loading_info=True, **options, **quantized
            )
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError(f"model.name: cannot load {config.name!r}: {why_not_loaded(error)}") from error
    model, info = read
    ending.adopt(tokenizer, model)
    _check_complete(config.name, info["missing_keys"])
    if config.quantization:
        quantization.let_go(model)
    if not quantized:  # such a model is on its device already, and cannot always be moved
        model.to(device)  # pyright: ignore[reportArgumentType]
    model.eval().requires_grad_(False)
    dequantize_in_backward(model)
    try:
        _check_causal(config.name, model)
    except NotImplementedError as error:
        raise quantization.unreadable(config, settings.model_type) from error
    if getattr(model.config, "output_router_logits", False):
        log.info("output_router_logits is switched off: the router's auxiliary loss is no part of the loss")
        model.config.output_router_logits = False
    limit, pad = max_length_of(config, settings, tokenizer), pad_id_of(tokenizer, settings)
    loaded = Loaded(model, tokenizer, device, dtype, limit, pad, Frozen(model))
    quantization.check_loaded(config, loaded)
    return loaded


def source_of(name: str) -> str:
    """A directory's absolute path, or the hub id."""
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"model.name: {name} has no config.json, so it is no transformers model directory")
        return str(path.resolve())
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    if path.exists() or looks_local:
        raise InputError(f"model.name: no such model directory: {name}")
    return name


def _hub_has_address() -> bool:
    """False where the hub's name cannot be looked up, as offline. Behind a proxy that says nothing."""
    from huggingface_hub import constants

    if getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        return False
    return True


def hub_options(config: ModelConfig, where: str) -> dict[str, Any]:
    """Keyword arguments of every `from_pretrained` for this model; where: a directory or a hub id."""
    options: dict[str, Any] = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    if not Path(where).is_dir() and not _hub_has_address():
        options["local_files_only"] = True  # what was downloaded before; asking would try again for half a minute
    return options


def _check_complete(name: str, missing: Collection[str]) -> None:
    """transformers draws what a checkpoint lacks from the global random state: another model at every load."""
    if missing:
        shown = ", ".join(sorted(missing)[:3]) + (", ..." if len(missing) > 3 else "")
        raise InputError(
            f"model.name: {name} lacks {len(missing)} of the weights of a causal LM ({shown}), which would be random; "
            f"is it another kind of model?"
        )


@torch.no_grad()
def _check_causal(name: str, model: Any) -> None:
    """A masked LM (BERT) loads as a causal one, and its scores would see the answers: two texts that differ in later
    tokens alone must have the same logits at the first."""
    words = model.get_input_embeddings().weight.shape[0]
    a, b, c = words // 4, words // 2, 3 * words // 4
    ids = torch.tensor([[a, b, b], [a, c, c]], device=model.device)
    one, other = model(input_ids=ids, use_cache=False).logits[:, 0]
    if (one - other).abs().max() > torch.finfo(one.dtype).eps ** 0.5 * one.std():
        raise InputError(
            f"model.name: {name} ({type(model).__name__}) is not causal: its logits at a token depend on later tokens, "
            f"as a masked LM's do, so answers cannot be scored with it"
        )


def why_not_loaded(error: Exception) -> str:
    first = str(error).strip().split("\n")[0]
    if "for this kind of AutoModel" in first:
        return "it is no causal language model (" + first.split("'")[1].rsplit(".", 1)[-1].removesuffix("Config") + ")"
    if "trust_remote_code" in str(error):
        return "it brings its own code; read that code, then set model.trust_remote_code=true"
    if "safetensors" in str(error) and "bin" in str(error):
        return "it has no safetensors file, and pickled weights are not loaded; convert it first"
    if any(hint in str(error) for hint in ("couldn't connect", "local_dir", "not a local folder", "offline mode")):
        return "it is neither a directory here nor reachable on the hub"
    return first


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"model.device: {name} was asked for, but this torch sees no CUDA device")
    return device


def choose_dtype(name: str, device: torch.device, settings: PreTrainedConfig) -> torch.dtype:
    if name != "auto":
        return DTYPES[name]
    chosen = torch.bfloat16 if device.type == "cuda" else torch.float32
    saved = getattr(settings, "dtype", None)
    if saved == torch.float16:
        log.warning("the checkpoint is float16; it is cast to %s (model.dtype=float16 keeps it)", str(chosen)[6:])
    return chosen


def max_length_of(config: ModelConfig, settings: PreTrainedConfig, tokenizer: Any) -> int | None:
    """The user's limit, or the smaller of the model's positions and the tokenizer's (1e30 stands for unknown)."""
    positions = getattr(settings, "max_position_embeddings", None)
    if config.max_length is not None:
        if positions is not None and config.max_length > positions:
            raise InputError(f"model.max_length: {config.max_length} is more than the model's {positions} positions")
        return config.max_length
    known = [n for n in (positions, getattr(tokenizer, "model_max_length", None)) if n is not None and n < 10**9]
    return min(known, default=None)


def pad_id_of(tokenizer: Any, settings: PreTrainedConfig) -> int:
    """Any id will do: padding is known by the mask, never by the id."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id, getattr(settings, "eos_token_id", None)):
        if isinstance(candidate, int):
            return candidate
    return 0
