"""Quantised tensors: codes of a few bits a weight. They are no part of theta but frozen, and known by a digest."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from zofo.zo._torch import is_traceable_wrapper_subclass, own_parameters
from zofo.zo.dtensors import here, is_part

_WEIGHTS = {
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
}  # 8-bit floats are codes: they have scales


def is_quantized(tensor: Tensor) -> bool:
    """Whether a tensor holds codes in place of weights: integers or 8-bit floats, its own or those it wraps.

    torchao's tensors say that they are floating-point ones; bitsandbytes may declare its bytes as bfloat16.
    """
    if getattr(tensor, "quant_state", None) is not None:
        return True
    return any(part.dtype not in _WEIGHTS for _, part in parts(tensor))


def parts(tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of what a tensor subclass is wrapped around (codes, scales); ("", itself) for any other tensor,
    or what is here of it."""
    if is_part(tensor):
        yield "", here(tensor)
        return
    if not is_traceable_wrapper_subclass(tensor):
        yield "", tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        for inner, part in parts(getattr(tensor, name)):
            yield f"{name}.{inner}".rstrip("."), part


def frozen(model: nn.Module) -> dict[str, nn.Parameter]:
    """{name: parameter} of what is quantised, and of the scales that stand beside it as parameters of their own.

    A layer's bias is not of them. Tied tensors come once, as in `named_parameters`.
    """
    params = {}
    for name, param in model.named_parameters():
        path, _, attribute = name.rpartition(".")
        others = own_parameters(model.get_submodule(path)).values()
        beside = not attribute.endswith("bias") and any(p is not None and is_quantized(p) for p in others)
        if beside or is_quantized(param):
            params[name] = param
    return params


def weights(model: nn.Module, names: set[str] | None = None) -> dict[str, nn.Parameter]:
    """{name: parameter} of what is not quantised, floating-point, and of these names, where they are given."""
    codes = frozen(model)
    floats = ((n, p) for n, p in model.named_parameters() if n not in codes and p.is_floating_point())
    return {n: p for n, p in floats if names is None or n in names}


class Frozen:
    """A model's quantised tensors. Build it before PEFT wraps the model: the layers stay, their names would not."""

    def __init__(self, model: nn.Module) -> None:
        chosen = frozen(model)
        owners = dict.fromkeys(name.rpartition(".")[0] for name in chosen)
        self._layers = {path: (model.get_submodule(path), _attributes(chosen, path)) for path in owners}
        self.tensors = sum(is_quantized(param) for param in chosen.values())
        self.size = sum(_weights(param) for param in chosen.values() if is_quantized(param))
        self.nbytes = sum(nbytes(param) for param in chosen.values())
        self.left = sum(param.numel() for name, param in model.named_parameters() if name not in chosen)

    def __len__(self) -> int:
        """The number of quantised tensors."""
        return self.tensors

    def digest(self) -> str:
        """One SHA-256 over the codes and scales, with their names, dtypes and shapes, in the order of their names.

        They are read as a checkpoint holds them: a layer may keep its scales elsewhere than in its parameters.
        """
        total = hashlib.sha256()
        for path, (layer, attributes) in sorted(self._layers.items()):
            plain = own_parameters(layer).keys() - attributes
            inside = tuple(f"{name}." for name, _ in layer.named_children())
            for key, tensor in sorted(layer.state_dict().items()):
                if key not in plain and not key.startswith(inside) and isinstance(tensor, Tensor):
                    for name, part in sorted(parts(tensor)):
                        total.update(f"{path}.{key}.{name} {part.dtype} {tuple(part.shape)}\n".encode())
                        total.update(_raw(part))
        return total.hexdigest()


def nbytes(tensor: Tensor) -> int:
    """Bytes that a tensor takes, a wrapped one's parts counted."""
    return sum(part.numel() * part.element_size() for _, part in parts(tensor))


def _attributes(chosen: dict[str, nn.Parameter], path: str) -> set[str]:
    return {name.rpartition(".")[2] for name in chosen if name.rpartition(".")[0] == path}


def _weights(param: nn.Parameter) -> int:
    """The number of weights that the codes stand for: bitsandbytes packs two into a byte."""
    state = getattr(param, "quant_state", None)
    return param.numel() if state is None else math.prod(state.shape)


def _raw(tensor: Tensor) -> memoryview:
    """The tensor's bytes, row-major and little endian."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
