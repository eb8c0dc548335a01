"""Quantised backbones: the quantiser that `model.quantization` names, and what cannot be done with one.

Quantised tensors are frozen. Zeroth-order updates move the rest (norms, biases, embeddings, head) or an adapter;
first-order steps of an adapter go through them as in QLoRA (Dettmers et al., arXiv 2305.14314).
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from zofo.config.validate import quantized_field, refused
from zofo.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import BitsAndBytesConfig, PreTrainedConfig, TorchAoConfig

    from zofo.config.sections import ModelConfig
    from zofo.models.backbone import Loaded

LIBRARIES = {"int8": "torchao", "nf4": "bitsandbytes"}  # by the names of model.quantization


def options(
    config: ModelConfig, settings: PreTrainedConfig, dtype: torch.dtype, device: torch.device
) -> dict[str, Any]:
    """Keyword arguments of `from_pretrained` that quantise while loading, or place what is quantised already.

    settings: the checkpoint's configuration. Empty for a plain model. Raises InputError.
    """
    method, name = quantized_by(settings), config.quantization
    if method is None and name is None:
        return {}
    if method is not None and name is not None:
        raise InputError(f"model.quantization: {config.name} is quantised already, by {method}; leave it out")
    four_bit = name == "nf4" or (method == "bitsandbytes" and settings.quantization_config.get("load_in_4bit"))
    if four_bit and device.type != "cuda":  # on a CPU bitsandbytes packs 4-bit weights for inference alone
        what = "model.quantization: nf4" if name else f"model.name: {config.name}, 4-bit by bitsandbytes,"
        raise InputError(f"{what} needs a CUDA device; on a CPU take a plain model with model.quantization=int8")
    # One device by name: a model that is quantised cannot always be moved afterwards
    return {"device_map": {"": device}} | ({"quantization_config": _quantizer(name, dtype)} if name else {})


def quantized_by(settings: PreTrainedConfig) -> str | None:
    """The quantisation method that a model's configuration names; None for plain weights."""
    quantization = getattr(settings, "quantization_config", None)
    if quantization is None:
        return None
    values = quantization if isinstance(quantization, dict) else quantization.to_dict()
    method = values.get("quant_method", "an unnamed method")
    return str(getattr(method, "value", method)).removesuffix("_4bit").removesuffix("_8bit")


def _quantizer(name: str, dtype: torch.dtype) -> TorchAoConfig | BitsAndBytesConfig:
    """transformers' configuration for a name of LIBRARIES. Raises InputError where the library is not installed."""
    library = LIBRARIES[name]
    if find_spec(library) is None:
        package = '"zofo[quant]"' if library == "torchao" else library
        raise InputError(f"model.quantization: {name} needs {library}; pip install {package}")
    if name == "nf4":
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def let_go(model: nn.Module) -> None:
    """Give back what was read to be quantised: the file, which tensors that are views of it keep, and freed memory."""
    from zofo.zo.quantized import frozen

    codes = frozen(model)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name not in codes:
            tensor.data = tensor.data.clone()
    with suppress(AttributeError, OSError, TypeError):  # glibc alone has it, and would keep hundreds of MiB
        ctypes.CDLL(None).malloc_trim(0)


def quantize_hollow(model: Any, config: ModelConfig, settings: PreTrainedConfig, dtype: torch.dtype) -> None:
    """Quantise a model without values as `from_pretrained` would, in place; a plain model stays as it is.

    Raises InputError where that cannot be told without the weights.
    """
    method, name = quantized_by(settings), config.quantization
    if method is None and name is None:
        return
    if method not in (None, "torchao") or name not in (None, "int8"):
        by = method or LIBRARIES[str(name)]
        raise InputError(f"memory: weights quantised by {by} cannot be predicted; --measure counts them")
    from torchao.quantization import quantize_

    from zofo.models._transformers import AutoHfQuantizer

    quantizer: Any = AutoHfQuantizer.from_config(
        settings.quantization_config if method else _quantizer("int8", dtype), pre_quantized=False
    )
    quantizer.preprocess_model(model=model, dtype=dtype)
    for layer in dict.fromkeys(path.rpartition(".")[0] for path, _ in model.named_parameters()):
        if quantizer.param_needs_quantization(model, f"{layer}.weight"):
            quantize_(model.get_submodule(layer), quantizer.quantization_config.get_apply_tensor_subclass())
    model.config.quantization_config = quantizer.quantization_config
    model.hf_quantizer = quantizer


def check_loaded(config: ModelConfig, loaded: Loaded) -> None:
    """Raises InputError where a model was to be quantised, or says that it is, and no such tensor is found."""
    method = quantized_by(loaded.model.config)
    if method is None or loaded.frozen:
        return
    if config.quantization:
        family = loaded.model.config.model_type
        raise InputError(
            f"model.quantization: {config.quantization} quantises torch's linear layers, and {family!r} models have "
            f"none but the head; leave it out"
        )
    raise InputError(
        f"model.name: {config.name} is quantised by {method}, which keeps its codes outside the parameters; take the "
        f"plain model, with model.quantization=int8 for example"
    )


def unreadable(config: ModelConfig, family: str) -> InputError:
    """The refusal of a model that reads a quantised weight otherwise than as the matrix of a linear layer."""
    return InputError(
        f"{quantized_field(config)} {family!r} models do more with a linear layer's weight than torchao's tensors can; "
        f"take the plain model, without model.quantization"
    )


def check(config: ModelConfig, loaded: Loaded, name: str, method: Any) -> None:
    """Raises InputError for what a method, called `name`, would need of quantised weights."""
    if not loaded.frozen:
        return
    if fault := refused(config, name, method):
        raise InputError(fault)
    if method.moves == "zo" and method.theta_of == "backbone" and not loaded.frozen.left:
        raise InputError(
            f"{quantized_field(config)} every tensor is quantised, so nothing is left that {name} could move"
        )
    quantizer = getattr(loaded.model, "hf_quantizer", None)
    if method.first_order and quantizer is not None and not quantizer.is_trainable:
        raise InputError(
            f"{quantized_field(config)} first-order steps cannot pass through weights of "
            f"{quantized_by(loaded.model.config)}; use mezo, or the plain model with model.quantization=int8"
        )


def in_words(loaded: Loaded, theta: int) -> list[str]:
    """What is frozen and what is left, for the run's log; nothing for a plain model. theta: its number of weights."""
    if not loaded.frozen:
        return []
    frozen, by = loaded.frozen, quantized_by(loaded.model.config)
    what = f"{frozen.size:,} weights in {len(frozen)} tensors, {frozen.nbytes / 2**20:,.1f} MiB"
    return [f"quantised by {by} and frozen: {what}; theta has {theta:,} weights"]
