"""Loading a causal language model and its tokenizer: device, dtype, and the refusals that keep a run safe."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch

from zofo.config.sections import ModelConfig
from zofo.data import ending
from zofo.errors import InputError, ZofoError, during, first_few, out_of_memory
from zofo.models import files, placed, quantization
from zofo.models._transformers import quiet
from zofo.models.activation_checkpointing import dequantize_in_backward
from zofo.models.backbone import Loaded
from zofo.models.offload import Offload
from zofo.models.sharded import Sharding
from zofo.models.widened import as_loaded
from zofo.zo import dtensors
from zofo.zo.quantized import Frozen, frozen

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

log = logging.getLogger("zofo")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@during("loading the model")
def load(config: ModelConfig, tokenizer: Any = None, sharding: Sharding | None = None) -> Loaded:
    """Load `config.name`, a hub id or a directory. Weights come from safetensors files only: no pickle is read.

    tokenizer: the model's own, where `read_tokenizer` was asked for it just before. sharding: how several processes,
    which all load it at once, hold it together.
    Raises InputError for a model that is not there, is no causal LM, lacks weights, needs its own code, has no
    safetensors, or of which a file is damaged or another model's. A router's auxiliary loss is switched off: it is no
    part of F.
    """
    from transformers import AutoConfig

    where = source_of(config.name)
    if Path(where).is_dir():
        files.check(Path(where), tokenizer is None)
    options = hub_options(config, where)
    device = device_of(config.device)
    if config.offload_folder is not None and device.type != "cpu":
        raise InputError(f"model.offload_folder: is for a CPU's memory, not for {device.type}; give model.device=cpu")
    with refusing(config.name, files.CONFIG):
        settings = AutoConfig.from_pretrained(where, **options)
        check_kind(settings)
        dtype = choose_dtype(config.dtype, device, settings)
        quantized = {**quantization.options(config, settings, dtype, device), **placed.options(config)}
        if sharding is not None:
            sharding.check_heads(settings)
    files.check_index(where, options)
    mapped = as_loaded(config, where, dtype) if config.offload_folder is not None else nullcontext(where)
    with mapped as place, nullcontext({}) if sharding is None else sharding.reading(device) as cut:
        model, info = _read(config, place, settings, dtype, {**options, **quantized, **cut})
    if tokenizer is None:
        tokenizer = _tokenizer(config.name, where, options)
    ending.adopt(tokenizer, model)
    _check_complete(config.name, info)
    if config.quantization:
        quantization.let_go(model)
    if config.device_map is not None:
        device = placed.device_of(model)
    elif not quantized:  # such a model is on its device already, and cannot always be moved
        model.to(device)
    model.eval().requires_grad_(False)
    if sharding is not None:
        sharding.settle(config.name, model)
    dequantize_in_backward(model)
    limit, pad = max_length_of(config, settings, tokenizer), pad_id_of(tokenizer, settings)
    beyond = _check_words(config.name, model, tokenizer, pad)
    with refusing(config.name, "a forward of three tokens"):
        try:
            _check_causal(config.name, model)
        except NotImplementedError as error:
            raise quantization.unreadable(config, settings.model_type) from error
    if sharding is not None:
        sharding.check(config.name, model)
    if getattr(model.config, "output_router_logits", False):
        log.info("output_router_logits is switched off: the router's auxiliary loss is no part of the loss")
        model.config.output_router_logits = False
    offload = None if config.offload_folder is None else Offload(model, Path(config.offload_folder))
    loaded = Loaded(model, tokenizer, device, dtype, limit, pad, Frozen(model), beyond, offload)
    quantization.check_loaded(config, loaded)
    return loaded


def read_tokenizer(config: ModelConfig) -> Any:
    """The model's tokenizer, its files looked at. Raises InputError."""
    where = source_of(config.name)
    if Path(where).is_dir():
        files.check_tokenizer(Path(where))
    return _tokenizer(config.name, where, hub_options(config, where))


def _tokenizer(name: str, where: str, options: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    with refusing(name, "the tokenizer"):
        return AutoTokenizer.from_pretrained(where, **options)


@contextmanager
def refusing(name: str, part: str) -> Iterator[None]:
    """What transformers, or a model's own code, raises at a part of a model is an InputError that names both."""
    try:
        yield
    except ZofoError:
        raise
    except Exception as error:  # at what is damaged a library may raise anything, and the input is at fault
        if out_of_memory(error):
            raise
        raise InputError(f"model.name: cannot load {name!r}: {why_not_loaded(error, part)}") from error


def check_kind(settings: PreTrainedConfig) -> None:
    if getattr(settings, "is_encoder_decoder", False):
        raise ValueError(f"{settings.model_type} is an encoder-decoder model, and zofo takes causal LMs only")


def _read(
    config: ModelConfig, where: str, settings: PreTrainedConfig, dtype: torch.dtype, options: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """(the model, what transformers says of reading it). Raises InputError."""
    from transformers import AutoModelForCausalLM

    with refusing(config.name, f"the weights ({files.CONFIG}, {files.WEIGHTS})"):
        try:
            with quiet():
                read: Any = AutoModelForCausalLM.from_pretrained(
                    where, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
                )
            return read
        except RuntimeError as error:
            code = options["trust_remote_code"]
            if "mismatched_sizes" in str(error) and (fault := files.misfit_of(Path(where), settings, code)):
                raise fault from error
            raise


def source_of(name: str) -> str:
    """A directory's absolute path, or the hub id."""
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            if (path / "config.json").exists():
                files.read_config(path)
            raise InputError(f"model.name: {name} has no config.json, so it is no transformers model directory")
        files.read_config(path)
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


def _check_complete(name: str, info: dict[str, Any]) -> None:
    """transformers draws what a checkpoint lacks from the global random state: another model at every load."""
    missing: Collection[str] = info["missing_keys"]
    if missing:
        shown = first_few(sorted(missing))
        raise InputError(
            f"model.name: {name} lacks {len(missing)} of the weights of a causal LM ({shown}), which would be random; "
            f"is it another kind of model?"
        )
    unread = sorted(key for key in info["unexpected_keys"] if key.endswith(".weight"))
    if unread:
        log.warning(
            "model.name: %s: %d of its tensors have no place in the model that its config.json describes, and are left "
            "out (%s); is config.json this model's?",
            name,
            len(unread),
            first_few(unread),
        )


@torch.no_grad()
def _check_words(name: str, model: Any, tokenizer: Any, pad: int) -> dict[int, str]:
    """{token id: its text} of the tokenizer's words that the embedding has no row for. Their texts may be in no data.

    Raises InputError where padding is one of them, or a weight is no number.
    """
    codes = frozen(model)
    for key, param in model.named_parameters():
        tensor = dtensors.here(param)
        if key in codes or not tensor.is_floating_point() or bool(torch.isfinite(tensor.sum())):
            continue
        if not bool(tensor.isfinite().all()):  # a sum may overflow without
            raise InputError(f"model.name: {name}: {key} holds NaN or infinite weights, so no score is a number")
    rows = model.get_input_embeddings().weight.shape[0]
    beyond = {number: word for word, number in tokenizer.get_vocab().items() if number >= rows}
    if pad in beyond or pad >= rows:
        raise InputError(
            f'model.name: {name}: the padding token "{beyond.get(pad, "")}" has id {pad}, and the embedding has {rows} '
            f"rows; resize the model's embeddings to the tokenizer and save both, or name one of its words as "
            f"pad_token in tokenizer_config.json"
        )
    return beyond


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


def why_not_loaded(error: Exception, part: str = "") -> str:
    """In one line; part: of the model, said where the error's own text is all there is."""
    text = str(error)
    first = files.reason(error)
    if "for this kind of AutoModel" in first:
        return "it is no causal language model (" + first.split("'")[1].rsplit(".", 1)[-1].removesuffix("Config") + ")"
    if "trust_remote_code" in text:
        return "it brings its own code; read that code, then set model.trust_remote_code=true"
    if "safetensors" in text and "bin" in text:
        return "it has no safetensors file, and pickled weights are not loaded; convert it first"
    if any(hint in text for hint in ("couldn't connect", "local_dir", "not a local folder", "offline mode")):
        return "it is neither a directory here nor reachable on the hub"
    if "backend tokenizer" in text or "is not the path to a directory containing a file" in text:
        return (
            "it has no tokenizer that can be read (tokenizer.json); copy the base model's tokenizer files there, or, "
            "for a tokenizer.model, pip install sentencepiece tiktoken"
        )
    if isinstance(error, (OSError, ValueError, KeyError, ImportError)) and type(error).__module__ == "builtins":
        return first
    return f"{part} cannot be used: {first}" if part else first


def device_of(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise InputError("model.device: mps was asked for, but this torch sees no Apple GPU; take auto or cpu")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"model.device: {name} was asked for, but this torch sees no CUDA device")
    if kind == "cuda" and number and int(number[:6]) >= torch.cuda.device_count():
        raise InputError(f"model.device: {name} was asked for, and there are {torch.cuda.device_count()} CUDA devices")
    if name == "cuda" and int(os.environ.get("WORLD_SIZE", "1")) > 1:  # of the processes of a machine each has its own
        return torch.device(name, int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return torch.device(name)


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
    own: Any = getattr(tokenizer, "model_max_length", None)
    if own is not None and (isinstance(own, bool) or not (isinstance(own, int | float) and own >= 1)):
        where = f"model.name: {config.name}: tokenizer_config.json"
        raise InputError(f"{where}: model_max_length is {own!r:.40}; expected a number of tokens")
    known = [int(n) for n in (positions, own) if n is not None and n < 10**9]
    return min(known, default=None)


def pad_id_of(tokenizer: Any, settings: PreTrainedConfig) -> int:
    """Any id will do: padding is known by the mask, never by the id."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id, getattr(settings, "eos_token_id", None)):
        if isinstance(candidate, int):
            return candidate
    return 0
