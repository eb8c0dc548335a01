"""SoftSet: adapters in front of the text: soft prompts and prefixes, one tensor stack for each name.

The wrapper builds embeddings, mask and cache itself, with the virtual tokens on the left of right-padded rows, so that
every row may carry another adapter. Files and deployed models are PEFT's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zofo.adapters._set import AdapterSet, peft_apart

Weights = dict[str, Tensor]  # of one adapter, or stacked over the rows of a batch
Attach = Callable[[Any, Weights, Tensor, Tensor], dict[str, Any]]  # (base, weights [R, ...], ids, mask) -> arguments


class SoftModel(nn.Module):
    """The backbone with virtual tokens in front of each row; its output may hold positions for them too."""

    def __init__(self, base: Any, attach: Attach, weights: Mapping[str, Weights]) -> None:
        super().__init__()
        self.base, self.attach = base, attach
        self.adapters = nn.ModuleDict({name: nn.ParameterDict(own) for name, own in weights.items()})
        self.row_names: list[str] | None = None
        self.current = next(iter(weights))

    @property
    def config(self) -> Any:
        return self.base.config

    def forward(self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool = False) -> Any:
        """input_ids, attention_mask: [R, L], padded on the right. Returns the backbone's output."""
        names = self.row_names or [self.current] * len(input_ids)
        return self.base(**self.attach(self.base, self._weights(names), input_ids, attention_mask), use_cache=use_cache)

    def _weights(self, names: Sequence[str]) -> Weights:
        """Each tensor stacked over the rows: an expanded view where all rows agree."""
        first = self.adapters[names[0]]
        if len(set(names)) == 1:
            return {key: value.expand(len(names), *value.shape) for key, value in first.items()}  # pyright: ignore
        return {key: torch.stack([self.adapters[name][key] for name in names]) for key in first.keys()}  # pyright: ignore # noqa: SIM118


class SoftSet(AdapterSet):
    """Named soft adapters; see `SoftModel`."""

    mixes = True

    def __init__(
        self, base: Any, attach: Attach, names: Sequence[str], initial: Weights, peft_config: Any, encode: Any = None
    ) -> None:
        """initial: fp32 tensors every name starts from. peft_config: what PEFT's file says, or None where PEFT does
        not know the adapter. encode: (weights -> tensors of the file, tensors of the file -> weights)."""
        weights = {name: {k: nn.Parameter(v.detach().clone()) for k, v in initial.items()} for name in names}
        model = SoftModel(base, attach, weights).eval()  # pyright: ignore[reportArgumentType]
        self.peft_config = peft_config
        self._to_file, self._from_file = encode or (dict, dict)
        super().__init__(model, names, weights)

    def _activate(self, name: str) -> None:
        self.model.current = name

    @contextmanager
    def rows(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        self.model.row_names = list(names)
        try:
            yield {}
        finally:
            self.model.row_names = None

    def state(self, name: str) -> dict[str, Tensor]:
        own = {key: p.detach().cpu().contiguous() for key, p in self._parameters[name].items()}
        return self._to_file(own)

    @torch.no_grad()
    def _load(self, name: str, state: dict[str, Tensor]) -> None:
        for key, value in self._from_file(state).items():
            self._parameters[name][key].copy_(value)

    def config(self, name: str) -> dict[str, Any]:
        return {**self.peft_config.to_dict(), "inference_mode": True}

    def deployable(self, name: str) -> Any:
        """A PeftModel on the same backbone with this adapter's weights."""
        from peft import get_peft_model, set_peft_model_state_dict

        with peft_apart():
            wrapped = get_peft_model(self.model.base, self.peft_config).eval()
        set_peft_model_state_dict(wrapped, self.state(name))
        return wrapped.requires_grad_(False)

    def unwrap(self) -> Any:
        return self.model.base


def prepend(base: Any, prompt: Tensor, input_ids: Tensor, mask: Tensor, shift: Tensor | None = None) -> dict[str, Any]:
    """Arguments of a forward with prompt [R, n, D] before the tokens' embeddings (plus `shift` [R, L, D] on them)."""
    embedded = base.get_input_embeddings()(input_ids)
    if shift is not None:
        embedded = embedded + shift.to(embedded.dtype)
    joined = torch.cat([prompt.to(embedded.dtype), embedded], dim=1)
    return {"inputs_embeds": joined, "attention_mask": lengthen(mask, prompt.shape[1])}


def lengthen(mask: Tensor, n: int) -> Tensor:
    """The mask with n visible virtual tokens on the left."""
    return torch.cat([mask.new_ones(len(mask), n), mask], dim=1)
