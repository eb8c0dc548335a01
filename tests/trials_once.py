"""`tree_probe.probe`, tried once for each model and its examples: hundreds of short runs would try the same again.

It is a sixth of a short run. What is remembered is the answer of a real trial in this process, by all that it hangs on;
tests of the trial itself call it by its own name, and a model that anything was hooked into is tried every time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from zofo.data.tokenization import Encoded
from zofo.models import tree_probe
from zofo.models._transformers import unwrapped
from zofo.models.label_head import LabelHead
from zofo.models.scorer import Scorer

Pairs = Sequence[tuple[Encoded, Encoded]]
TRIED = tree_probe.probe


def install() -> None:
    """For all of this process."""
    if tree_probe.probe is TRIED:
        tree_probe.probe = remembered(TRIED)


def remembered(probe: Callable[[Scorer, Pairs], str]) -> Callable[[Scorer, Pairs], str]:
    """The same function, with its answers kept."""
    reasons: dict[Hashable, str] = {}

    def ask(scorer: Scorer, pairs: Pairs) -> str:
        key = _key(scorer, pairs)
        if key is None:
            return probe(scorer, pairs)
        if key not in reasons:
            reasons[key] = probe(scorer, pairs)
        elif not reasons[key]:
            base: Any = unwrapped(scorer.model)
            base.register_forward_pre_hook(tree_probe._additive, with_kwargs=True)  # as the trial leaves it
        return reasons[key]

    return ask


def _key(scorer: Scorer, pairs: Pairs) -> Hashable | None:
    """All that an answer hangs on; None where it is not known: counted or faked tensors, hooks, quantised weights."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    model: Any = scorer.model
    if _get_current_dispatch_mode_stack():
        return None
    digest, forwards = hashlib.sha256(), []
    for name, module in model.named_modules():
        hooks = [getattr(hook, "__func__", hook) for hook in module._forward_pre_hooks.values()]
        if module._forward_hooks or "forward" in vars(module) or not set(hooks) <= {LabelHead._gather}:
            return None
        forwards.append(type(module).forward)
        digest.update(repr((name, type(module).__qualname__, _plain(vars(module)))).encode())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if type(tensor) not in (torch.nn.Parameter, torch.Tensor) or tensor.device.type != "cpu":
            return None
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape), tensor.requires_grad)).encode())
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    digest.update(unwrapped(model).config.to_json_string(use_diff=False).encode())
    digest.update(repr((getattr(model, "peft_config", None), scorer.pad_id, scorer.device, type(scorer.head))).encode())
    functions = [F.scaled_dot_product_attention, *(ALL_ATTENTION_FUNCTIONS[n] for n in ALL_ATTENTION_FUNCTIONS)]
    rows = tuple(
        (pair[0] is pair[1], *((e.n_options, *((r.ids, r.labels, r.branches) for r in e.rows)) for e in pair))
        for pair in pairs
    )
    return digest.hexdigest(), tuple(forwards), tuple(functions), rows


def _plain(fields: dict[str, Any]) -> list[tuple[str, Any]]:
    """Of a module's fields those that are numbers and names, such as which adapter is active."""

    def plain(value: Any) -> bool:
        inner = value if isinstance(value, list | tuple) else [value]
        return all(isinstance(each, bool | int | float | str) for each in inner)

    return [(name, value) for name, value in fields.items() if plain(value)]
