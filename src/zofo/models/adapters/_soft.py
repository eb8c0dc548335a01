"""SoftSet: adapters in front of the text: soft prompts and prefixes, one tensor stack for each name.

The wrapper builds embeddings, mask and cache itself, with the virtual tokens on the left of right-padded rows, so that
every row may carry another adapter; and it writes texts itself, with transformers' `generate` around the same calls, so
that a text is what the trained forward says whatever PEFT makes of the two libraries' versions. Files are PEFT's where
PEFT knows the adapter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zofo.errors import InputError
from zofo.models._transformers import pads_left, window
from zofo.models.adapters._front import Front, Weights
from zofo.models.adapters._peft import wrap_soft
from zofo.models.adapters._set import AdapterSet

if TYPE_CHECKING:
    from peft import PeftConfig


Encode = tuple[Callable[[Weights], Weights], Callable[[Weights], Weights]]  # to the tensors of a file, and back


class SoftModel(nn.Module):
    """The backbone with virtual tokens in front of each row; its output may hold positions for them too."""

    def __init__(self, base: Any, front: Front, weights: Mapping[str, Weights]) -> None:
        super().__init__()
        self.base, self.front = base, front
        self.adapters = nn.ModuleDict({name: nn.ParameterDict(tensors) for name, tensors in weights.items()})
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
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        use_cache: bool = False,
    ) -> Any:
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

        A token that is written at position t is read back as in training. Rows padded on the left are written together,
        each as if it were alone, where that can be done (`takes_padding`); others, and rows padded on the right, one
        after the other. Raises ValueError for a static cache.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if not bool(mask.all()) and (bool((mask.long().diff() < 0).any()) or not self.takes_padding()):
            return self._one_by_one(input_ids, mask, options)
        handle = self.base.register_forward_pre_hook(_Reading(self), with_kwargs=True)
        try:
            return self.base.generate(input_ids=input_ids, attention_mask=mask, **options)
        finally:
            handle.remove()

    def takes_padding(self) -> bool:
        """Whether rows padded on the left say the same.

        A prefix stands farther before a padded row than it was trained to. That is no matter where positions are what
        the model is told; but for a layer that looks back so far and no farther, or counts distances in the row
        (ALiBi in MPT), which a trial of a few tokens may not show.
        """
        told = "position_ids" in signature(self.base.forward).parameters and window(self.config) == math.inf
        return (told or not self.front.apart) and pads_left(self)

    def _one_by_one(self, ids: Tensor, mask: Tensor, options: dict[str, Any]) -> Tensor:
        settings = (options.get("generation_config"), self.base.generation_config, self.base.config)
        known = [options.get("pad_token_id"), *(getattr(each, "pad_token_id", None) for each in settings)]
        written = []
        for row, seen in zip(ids, mask.bool()):
            text = self.generate(row[seen][None], **options)
            if not isinstance(text, Tensor):
                raise ValueError("return_dict_in_generate needs rows of one length")
            written += [torch.cat([row, one]) for one in text[:, int(seen.sum()) :]]
        return nn.utils.rnn.pad_sequence(written, True, next((pad for pad in known if isinstance(pad, int)), 0))


class _Reading:
    """Gives the calls that `generate` makes of the backbone what stands before their tokens.

    Without a cache every call holds the whole text; with one, all after the first hold the new tokens alone.
    """

    def __init__(self, model: SoftModel) -> None:
        self.model, self.read = model, 0  # read: tokens in the cache, the virtual ones left out

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], call: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        ids, mask = call["input_ids"], call.get("attention_mask")
        if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
            raise ValueError("a static cache is not supported beside a soft prompt: leave out cache_implementation")
        if not call.get("use_cache"):
            self.read = 0
        weights = self.model.stacked([self.model.current] * len(ids))
        new = self.model.front.write(module, weights, call, self.read)
        self.read += ids.shape[1]
        return args, {**call, **new}


class SoftSet(AdapterSet):
    """Named soft adapters; see `SoftModel`."""

    mixes = True

    def __init__(
        self,
        base: Any,
        front: Front,
        names: Sequence[str],
        initial: Weights,
        peft_config: PeftConfig | Mapping[str, Any],
        encode: Encode | None = None,
        *,
        virtual: int,
        draw: Callable[[int], Weights] | None = None,
    ) -> None:
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
        return self._to_file({key: p.detach().cpu().contiguous() for key, p in self._parameters[name].items()})

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

    def mergeable(self, name: str) -> str:
        return (
            f"a {self.kind} adapter adds to the text and changes no weights, so it cannot be merged; export with "
            f"--separate"
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
    in_peft = any(config.is_prompt_learning for config in getattr(model, "peft_config", {}).values())
    return in_peft or isinstance(model, SoftModel)
