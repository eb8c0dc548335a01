"""SoftSet: adapters in front of the text: soft prompts and prefixes, one tensor stack for each name.

The wrapper builds embeddings, mask and cache itself, with the virtual tokens on the left of right-padded rows, so that
every row may carry another adapter; and it writes texts itself, with transformers' `generate` around the same calls, so
that a text is what the trained forward says whatever PEFT makes of the two libraries' versions. Files are PEFT's where
PEFT knows the adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from zofo.errors import InputError
from zofo.models._transformers import cache_name, fill, passed_cache
from zofo.models.adapters._peft import wrap_soft
from zofo.models.adapters._set import AdapterSet

Weights = dict[str, Tensor]  # of one adapter, or stacked over the rows of a batch
Shift = Callable[[Weights, Tensor], Tensor]  # (weights [R, ...], positions [R, L]) -> what is added, [R, L, D]


class Front(Protocol):
    """What an adapter puts before the rows' own tokens. weights: stacked over the rows, [R, ...]."""

    def attach(
        self, base: Any, weights: Weights, ids: Tensor, mask: Tensor, positions: Tensor | None
    ) -> dict[str, Any]:
        """Arguments of a forward. ids [R, L]; mask [R, L], or [R, 1, L, L] beside positions [R, L] (packed rows)."""
        ...

    def write(self, base: Any, weights: Weights, call: dict[str, Any], read: int) -> dict[str, Any]:
        """What to change in a call of `base` that `generate` makes, when the cache holds `read` tokens of the text."""
        ...


class SoftModel(nn.Module):
    """The backbone with virtual tokens in front of each row; its output may hold positions for them too."""

    def __init__(self, base: Any, front: Front, weights: Mapping[str, Weights]) -> None:
        super().__init__()
        self.base, self.front = base, front
        self.adapters = nn.ModuleDict({name: nn.ParameterDict(own) for name, own in weights.items()})
        self.row_names: list[str] | None = None
        self.current = next(iter(weights))
        self.virtual = 0  # positions in front of a row
        self.bare = False  # whether nothing stands in front of the rows

    @property
    def config(self) -> Any:
        return self.base.config

    @property
    def device(self) -> torch.device:
        return self.base.device

    def get_base_model(self) -> Any:
        return self.base

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None,
        use_cache: bool = False,
    ) -> Any:  # fmt: skip
        """input_ids, attention_mask: [R, L], padded on the right. Returns the backbone's output.

        Of packed rows the mask is [R, 1, L, L], bool, and position_ids [R, L] count without the virtual tokens.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if self.bare:
            positions = {} if position_ids is None else {"position_ids": position_ids}
            return self.base(input_ids=input_ids, attention_mask=mask, use_cache=use_cache, **positions)
        names = self.row_names or [self.current] * len(input_ids)
        arguments = self.front.attach(self.base, self.stacked(names), input_ids, mask, position_ids)
        return self.base(**arguments, use_cache=use_cache)

    def stacked(self, names: Sequence[str]) -> Weights:
        """Each tensor stacked over the rows: an expanded view where all rows agree."""
        first = self.adapters[names[0]]
        if len(set(names)) == 1:
            return {key: value.expand(len(names), *value.shape) for key, value in first.items()}  # pyright: ignore
        return {key: torch.stack([self.adapters[name][key] for name in names]) for key in first.keys()}  # pyright: ignore # noqa: SIM118

    @torch.no_grad()
    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Any:
        """transformers' `generate` with the active adapter: [R, L] -> [R, L + new tokens].

        A token that is written at position t is read back as in training. Rows of unequal length (padded on either
        side) are written one after the other, each as if it were alone. Raises ValueError for a static cache.
        """
        if attention_mask is not None and not attention_mask.all():
            return self._one_by_one(input_ids, attention_mask, options)
        handle = self.base.register_forward_pre_hook(_Reading(self), with_kwargs=True)
        try:
            return self.base.generate(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), **options)
        finally:
            handle.remove()

    def _one_by_one(self, ids: Tensor, mask: Tensor, options: dict[str, Any]) -> Tensor:
        settings = (options.get("generation_config"), self.base.generation_config, self.base.config)
        known = [options.get("pad_token_id"), *(getattr(each, "pad_token_id", None) for each in settings)]
        written = []
        for row, seen in zip(ids, mask.bool()):
            found = self.generate(row[seen][None], **options)
            if not isinstance(found, Tensor):
                raise ValueError("return_dict_in_generate needs rows of one length")
            written += [torch.cat([row, one]) for one in found[:, int(seen.sum()) :]]
        return nn.utils.rnn.pad_sequence(written, True, next((pad for pad in known if isinstance(pad, int)), 0))


class _Reading:
    """Gives the calls that `generate` makes of the backbone what stands before their tokens.

    Without a cache every call holds the whole text; with one, all after the first hold the new tokens alone.
    """

    def __init__(self, model: SoftModel) -> None:
        self.model, self.read = model, 0  # read: tokens in the cache, the virtual ones left out

    def __call__(self, module: nn.Module, args: tuple, call: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        ids, mask = call["input_ids"], call.get("attention_mask")
        if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
            raise ValueError("a static cache is not supported beside a soft prompt: leave out cache_implementation")
        if not call.get("use_cache"):
            self.read = 0
        weights = self.model.stacked([self.model.current] * len(ids))
        new = self.model.front.write(module, weights, call, self.read)
        self.read += ids.shape[1]
        return args, {**call, **new}


@dataclass(frozen=True)
class PromptFront:
    """Embeddings weights["prompt"] [R, n, D] before those of the tokens, which `shift` may move by their positions."""

    shift: Shift | None = None

    def attach(
        self, base: Any, weights: Weights, ids: Tensor, mask: Tensor, positions: Tensor | None
    ) -> dict[str, Any]:
        places = arange(ids) if positions is None else positions
        return prepend(base, weights["prompt"], ids, mask, positions, self._shift(weights, places))

    def write(self, base: Any, weights: Weights, call: dict[str, Any], read: int) -> dict[str, Any]:
        ids, prompt, mask = call["input_ids"], weights["prompt"], call.get("attention_mask")
        n, length = prompt.shape[1], ids.shape[1]
        shown = prompt if read == 0 else prompt[:, :0]
        new = prepend(base, shown, ids, ids.new_ones(ids.shape), shift=self._shift(weights, arange(ids, read)))
        new |= {"input_ids": None, "attention_mask": None if mask is None else lengthen(mask, n)}
        if call.get("position_ids") is None:
            return new
        span = torch.arange(0 if read == 0 else n + read, n + read + length, device=ids.device)
        return {**new, "position_ids": span.expand(len(ids), -1)}

    def _shift(self, weights: Weights, positions: Tensor) -> Tensor | None:
        return None if self.shift is None else self.shift(weights, positions)


@dataclass(frozen=True)
class PrefixFront:
    """Keys and values in the cache before a row: weights["prefix"] [R, n, layers * 2 * heads * width] (as in PEFT)."""

    layers: int
    heads: int

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


class SoftSet(AdapterSet):
    """Named soft adapters; see `SoftModel`."""

    mixes = True

    def __init__(
        self, base: Any, front: Front, names: Sequence[str], initial: Weights, peft_config: Any, encode: Any = None,
        *, virtual: int, draw: Callable[[int], Weights] | None = None,
    ) -> None:  # fmt: skip
        """initial: fp32 tensors every name starts from. peft_config: what PEFT's file says; a mapping where PEFT does
        not know the adapter. encode: (weights -> tensors of the file, tensors of the file -> weights). virtual:
        positions in front of a row. draw: key -> another start, None where nothing of it is drawn."""
        weights = {name: {k: nn.Parameter(v.detach().clone()) for k, v in initial.items()} for name in names}
        model = SoftModel(base, front, weights).eval()  # pyright: ignore[reportArgumentType]
        self.peft_config, self.virtual, self._draw, model.virtual = peft_config, virtual, draw, virtual
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

    @contextmanager
    def without(self) -> Iterator[None]:
        self.model.bare = True
        try:
            yield
        finally:
            self.model.bare = False

    def state(self, name: str) -> dict[str, Tensor]:
        own = {key: p.detach().cpu().contiguous() for key, p in self._parameters[name].items()}
        return self._to_file(own)

    @torch.no_grad()
    def _load(self, name: str, state: dict[str, Tensor]) -> None:
        for key, value in self._from_file(state).items():
            self._parameters[name][key].copy_(value)

    @property
    def kind(self) -> str:
        """The adapter's name in PEFT's files."""
        return str(self.config(self.names[0])["peft_type"]).rpartition(".")[2].lower().replace("_", " ")

    def config(self, name: str) -> dict[str, Any]:
        if isinstance(self.peft_config, Mapping):
            return dict(self.peft_config)
        return {**self.peft_config.to_dict(), "inference_mode": True}

    def deployable(self, name: str) -> Any:
        self._switch(name)
        return self.model.requires_grad_(False)

    def as_peft(self, name: str) -> Any | None:
        if isinstance(self.peft_config, Mapping):
            return None
        return wrap_soft(self.model.base, self.peft_config, self.state(name))

    def merged(self, name: str) -> Any:
        raise InputError(
            f"--merge: a {self.kind} adapter adds to the text and changes no weights, so it cannot be merged; export "
            f"without --merge"
        )

    @torch.no_grad()
    def redraw(self, name: str, seed: int) -> None:
        if self._draw is None:
            raise InputError(f"method.apart: adapter {self.kind} starts from a text, nothing is drawn")
        for key, value in self._draw(seed).items():
            self._parameters[name][key].copy_(value)

    def unwrap(self) -> Any:
        return self.model.base


def is_soft(model: Any) -> bool:
    """Whether virtual tokens stand before its rows: ours, or those of a deployed PEFT model."""
    own = any(config.is_prompt_learning for config in getattr(model, "peft_config", {}).values())
    return own or isinstance(model, SoftModel)


def arange(ids: Tensor, first: int = 0) -> Tensor:
    """Positions [R, L] of tokens [R, L], counted from `first`."""
    return torch.arange(first, first + ids.shape[1], device=ids.device).expand(len(ids), -1)


def prepend(
    base: Any, prompt: Tensor, input_ids: Tensor, mask: Tensor, positions: Tensor | None = None,
    shift: Tensor | None = None,
) -> dict[str, Any]:  # fmt: skip
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
