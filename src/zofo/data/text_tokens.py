"""Prompt and answer as one text of tokens, and where in it the answer, and a conversation's other borders, lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from zofo.data.example import Learnt


@dataclass(frozen=True, slots=True)
class Text:
    prompt: str
    answer: str
    cuttable: tuple[int, int] | None  # see Example
    learnt: tuple[Learnt, ...] = ()


@dataclass(slots=True)
class Tokens:
    """prompt + answer as tokens: ids[first:] belong to the answer.

    Only ids[lead:stop] may be cut: not the tokenizer's own specials, nor a chat's headers. learnt: as `Example.learnt`,
    in tokens.
    """

    ids: list[int]
    lead: int
    stop: int
    first: int
    learnt: list[Learnt] = field(default_factory=list)

    def moved(self, by: int) -> None:
        """All of it stands so many tokens later, the beginning of the row aside."""
        self.stop, self.first = self.stop + by, self.first + by
        self.learnt = [Learnt(*(place + by for place in turn)) for turn in self.learnt]

    @property
    def labels(self) -> Iterator[int]:
        """Which of the ids are learnt, from left to right."""
        yield from chain.from_iterable(range(turn.start, turn.stop) for turn in self.learnt)
        yield from range(self.first, len(self.ids))


def split(tokenizer: Any, texts: Sequence[Text]) -> list[Tokens]:
    """Tokenize prompt + answer jointly: what the model would see, wherever tokens merge across the boundary."""
    if not getattr(tokenizer, "is_fast", False):
        return [_slow(tokenizer, text) for text in texts]
    tokens: dict[int, Tokens] = {}
    for chat in (False, True):
        chosen = {i: text for i, text in enumerate(texts) if (text.cuttable is not None) == chat}
        if chosen:
            tokens.update(zip(chosen, _fast(tokenizer, list(chosen.values()), not chat)))
    return [tokens[i] for i in range(len(texts))]


def _fast(tokenizer: Any, texts: Sequence[Text], specials: bool) -> Iterator[Tokens]:
    out = tokenizer(
        [text.prompt + text.answer for text in texts],
        add_special_tokens=specials,
        return_attention_mask=False,
        return_token_type_ids=False,
        truncation=False,
        padding=False,
        verbose=False,
    )
    for ids, encoding, text in zip(out["input_ids"], out.encodings, texts):
        special = encoding.special_tokens_mask
        start = next((i for i, s in enumerate(special) if not s), len(ids))
        end = next((i for i in range(len(ids), start, -1) if not special[i - 1]), start)
        first = _first(encoding, text, start, end)
        if text.cuttable is None:
            yield Tokens(ids[:end], start, first, first)
            continue
        offsets = encoding.offsets
        lead, stop = (next((i for i in range(first) if offsets[i][1] > c), first) for c in text.cuttable)
        yield Tokens(ids[:end], lead, stop, first, _learnt(text, offsets, first))


def _first(encoding: Any, text: Text, start: int, end: int) -> int:
    """The first token whose text ends beyond the prompt: it holds a character of the answer, whatever it holds of the
    prompt. All offsets as Python's objects take longer than the tokens do, so the tokenizer is asked for that one."""
    if not text.answer:
        return end
    token = encoding.char_to_token(len(text.prompt))
    if token is not None and start <= token < end:
        return token
    offsets = encoding.offsets  # that character is in no token
    return next((i for i in range(start, end) if offsets[i][1] > len(text.prompt)), end)


def _learnt(text: Text, offsets: Sequence[tuple[int, int]], first: int) -> list[Learnt]:
    """A turn's tokens: each that holds a character of it."""
    turns, at = [], 0
    for turn in text.learnt:
        header = at = next((i for i in range(at, first) if offsets[i][1] > turn.header), first)
        start = at = next((i for i in range(at, first) if offsets[i][1] > turn.start), first)
        at = next((i for i in range(at, first) if offsets[i][0] >= turn.stop), first)
        turns.append(Learnt(header, start, at))
    return turns


def _slow(tokenizer: Any, text: Text) -> Tokens:
    """Without offsets: the answer starts where the tokens of prompt + answer part from those of the prompt."""
    whole, specials = text.prompt + text.answer, text.cuttable is None
    ids = list(tokenizer(whole, add_special_tokens=specials)["input_ids"])

    def shared(start: str) -> int:
        return common(ids, tokenizer(start, add_special_tokens=specials)["input_ids"])

    if text.cuttable is not None:
        lead, stop = (shared(text.prompt[:c]) for c in text.cuttable)
        turns = [Learnt(*(shared(text.prompt[:place]) for place in turn)) for turn in text.learnt]
        return Tokens(ids, lead, stop, shared(text.prompt), turns)
    known, plain = set(tokenizer.all_special_ids), len(tokenizer(whole, add_special_tokens=False)["input_ids"])
    lead = 0
    while lead < len(ids) - plain and ids[lead] in known:
        lead += 1
    end = min(len(ids), lead + plain)
    first = min(max(lead, shared(text.prompt)), end)
    return Tokens(ids[:end], lead, first, first)


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common start."""
    return next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
