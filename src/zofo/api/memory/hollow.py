"""Hollow tensors: the shapes, dtypes and operations of a model without its values, so a step can be run on any machine.

Weights and whatever is computed from them are torch's FakeTensors. They say they are on the CPU, so the operations are
the CPU's (its attention keeps what the real one keeps). Token ids, masks and labels are real: what depends on them
(which positions have logits, whether there is a mask at all) comes out as in a run. A number that is read from a hollow
tensor is 1; in a step it decides nothing.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zofo.config.sections import ModelConfig
from zofo.errors import InputError
from zofo.models import quantization
from zofo.models.activation_checkpointing import dequantize_in_backward
from zofo.models.adapters._set import AdapterSet
from zofo.models.load import check_kind, choose_dtype, hub_options, refusing, source_of
from zofo.zo import kernels, low_rank_rows, quantile, shift
from zofo.zo._torch import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    TorchDispatchMode,
    UnsupportedOperatorException,
    own_buffers,
    own_parameters,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

aten = torch.ops.aten
_FACTORIES = {
    aten.empty.memory_format,
    aten.empty_strided.default,
    aten.zeros.default,
    aten.ones.default,
    aten.full.default,
    aten.rand.default,
    aten.randn.default,
    aten.rand.generator,
    aten.randn.generator,
}
_ANSWERS = {aten.allclose.default, aten.equal.default, aten.is_nonzero.default}
_INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}


class Hollow(TorchDispatchMode):
    """An operation with a hollow operand has hollow results; new floating-point memory is hollow too."""

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(issubclass(t, FakeTensor) for t in types):
            if func is aten._local_scalar_dense.default:
                return torch.ones((), dtype=args[0].dtype, device="cpu").item()
            if func in _ANSWERS:
                return True
            if func in _INDEXED:  # a real mask says where: its places are known
                args = (args[0], [place for index in args[1] for place in _places(index)], *args[2:])
            if func is aten._grouped_mm.default:
                return _grouped(*args, **kwargs)
            return func(*args, **kwargs)
        dtype = kwargs.get("dtype") or torch.get_default_dtype()
        # int16: a split weight's residuals
        if func in _FACTORIES and (dtype.is_floating_point or dtype == torch.int16):
            with self.fake:
                return func(*args, **kwargs)
        return func(*args, **kwargs)


def _places(index: Any) -> tuple[Any, ...]:
    masks = isinstance(index, Tensor) and index.dtype == torch.bool and not isinstance(index, FakeTensor)
    return index.nonzero().unbind(1) if masks else (index,)


def _grouped(left: Tensor, right: Tensor, offsets: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    """The experts' product. torch's own rule for its shape takes bfloat16 alone."""
    shape = (left.shape[-2], right.shape[-1])
    if left.ndim == right.ndim:
        groups = len(offsets) if offsets is not None and left.ndim == 2 else len(left)
        shape = (groups, *shape)
    return left.new_empty(shape)


def _few_slabs(total: int, rows: int) -> list[int]:
    """The first two slabs and the last: those between take what the second one takes."""
    starts = range(0, total, rows)
    return [*starts[:2], *starts[2:][-1:]]


class _NoKernels:
    """Stands for a backend of `zofo.zo.kernels`: there are no values to change, and the CPU's take no memory."""

    def __getattr__(self, name: str) -> Callable[..., int]:
        return lambda *_, **__: 1  # an answer for `sum_squares`


def _no_noise(n: int, *_: Any) -> Tensor:
    return torch.zeros(n, dtype=torch.int32)


def _apply(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """nn.Module's, which swaps hollow tensors and cannot where anything refers to them: new ones take their place."""
    for child in module.children() if recurse else ():
        child._apply(change)
    for key, param in own_parameters(module).items():
        if param is not None and (new := change(param.detach())).dtype != param.dtype:
            own_parameters(module)[key] = nn.Parameter(new, param.requires_grad)
    for key, buffer in own_buffers(module).items():
        if buffer is not None:
            own_buffers(module)[key] = change(buffer)
    return module


@contextmanager
def replaced(owner: Any, **attributes: Any) -> Iterator[None]:
    """These attributes of a module are others inside the context."""
    before = {name: getattr(owner, name) for name in attributes}
    try:
        for name, value in attributes.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


@contextmanager
def hollow(family: str) -> Iterator[Hollow]:
    """Inside, hollow models can be computed with. Raises InputError where the data decides what is computed.

    family: what the model is called in that error.
    """
    quiet = logging.getLogger("torch._subclasses.fake_tensor")  # it prints what a trial of `tree_probe` may find
    level = quiet.level
    quiet.setLevel(logging.CRITICAL)
    try:
        no_kernels = replaced(kernels, _backend=lambda *_: _NoKernels(), noise=_no_noise)
        no_values = replaced(quantile, smallest=lambda _, ranks: [1.0] * len(ranks))
        no_bases = replaced(low_rank_rows, orthonormal=lambda columns: columns, _check=lambda *_: None)
        no_modules = replaced(nn.Module, _apply=_apply)
        few = replaced(shift, slabs=_few_slabs)
        other = replaced(AdapterSet, equal=lambda *_: False)  # without values all are alike; apart takes more
        with no_kernels, no_values, no_bases, no_modules, few, other, warnings.catch_warnings(), Hollow() as mode:
            warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")  # all are null
            yield mode
    except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException) as error:
        raise InputError(
            f"memory: {family} models choose by the data what they compute ({error.func}), so nothing can be predicted "
            f"without them; zofo train --dry-run measures a step"
        ) from error
    finally:
        quiet.setLevel(level)


def settings_of(config: ModelConfig) -> tuple[PreTrainedConfig, torch.dtype]:
    """(transformers' configuration, the dtype that `models.load.load` would choose). Reads config.json alone.

    Raises InputError as `models.load.load` does. CUDA need not be here: what is asked about may be another machine.
    The name may be a config.json's own, too.
    """
    from transformers import AutoConfig

    where = config.name if Path(config.name).is_file() else source_of(config.name)
    with refusing(config.name, "config.json"):
        settings = AutoConfig.from_pretrained(where, **hub_options(config, where))
        check_kind(settings)
    here = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(here if config.device == "auto" else config.device)
    return settings, choose_dtype(config.dtype, device, settings)


def hollow_model(config: ModelConfig, settings: PreTrainedConfig, dtype: torch.dtype, mode: Hollow) -> nn.Module:
    """The model of `settings`, hollow, in eval mode without gradients; no weight is read and nothing is drawn.

    Raises InputError as `models.load.load` does.
    """
    from transformers import AutoModelForCausalLM

    with refusing(config.name, "config.json"), mode.fake:
        model = AutoModelForCausalLM.from_config(settings, dtype=dtype, trust_remote_code=config.trust_remote_code)
        quantization.quantize_hollow(model, config, settings, dtype)
    if getattr(settings, "output_router_logits", False):
        model.config.output_router_logits = False  # as `models.load.load` does
    dequantize_in_backward(model)
    return model.eval().requires_grad_(False)
