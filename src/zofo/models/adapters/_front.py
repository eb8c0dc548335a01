"""What soft adapters put in front of a text: embeddings (a prompt) or keys and values in every layer (a prefix)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from zofo.models._transformers import cache_name, fill, passed_cache

Weights = dict[str, Tensor]  # of one adapter, or stacked over the rows of a batch
Shift = Callable[[Weights, Tensor], Tensor]  # (weights [R, ...], positions [R, L]) -> what is added, [R, L, D]


class Front(Protocol):
    """What an adapter puts before the rows' own tokens. weights: stacked over the rows, [R, ...].

    apart: whether the padding of a row that is padded on the left stands between the two.
    """

    @property
    def apart(self) -> bool: ...

    def attach(
        self, base: Any, weights: Weights, ids: Tensor, mask: Tensor, positions: Tensor | None
    ) -> dict[str, Any]:
        """Arguments of a forward. ids [R, L]; mask [R, L], or [R, 1, L, L] beside positions [R, L] (packed rows)."""
        ...

    def write(self, base: Any, weights: Weights, call: dict[str, Any], read: int) -> dict[str, Any]:
        """What to change in a call of `base` that `generate` makes, when the cache holds `read` tokens of the text.

        Its mask, if it has one, is [R, read + L], of rows padded on the left.
        """
        ...


@dataclass(frozen=True)
class PromptFront:
    """Embeddings weights["prompt"] [R, n, D] before those of the tokens, which `shift` may move by their positions."""

    shift: Shift | None = None
    apart = False

    def attach(
        self, base: Any, weights: Weights, ids: Tensor, mask: Tensor, positions: Tensor | None
    ) -> dict[str, Any]:
        places = arange(ids) if positions is None else positions
        return prepend(base, weights["prompt"], ids, mask, positions, self._shift(weights, places))

    def write(self, base: Any, weights: Weights, call: dict[str, Any], read: int) -> dict[str, Any]:
        ids, prompt, mask = call["input_ids"], weights["prompt"], call.get("attention_mask")
        n, length = prompt.shape[1], ids.shape[1]
        seen = ids.new_ones(len(ids), read + length) if mask is None else mask
        shift = self._shift(weights, counted(seen)[:, -length:])
        shown = prompt if read == 0 else prompt[:, :0]
        embedded: Tensor = prepend(base, shown, ids, ids.new_ones(ids.shape), shift=shift)["inputs_embeds"]
        if read == 0 and not bool(seen.all()):
            embedded = behind_padding(embedded, n, seen)
        whole = torch.cat([seen, seen.new_ones(len(ids), n)], dim=1)  # padding, the prompt, the row
        new = {"input_ids": None, "inputs_embeds": embedded, "attention_mask": None if mask is None else whole}
        if call.get("position_ids") is None:
            return new
        return {**new, "position_ids": counted(whole)[:, -embedded.shape[1] :]}

    def _shift(self, weights: Weights, positions: Tensor) -> Tensor | None:
        return None if self.shift is None else self.shift(weights, positions)


@dataclass(frozen=True)
class PrefixFront:
    """Keys and values in the cache before a row: weights["prefix"] [R, n, layers * 2 * heads * width] (as in PEFT)."""

    layers: int
    heads: int
    apart = True

    def attach(
        self, base: Any, weights: Weights, ids: Tensor, mask: Tensor, positions: Tensor | None
    ) -> dict[str, Any]:
        from transformers import DynamicCache

        n = weights["prefix"].shape[1]
        places = {} if positions is None else {"position_ids": positions + n}
        cache = fill(DynamicCache(), self._keys_and_values(base, weights["prefix"]))
        return {"input_ids": ids, "attention_mask": lengthen(mask, n), str(cache_name(base)): cache, **places}

    def write(self, base: Any, weights: Weights, call: dict[str, Any], read: int) -> dict[str, Any]:
        ids, n = call["input_ids"], weights["prefix"].shape[1]
        cache = passed_cache(call) if call.get("use_cache") else None  # else it is what an earlier call gave back
        mask, positions = call.get("attention_mask"), call.get("position_ids")
        if cache is None:  # the whole text is read anew with each token
            return self.attach(base, weights, ids, torch.ones_like(ids) if mask is None else mask, positions)
        if read == 0:
            fill(cache, self._keys_and_values(base, weights["prefix"]))
        new = {} if mask is None else {"attention_mask": lengthen(mask, n)}
        return new if positions is None else {**new, "position_ids": positions + n}

    def _keys_and_values(self, base: Any, prefix: Tensor) -> list[tuple[Tensor, Tensor]]:
        rows, n, _ = prefix.shape
        parts = prefix.to(base.dtype).view(rows, n, self.layers * 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        return [(parts[2 * i].contiguous(), parts[2 * i + 1].contiguous()) for i in range(self.layers)]


def arange(ids: Tensor, first: int = 0) -> Tensor:
    """Positions [R, L] of tokens [R, L], counted from `first`."""
    return torch.arange(first, first + ids.shape[1], device=ids.device).expand(len(ids), -1)


def counted(mask: Tensor) -> Tensor:
    """Positions [R, L] of rows whose mask is [R, L]: padding on the left is not counted, and is at 0."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def behind_padding(embedded: Tensor, n: int, mask: Tensor) -> Tensor:
    """[R, n + L, D], n virtual tokens before padded rows -> the padding before the virtual tokens: what looks back by
    a distance in the row sees them where it was trained to. mask: [R, L]."""
    padding = (mask == 0).sum(-1, keepdim=True)
    place = torch.arange(embedded.shape[1], device=mask.device).expand(len(mask), -1)
    moved = torch.where(place < padding, place + n, torch.where(place < padding + n, place - padding, place))
    return embedded.gather(1, moved[..., None].expand_as(embedded))


def prepend(
    base: Any,
    prompt: Tensor,
    input_ids: Tensor,
    mask: Tensor,
    positions: Tensor | None = None,
    shift: Tensor | None = None,
) -> dict[str, Any]:
    """Arguments of a forward with prompt [R, n, D] before the tokens' embeddings (plus `shift` [R, L, D] on them).

    positions: [R, L], of packed rows, whose mask is [R, 1, L, L].
    """
    n, embedded = prompt.shape[1], base.get_input_embeddings()(input_ids)
    if shift is not None:
        embedded = embedded + shift.to(embedded.dtype)
    new: dict[str, Any] = {"inputs_embeds": torch.cat([prompt.to(embedded.dtype), embedded], dim=1)}
    if positions is None:
        return {**new, "attention_mask": lengthen(mask, n)}
    rows = len(mask)
    before = torch.ones(n, mask.shape[-1] + n, dtype=torch.bool, device=mask.device).tril().expand(rows, 1, -1, -1)
    places = torch.arange(n, device=mask.device).expand(rows, -1)
    return {
        **new,
        "attention_mask": torch.cat([before, lengthen(mask, n)], dim=2),
        "position_ids": torch.cat([places, positions + n], dim=1),
    }


def lengthen(mask: Tensor, n: int) -> Tensor:
    """The mask [..., L] with n visible virtual tokens on the left: [..., n + L]."""
    return torch.cat([mask.new_ones(*mask.shape[:-1], n), mask], dim=-1)
