"""Which modules an adapter in the layers changes: the family's defaults, and refusals of what would change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from zofo.errors import InputError, did_you_mean
from zofo.models._transformers import Conv1D
from zofo.models.adapters._base import WHY_NOT_HEAD
from zofo.models.adapters._peft import ia3_targets, lora_targets

FUSED = ("qkv_proj", "query_key_value", "c_attn", "Wqkv")  # queries, keys and values in one matrix
DOWN = ("down_proj", "fc2")  # a feed-forward's last matrix, whose input IA3 scales


def query_value(model: Any) -> list[str]:
    """LoRA's default: the query and value projections; where they are fused with the keys, that matrix.

    Raises InputError with the candidates where there is neither.
    """
    family, names = model.config.model_type, {_last(name) for name in _linear(model)}
    if {"q_proj", "v_proj"} <= names:
        return ["q_proj", "v_proj"]
    targets = lora_targets(family) or [name for name in FUSED if name in names][:1]
    if not targets:
        raise InputError(
            f"adapter.target_modules: no default for {family!r} models; name some of: {', '.join(candidates(model))}"
        )
    return targets


def key_value_feedforward(model: Any) -> tuple[list[str], list[str]]:
    """IA3's default (targets, those of them whose input is scaled): keys, values, the feed-forward's inner activations.

    PEFT's own table has queries in place of keys or values for some families (opt, qwen2, gemma2 in 0.21), so it is
    asked only where the model has no k_proj and v_proj; a fused matrix is scaled whole, queries too. Raises InputError.
    """
    family, names = model.config.model_type, {_last(name) for name in _linear(model)}
    if not {"k_proj", "v_proj"} <= names:
        known = ia3_targets(family)
        if known is None:
            raise InputError(
                f"adapter.target_modules: no default for {family!r} models; name key, value and feed-forward modules, "
                f"of: {', '.join(candidates(model))}"
            )
        return known
    if any(p.ndim == 3 and ".experts." in name for name, p in model.named_parameters()):
        raise InputError(
            f"adapter.target_modules: {family!r} models keep the feed-forward weights of all experts in one tensor, "
            f"which ia3 cannot scale; target_modules=[k_proj, v_proj] scales keys and values alone, or use lora"
        )
    down = [name for name in DOWN if name in names][:1]
    if not down:
        raise InputError(
            f"adapter.target_modules: no default for {family!r} models, their feed-forward has no {' or '.join(DOWN)}; "
            f"name the modules, of: {', '.join(candidates(model))}"
        )
    return ["k_proj", "v_proj", *down], down


def check(model: Any, targets: Sequence[str], embeddings: bool = False) -> None:
    """Raises InputError for a target that is not in the model, or where an adapter would change nothing.

    embeddings: whether the adapter fits lookup tables too.
    """
    called, head = _called(model), model.get_output_embeddings()
    kinds = (nn.Linear, Conv1D, nn.Embedding) if embeddings else (nn.Linear, Conv1D)
    for target in targets:
        modules = dict(matching(model, target))
        known = candidates(model, called)
        choose = f"candidates: {', '.join(known)}"
        if not modules:
            hint = did_you_mean(target, known)
            raise InputError(f"adapter.target_modules: no module named {target!r}{hint}; {choose}")
        if any(m is head for m in modules.values()):
            raise InputError(
                f"adapter.target_modules: {target!r} is the head, which cannot be adapted: {WHY_NOT_HEAD}; {choose}"
            )
        if not all(isinstance(m, kinds) for m in modules.values()):
            kind = type(next(iter(modules.values()))).__name__
            raise InputError(f"adapter.target_modules: {target!r} is a {kind}, which is not adapted; {choose}")
        if not called & set(modules) or _in_mixer(model, modules):
            raise InputError(
                f"adapter.target_modules: {target!r} cannot be adapted, {model.config.model_type!r} models read its "
                f"weight without calling it; {choose}"
            )


def matching(model: Any, target: str) -> list[tuple[str, nn.Module]]:
    """(path, module) of what PEFT would adapt for one target."""
    return [(path, m) for path, m in model.named_modules() if path == target or path.endswith(f".{target}")]


def has_conv1d(model: Any, targets: Sequence[str]) -> bool:
    """Whether a target's weight is stored transposed (GPT-2), PEFT's `fan_in_fan_out`."""
    return any(isinstance(m, Conv1D) for target in targets for _, m in matching(model, target))


def candidates(model: Any, called: set[str] | None = None) -> list[str]:
    """Last parts of the names of the matrices that an adapter can change, the head's left out."""
    called, head = _called(model) if called is None else called, model.get_output_embeddings()
    matrices = {path: m for path, m in _linear(model).items() if path in called and m is not head}
    return sorted({_last(path) for path, m in matrices.items() if not _in_mixer(model, {path: m})})


def _linear(model: Any) -> dict[str, nn.Module]:
    return {path: m for path, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)}


def _last(path: str) -> str:
    return path.rsplit(".", 1)[-1]


def _in_mixer(model: Any, modules: dict[str, nn.Module]) -> bool:
    """A state-space mixer (known by its A_log) hands its output projection's weight to a fused kernel."""
    mixers = {path for path, m in model.named_modules() if hasattr(m, "A_log")}
    return any(_last(path) == "out_proj" and path.rpartition(".")[0] in mixers for path in modules)


@torch.no_grad()
def _called(model: Any) -> set[str]:
    """Names of the modules that a forward of one token calls. An adapter lives in its module's call."""
    names: set[str] = set()
    hooks = [m.register_forward_hook(lambda *_, path=path: names.add(path)) for path, m in model.named_modules()]
    try:
        model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return names
