"""Generation in batches: what a row of a batch says is what it would say alone.

Rows of unequal length are padded on the left, where the model's positions follow its mask; recurrent models, which
cannot do that, are given rows of one length at a time. Sampling adds a row's own Gumbel noise to its log-probabilities
and takes the largest (Maddison et al. 2014), so that a draw hangs on the row's key alone, not on its batch, and the
global random state is neither read nor moved.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zofo.data import Decoding, ending
from zofo.errors import InputError
from zofo.models._transformers import pads_left, unwrapped, way_to_write, write_greedily
from zofo.models.adapters._soft import SoftModel, is_soft

if TYPE_CHECKING:
    from transformers import LogitsProcessorList

TAIL = 16  # tokens that are decoded at first to see whether a text has stopped


@dataclass(frozen=True)
class Request:
    """A text to go on with. ids: its tokens, at least one. room: how many may follow. key: of its sampling.

    chat: it is a conversation, whose answer ends as the chat template says.
    """

    ids: Sequence[int]
    room: int
    key: int = 0
    chat: bool = False


@torch.no_grad()
def decode(
    model: Any,
    tokenizer: Any,
    requests: Sequence[Request],
    decoding: Decoding,
    pad_id: int,
    batch_size: int = 32,
    done: Callable[[int, str], None] | None = None,
    heard: Callable[[int, str], None] | None = None,
) -> list[str]:
    """The continuation of each request, without it; the longest requests are decoded first.

    model: with transformers' `generate`. decoding.samples is the caller's: a request is one text. done: called with
    each request's number and text. heard: with its number and what of its text is settled, at each token of its batch.
    """
    texts = [""] * len(requests)
    for batch in _batches(model, requests, decoding.max_new_tokens, batch_size):
        asked = [requests[i] for i in batch]
        hear = (lambda row, text, batch=batch: heard(batch[row], text)) if heard is not None else None
        for number, text in zip(batch, _decode_batch(model, tokenizer, asked, decoding, pad_id, hear)):
            texts[number] = text
            if done is not None:
                done(number, text)
    return texts


def _batches(model: Any, requests: Sequence[Request], new: int, size: int) -> Iterator[list[int]]:
    """Numbers of requests that are decoded together: as many tokens each, and of one length where that must be."""

    padded = takes_padding(model)

    def kind(i: int) -> tuple[int, int]:
        return min(requests[i].room, new), 0 if padded else len(requests[i].ids)

    order = sorted(range(len(requests)), key=lambda i: (kind(i), -len(requests[i].ids), i))
    groups = [list(group) for _, group in groupby(order, key=kind)]
    for group in sorted(groups, key=lambda g: -len(requests[g[0]].ids)):
        yield from (group[i : i + size] for i in range(0, len(group), size))


def takes_padding(model: Any) -> bool:
    """Whether rows of unequal length may be padded on the left: a row says the same then."""
    if isinstance(model, SoftModel):
        return model.takes_padding()
    return not is_soft(model) and pads_left(unwrapped(model))  # PEFT's soft prompts drop the positions


def _decode_batch(
    model: Any,
    tokenizer: Any,
    requests: Sequence[Request],
    decoding: Decoding,
    pad_id: int,
    heard: Callable[[int, str], None] | None = None,
) -> Iterator[str]:
    ids, mask = _padded_left(requests, pad_id)
    length = ids.shape[1]
    ends = ending.stop_ids(tokenizer, unwrapped(model))
    words = {chat: ending.stop_texts(tokenizer, chat, decoding.stop) for chat in {r.chat for r in requests}}
    stops = [words[request.chat] for request in requests]
    before = [detokenize(tokenizer, request.ids) for request in requests]
    over: dict[int, int] = {}  # row: tokens up to the stop text; what follows is not the row's, the batch goes on

    def continuation(row: int, new: list[int]) -> str:
        """Decoded with the prompt: some tokenizers drop the first space of a text."""
        new = new[: next((i for i, token in enumerate(new) if token in ends), len(new))]
        whole = detokenize(tokenizer, [*requests[row].ids, *new])
        return whole[len(before[row]) :] if whole.startswith(before[row]) else detokenize(tokenizer, new)

    def may_end(row: int, new: list[int]) -> bool:
        """Whether the last token may have ended a stop text: from the last tokens, since a text grows long."""
        longest, seen = max(map(len, stops[row]), default=0), [*requests[row].ids[-TAIL:], *new]
        size = TAIL
        while size < len(seen) and len(detokenize(tokenizer, seen[-size:-1])) < longest:
            size *= 2
        text = detokenize(tokenizer, seen[-size:])
        return any(stop in text for stop in stops[row])

    def said(row: int, new: list[int]) -> str:
        return ending.cut(continuation(row, new[: over.get(row, len(new))]), stops[row])

    def stopped(sequences: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        for row, new in enumerate(sequences[:, length:].tolist()):
            if row not in over and (heard is not None or may_end(row, new)):
                text = continuation(row, new)
                if any(stop in text for stop in stops[row]):
                    over[row] = len(new)
                if heard is not None:
                    heard(row, ending.settled(text, stops[row]))
        return torch.tensor([row in over for row in range(len(requests))], device=sequences.device)

    way = way_to_write(model, requests[0].ids)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Position ids are not supported")  # PEFT's own, without padding right
        new = min(decoding.max_new_tokens, requests[0].room)
        generated = write_greedily(
            model,
            ids.to(model.device),
            mask.to(model.device),
            {**way, "max_new_tokens": new, "pad_token_id": pad_id, "eos_token_id": ends or None},
            logits_processor=_processors(decoding, [request.key for request in requests]),
            stopping_criteria=[stopped] if any(stops) or heard is not None else None,
        )
    return (said(row, new) for row, new in enumerate(generated[:, length:].tolist()))


def _padded_left(requests: Sequence[Request], pad_id: int) -> tuple[Tensor, Tensor]:
    """(ids, mask), [R, L] each."""
    length = max(len(request.ids) for request in requests)
    ids = torch.full((len(requests), length), pad_id)
    mask = torch.zeros_like(ids)
    for row, request in enumerate(requests):
        ids[row, length - len(request.ids) :] = torch.tensor(request.ids)
        mask[row, length - len(request.ids) :] = 1
    return ids, mask


def _processors(decoding: Decoding, keys: Sequence[int]) -> LogitsProcessorList:
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

    processors = LogitsProcessorList()
    if decoding.temperature > 0:
        processors.append(TemperatureLogitsWarper(decoding.temperature))
        if decoding.top_p < 1:
            processors.append(TopPLogitsWarper(decoding.top_p))
        processors.append(_Gumbel(keys))
    return processors


class _Gumbel:
    """Adds noise of each row's own to its log-probabilities, [R, V]: the argmax is then a sample."""

    def __init__(self, keys: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(key % 2**63) for key in keys]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        drawn = torch.stack([torch.rand(scores.shape[1], generator=g, dtype=torch.float64) for g in self.generators])
        noise = -torch.log(-torch.log(drawn.clamp_min(1e-300)))
        return scores + noise.to(scores.device, scores.dtype)


def detokenize(tokenizer: Any, ids: Sequence[int] | Tensor) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def prompt_ids(tokenizer: Any, text: str, place: str, chat: bool = False) -> list[int]:
    """Token ids of a text to go on with, at least one. chat: it holds its special tokens already."""
    ids = list(tokenizer(text, add_special_tokens=not chat, verbose=False)["input_ids"])
    if not chat:
        if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id and not text.endswith(tokenizer.eos_token):
            ids.pop()  # some tokenizers close every text; the continuation is before the close
        if len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id:
            ids.pop(0)  # the text begins with the BOS that the tokenizer adds too
    if not ids:
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if start is None:
            raise InputError(f"{place}: it is empty and the tokenizer has no BOS or EOS to start from")
        ids = [start]
    return ids
