"""Whether a model computes the same from packed rows (`data.option_tree`): tried on some of the examples at hand."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zofo.data.batch import Batch, collate
from zofo.data.option_tree import option_trees
from zofo.data.tokenization import Encoded
from zofo.models._transformers import unwrapped
from zofo.models.scorer import Scorer

log = logging.getLogger("zofo")

TRIALS = {True: (2, 1), False: (8, 4)}  # the shortest and the longest examples that are tried; False: in half precision
WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")  # where a config tells how far a token looks back


def share_prompts(
    scorer: Scorer, encoded: Mapping[str, Sequence[Encoded]], limit: int | None
) -> dict[str, list[Encoded]]:
    """The examples of each split, packed where that saves tokens and the model computes the same from packed rows.

    limit: see `option_trees`. The meter is not moved.
    """
    plain = {name: list(examples) for name, examples in encoded.items()}
    packed = {name: option_trees(examples, limit) for name, examples in plain.items()}
    pairs = [pair for name in plain for pair in zip(plain[name], packed[name])]
    changed = sum(after is not before for before, after in pairs)
    if not changed:
        return plain
    if reason := probe(scorer, pairs):
        log.info("a prompt is computed anew for each of its options: %s", reason)
        return plain
    before, after = (sum(len(row.ids) for pair in pairs for row in pair[i].rows) for i in (0, 1))
    log.info(
        "a prompt is computed once for all its options: %d of %d examples, %.0f %% fewer tokens in all",
        changed,
        len(pairs),
        100 * (1 - after / before),
    )
    return packed


@torch.no_grad()
def probe(scorer: Scorer, pairs: Sequence[tuple[Encoded, Encoded]]) -> str:
    """Why the model must not be given packed rows; "" where it computes the same from them as from plain ones.

    pairs: (plain, packed) of each example; at least one is packed. The shortest are tried, and the longest. What turns
    a batch's bool mask into one the model adds stays on the model, if it takes packed rows.
    """
    model: Any = scorer.model
    base = unwrapped(model)
    if any(config.is_prompt_learning for config in getattr(model, "peft_config", {}).values()):
        return "PEFT's soft prompts drop the positions"
    # A mask [R, 1, L, L] stands for a layer's own window too, so all rows that may share a batch must lie in it.
    longest = max(e.length for pair in pairs for e in pair) + getattr(model, "virtual", 0)
    if longest > (reach := _window(base.config)):
        return f"rows of {longest} tokens are longer than the window of {reach} that a layer of the model sees"
    changed = sorted((pair for pair in pairs if pair[0] is not pair[1]), key=lambda pair: pair[1].length)
    exact = torch.finfo(base.dtype).bits >= 32
    short, long = TRIALS[exact]
    handle = base.register_forward_pre_hook(_additive, with_kwargs=True)
    try:
        same = all(_same(scorer, *zip(*tried), exact=exact) for tried in (changed[:short], changed[-long:]))
        reason = "" if same else f"{type(base).__name__} gives other log-probabilities that way"
    except Exception as error:  # whatever a model's code says to a mask and positions it does not know
        reason = (
            f"{type(base).__name__} does not take such rows ({(str(error).strip() or repr(error)).splitlines()[0]})"
        )
    if reason:
        handle.remove()
    return reason


def _window(config: Any) -> float:
    """Tokens that the layer which sees fewest looks back; inf where all see the whole row."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    kinds = getattr(text, "layer_types", None)
    if kinds and set(kinds) == {"full_attention"}:
        return math.inf
    windows = (getattr(text, name, None) for name in WINDOWS)
    return min((n for n in windows if isinstance(n, int) and n > 0), default=math.inf)


def _additive(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """A bool mask [R, 1, L, L] as 0 and the dtype's minimum: eager attention adds its mask, and would add a bool as 1.

    Fused attention takes both, and would make this of a bool in each layer anew.
    """
    mask = kwargs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 4 or mask.dtype != torch.bool:
        return None
    zeros = torch.zeros(mask.shape, dtype=module.dtype, device=mask.device)
    return args, {**kwargs, "attention_mask": zeros.masked_fill_(~mask, torch.finfo(module.dtype).min)}


@dataclass(frozen=True)
class _Wrong(Batch):
    """A packed batch that the model is called with as if one of its two peculiarities were not there."""

    without: str = ""

    def inputs(self) -> dict[str, Tensor]:
        plain = {
            "attention_mask": self.attention_mask.bool()[:, None, None]
            .expand(-1, -1, self.input_ids.shape[1], -1)
            .tril(),
            "position_ids": torch.arange(self.input_ids.shape[1], device=self.input_ids.device)[None]
            * self.attention_mask,
        }
        return {**super().inputs(), self.without: plain[self.without]}


def _same(scorer: Scorer, plain: Sequence[Encoded], packed: Sequence[Encoded], exact: bool) -> bool:
    """Whether the labels' log-probabilities agree.

    exact: to a fixed precision. Otherwise rounding may be larger than what a wrong model would show, so the error is
    held against what this model shows without the tree's mask, and without its positions, where these matter: of
    SmolLM2-135M in bfloat16, over four examples or more, it is 0 to 7 % of either; over one, up to 52 %.
    """

    def logprobs(batch: Batch) -> Tensor:
        return scorer.logprobs(batch)

    batch = collate(packed, scorer.pad_id)
    right, ours = logprobs(collate(plain, scorer.pad_id)), logprobs(batch)
    if exact:
        return torch.allclose(ours, right, rtol=1e-5, atol=1e-4)
    assert batch.segments is not None
    later = (batch.segments.flatten()[batch.positions] > 1).to(ours.device)  # a first branch is as in a plain row
    wrong = [logprobs(_Wrong(**vars(batch), without=name)) for name in ("attention_mask", "position_ids")]
    error, *wrongs = ((each - right)[later].norm() for each in (ours, *wrong))
    return all(bool(error < each / 2) for each in wrongs)
