"""All that zofo takes from the inside of PEFT: its layers' switches, its tables and files, and how they are tried.

PEFT's `set_adapter` rewrites requires_grad of every adapter and costs milliseconds, its `add_adapter` walks over the
whole model for each name; so switching and twins are owned here. `versions` knows the versions that this was tried
with; `zofo env` prints them.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy, deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zofo.errors import out_of_memory
from zofo.models._transformers import close, unwrapped
from zofo.models.versions import named
from zofo.zo.keys import derive

if TYPE_CHECKING:
    from peft import PeftConfig

log = logging.getLogger("zofo")
TRIAL = ((1, 2, 3), (3, 1, 2))  # token ids of the two rows with which mixing is tried


@contextmanager
def peft_apart(device: torch.device | None = None, seed: int = 0) -> Iterator[None]:
    """Around PEFT's constructors: they draw from the global generator, and use what transformers deprecates.

    Inside, the generator is a fork seeded with `seed` (64 bits); outside, the global random state is as it was.
    """
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        torch.manual_seed(seed % 2**63)
        yield


# ------------------------------------------------------------------------------------------------- adapters in layers


def wrap_layers(model: Any, config: PeftConfig, names: Sequence[str], seed: int) -> Any:
    """A PeftModel with one adapter for each name, all equal, drawn from a generator of their own."""
    from peft import get_peft_model

    with peft_apart(model.device, seed):
        wrapped: Any = get_peft_model(model, config, adapter_name=names[0])
    for layer in tuner_layers(wrapped):
        _twin(layer, names[0], names[1:])
    for name in names[1:]:
        wrapped.peft_config[name] = copy(wrapped.peft_config[names[0]])
    return wrapped.eval()


def _twin(layer: Any, first: str, names: Sequence[str]) -> None:
    """Give an adapted layer the adapter `first` under further names: its modules, parameters and settings.

    PEFT's add_adapter does the same in a walk over the whole model for each name, so that the adapters of 40 tasks took
    a minute.
    """
    for held in (*vars(layer).values(), *layer._modules.values(), *layer._parameters.values()):
        if isinstance(held, (dict, nn.ModuleDict, nn.ParameterDict)) and first in held:
            for name in names:
                held[name] = deepcopy(held[first])


def tuner_layers(model: nn.Module) -> list[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def shared_weights(model: Any) -> Iterator[tuple[str, str]]:
    """(path of an adapted layer's tensor, path of the same tensor elsewhere), as the bare backbone has them.

    Elsewhere: in a module that the adapter does not change, or that another one changes. A layer that the model calls
    in several places, adapter and all, is one use. Tensors are the same where they lie in the same memory.
    """
    base, uses = model.get_base_model(), dict[int, dict[int, str]]()
    tuned = {id(layer) for layer in tuner_layers(model)}
    adapted: dict[str, int] = {}  # path of a layer's own module -> the layer with its adapters
    for path, module in base.named_modules(remove_duplicate=False):
        adapted |= {f"{path}.base_layer": id(module)} if id(module) in tuned else {}
        for name, param in module.named_parameters(recurse=False):
            owner, where = adapted.get(path, id(module)), path.removesuffix(".base_layer")
            uses.setdefault(param.data_ptr() or id(param), {}).setdefault(owner, f"{where}.{name}")
    layers = set(adapted.values())
    for owners in uses.values():
        changed = [path for owner, path in owners.items() if owner in layers]
        if changed and len(owners) > 1:
            yield changed[0], next(path for path in owners.values() if path != changed[0])


def activate(model: Any, layers: Sequence[Any], name: str) -> None:
    """The model computes with this adapter; requires_grad of all of them stays as it is."""
    for layer in layers:
        layer._active_adapter = [name]
    model.active_adapter = name


@contextmanager
def disabled(layers: Sequence[Any]) -> Iterator[None]:
    """The model computes as the backbone alone; requires_grad stays as it is."""
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


@contextmanager
def mixed(layers: Sequence[Any], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Arguments of a forward whose row i uses adapter names[i].

    PEFT's hooks for it stay on the layers when the forward raises, and every later one would follow them.
    """
    before = [set(layer._forward_pre_hooks) for layer in layers]
    try:
        yield {"adapter_names": list(names)}
    except BaseException:
        for layer, hooks in zip(layers, before):
            for key in set(layer._forward_pre_hooks) - hooks:
                del layer._forward_pre_hooks[key]
                layer._forward_pre_hooks_with_kwargs.pop(key, None)
        raise


@torch.no_grad()
def rows_may_mix(model: Any, layers: Sequence[Any], parameters: Mapping[str, Mapping[str, nn.Parameter]]) -> bool:
    """Whether rows of one batch may belong to different adapters (`adapter_names`), tried with two rows.

    PEFT hands the names to its layers by hooks. It does not set them for every model (MPT), where all rows then get the
    active adapter without a word; and they do not fit layers that see tokens instead of rows (OPT's fc1 and fc2, some
    experts). For the trial two adapters get weights of their own; afterwards all are bit for bit what they were.
    """
    one, other = list(parameters)[:2]
    before = {name: [p.clone() for p in parameters[name].values()] for name in (one, other)}
    active = str(model.active_adapter)
    ids = torch.tensor(TRIAL, device=model.device)
    try:
        for name in before:
            for key, param in parameters[name].items():
                param.copy_(_drawn(param, derive(0, f"mixing/{name}/{key}")))
        right = torch.cat([_logits_of(model, layers, row, name) for row, name in zip(ids, (one, other))])
        wrong = torch.cat([_logits_of(model, layers, ids[0], other), right[1:]])  # all rows with the active one
        with mixed(layers, (one, other)) as arguments:
            logits = model(input_ids=ids, use_cache=False, **arguments).logits
        same = close(logits, right) or _nearer(logits, right, wrong)
        why = "" if same else "gives other numbers that way"
    except Exception as error:  # whatever PEFT's layers or a model's code say to it
        if out_of_memory(error):
            raise
        why = f"does not take it ({(str(error).strip() or repr(error)).splitlines()[0]})"
    finally:
        activate(model, layers, active)
        for name, values in before.items():
            for param, value in zip(parameters[name].values(), values):
                param.copy_(value)
    if why:
        log.info(
            "each adapter has a forward of its own, not rows of a shared batch: %s with %s %s",
            type(model.get_base_model()).__name__,
            named("peft", "transformers"),
            why,
        )
    return not why


def _logits_of(model: Any, layers: Sequence[Any], ids: Tensor, name: str) -> Tensor:
    """[1, L, V] of one row with one adapter, which stays active."""
    activate(model, layers, name)
    return model(input_ids=ids[None], use_cache=False).logits


def _nearer(logits: Tensor, right: Tensor, wrong: Tensor) -> bool:
    """In half precision alone: whether rounding explains the error, by what the wrong adapter would make of it.

    With the trial's large weights bf16 rounds by .14 of that in SmolLM2-135M; the wrong adapter in one row is 1.
    """
    if torch.finfo(right.dtype).bits >= 32:
        return False
    return bool((logits.float() - right.float()).norm() <= 0.3 * (wrong.float() - right.float()).norm())


def _drawn(param: Tensor, seed: int) -> Tensor:
    """Weights of an adapter with which it changes what the model says by about as much as its own weights do."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    drawn = torch.randn(param.shape, generator=generator) / max(1, param.shape[-1]) ** 0.5
    return drawn.to(param.device, param.dtype)


# ---------------------------------------------------------------------------------------------- adapters before a text


def wrap_soft(base: Any, config: PeftConfig, state: Mapping[str, Tensor]) -> Any:
    """PEFT's own model of a prompt or prefix, on the same backbone. state: the tensors of its file."""
    from peft import get_peft_model, set_peft_model_state_dict

    with peft_apart():
        wrapped = get_peft_model(base, config).eval()
    set_peft_model_state_dict(wrapped, dict(state))
    return wrapped.requires_grad_(False)


def soft_start(model: Any, name: str) -> tuple[str, Tensor] | None:
    """("prompt" | "prefix", fp32 tensor of its file) of PEFT's model; None for a kind that is more than one tensor.

    Prompt tuning, p-tuning and prefix tuning: what an encoder made of them in training is one table in the file.
    """
    kind = str(model.peft_config[name].peft_type).rpartition(".")[2]
    name_here = {"PROMPT_TUNING": "prompt", "P_TUNING": "prompt", "PREFIX_TUNING": "prefix"}.get(kind)
    if name_here is None:
        return None
    return name_here, model.prompt_encoder[name].embedding.weight.detach().float()


# --------------------------------------------------------------------------------------------------------------- files


def read_peft(directory: Path, base: Any, name: str) -> tuple[Any, list[str], list[str]]:
    """(PEFT's model of a directory on `base`, tensors that its file lacks, tensors it has beside the adapter's)."""
    from peft import PeftConfig, PeftModel

    with peft_apart(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found missing adapter keys")
        config = PeftConfig.from_pretrained(str(directory))
        model = PeftModel.from_pretrained(base, str(directory), config=config).eval()
        left = model.load_adapter(str(directory), name)
    return model, list(left.missing_keys), list(left.unexpected_keys)


def take_off(model: Any) -> None:
    """The base of PEFT's model is as it was before `read_peft`, its own modules in their places."""
    if not model.peft_config[next(iter(model.peft_config))].is_prompt_learning:
        model.unload()
    base = unwrapped(model)
    for name in ("peft_config", "_hf_peft_config_loaded"):
        base.__dict__.pop(name, None)


# -------------------------------------------------------------------------------------------------------------- tables


def lora_targets(family: str) -> list[str] | None:
    """PEFT's default modules for LoRA in models of this type."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as TARGETS

    targets = TARGETS.get(family)
    return None if targets is None else list(targets)


def ia3_targets(family: str) -> tuple[list[str], list[str]] | None:
    """PEFT's default (modules, those of them whose input is scaled) for IA3 in models of this type."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as FORWARD
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as TARGETS

    return (list(TARGETS[family]), list(FORWARD[family])) if family in TARGETS else None
