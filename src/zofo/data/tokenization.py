"""Tokenization of examples: prompt and answer as one text, the answer's tokens as labels.

A `Row` is one token sequence the model reads. Its labels say "the hidden state at position t must predict token y of
option o". The last token of an answer is only ever predicted, never read, so no row holds it; and since the model is
causal, options whose tokens differ only at the end (" terrible", " great") are scored by one row.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Literal

from zofo.data.ending import trained_id
from zofo.data.example import Example
from zofo.data.files import BadRows
from zofo.data.heap import growing
from zofo.data.text_tokens import Text, Tokens, common, split
from zofo.errors import InputError

log = logging.getLogger("zofo")
PART = 2**13  # examples whose texts the tokenizer is given at once
Encodes = Literal["options", "gold"]


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence. `labels`: (position whose hidden state predicts, token id to predict, option index).

    branches: of an option tree (see `option_tree`), where in `ids` each of its branches starts.
    """

    ids: tuple[int, ...]
    labels: tuple[tuple[int, int, int], ...]
    branches: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Encoded:
    """A tokenized example: `gold` holds the indices of its right options, out of `n_options`.

    cut: it has lost the beginning of its prompt. turns_cut: and with it so many turns that would be learnt.
    """

    example: Example
    rows: tuple[Row, ...]
    gold: tuple[int, ...]
    n_options: int
    cut: bool = False
    turns_cut: int = 0

    @property
    def length(self) -> int:
        """Tokens of the longest row."""
        return max(len(row.ids) for row in self.rows)

    @property
    def shared(self) -> int:
        """Tokens of the start that all rows share."""
        rows = [row.ids for row in self.rows]
        return common(min(rows), max(rows))  # what the first and the last in order share, all between them share

    @property
    def size(self) -> int:
        """Tokens of the rows, their common start counted once: the same whether they are an option tree or not."""
        return sum(len(row.ids) for row in self.rows) - (len(self.rows) - 1) * self.shared


def _text(example: Example, option: int) -> Text:
    lead, answer = example.leads[option] if example.leads else "", example.answers[option]
    answer = "." if example.unanswered else answer  # a row needs a label, here one that is in no loss
    return Text(example.prompt + lead, answer, example.cuttable, example.learnt)


@growing()
def tokenize_all(
    tokenizer: Any,
    examples: Sequence[Example],
    max_length: int | None,
    encodes: Encodes,
    add_eos: bool,
    for_eval: bool = False,
    what: str = "",
    bad: BadRows | None = None,
    says: bool = True,
) -> list[Encoded]:
    """Tokenize every example, the answers of many in one call of the tokenizer.

    encodes "options": all options. "gold": the right answer alone, or, `for_eval`, all options where there are any.
    `add_eos` appends the EOS as a label. `max_length` None: the tokenizer's own limit, if any. what: the examples' name
    where it `says` that some were cut. InputError if an answer does not fit or has no token, unless `bad` skips it.
    """
    if max_length is None and tokenizer.model_max_length < 1e9:  # a tokenizer without a limit says 1e30
        max_length = int(tokenizer.model_max_length)
    every = encodes == "options" or for_eval
    texts = ([_text(e, i) for i in (range(len(e.answers)) if every else e.gold[:1])] for e in examples)
    tokens = _tokens(tokenizer, texts)
    eos = trained_id(tokenizer) if add_eos else None
    encoded, cut, refused = [], [], bad or BadRows()
    for example, options in zip(examples, tokens):
        try:
            for option in options:
                ends = eos if example.cuttable is None else None  # a chat ends its turn itself
                _finish(option, example, tokenizer, ends)
            _check_distinct(options, example)
            before = sum(len(option.learnt) for option in options)
            short = _truncate(options, example, max_length)
        except InputError as error:
            refused.refuse(error, example.where)
            continue
        lost = before - sum(len(option.learnt) for option in options)
        cut += [example.id] if short else []
        encoded.append(Encoded(example, _rows(options), example.gold if every else (0,), len(options), short, lost))
    if bad is None:
        refused.check(what, len(examples), 0)
    if cut and says:
        log.warning(
            "%d of %d %s are longer than %s tokens (%s is one) and lost the beginning of their prompts%s; "
            "model.max_length sets the limit",
            len(cut),
            len(examples),
            f"{what} examples".strip(),
            max_length,
            cut[0],
            _lost(encoded),
        )
    return encoded


def _tokens(tokenizer: Any, texts: Iterable[Sequence[Text]]) -> Iterator[list[Tokens]]:
    """Each example's answers. What the tokenizer makes beside the ids is let go of after PART examples, and equal ids
    are one object: a million rows would take gigabytes more."""
    one: dict[int, int] = {}
    texts = iter(texts)
    while part := list(islice(texts, PART)):
        tokens = iter(split(tokenizer, list(chain.from_iterable(part))))
        for answers in part:
            options = [next(tokens) for _ in answers]
            for option in options:
                option.ids = [one.setdefault(i, i) for i in option.ids]
            yield options


def _lost(encoded: Sequence[Encoded]) -> str:
    """What a cut took of the turns that would be learnt, in words."""
    lost, turns = sum(e.turns_cut for e in encoded), sum(1 + len(e.example.learnt) for e in encoded)
    return f", and {lost} of {turns} turns of the assistant's, which are not learnt (task.loss_on=all)" if lost else ""


def _check_distinct(options: Sequence[Tokens], example: Example) -> None:
    """Raises InputError for two options of the same tokens; a text that is listed twice is right both times or none."""
    numbers: dict[tuple[int, ...], int] = {}
    for number, option in enumerate(options):
        first = numbers.setdefault(tuple(option.ids), number)
        one, other = ((example.leads[i] if example.leads else "") + example.answers[i] for i in (first, number))
        if one != other or (first in example.gold) != (number in example.gold):
            raise InputError(
                f"{example.where}: options {first} and {number}, {one!r} and {other!r}, are the same tokens, so the "
                f"model cannot tell them apart; mend or drop the row, or take another model"
            )


def merged(tokenizer: Any, examples: Sequence[Example]) -> list[Example]:
    """The plain examples in which a token holds the prompt's last and the first right answer's first character."""
    texts = [_text(example, example.gold[0]) for example in examples]
    prompts, both = split(tokenizer, [Text(text.prompt, "", None) for text in texts]), split(tokenizer, texts)
    return [
        example for example, prompt, whole in zip(examples, prompts, both) if whole.ids[: len(prompt.ids)] != prompt.ids
    ]


def tokenize(
    tokenizer: Any,
    example: Example,
    max_length: int | None,
    encodes: Encodes,
    add_eos: bool,
    for_eval: bool = False,
) -> Encoded:
    """`tokenize_all` for one example."""
    return tokenize_all(tokenizer, [example], max_length, encodes, add_eos, for_eval)[0]


def tokenize_prompt(tokenizer: Any, example: Example, room: int | None) -> list[int]:
    """The tokens of an example's prompt, for a text to go on with: at least one, at most `room` (None: no limit).

    A prompt that is too long loses its beginning, as in `tokenize_all`. Raises InputError where that is not enough.
    """
    (tokens,) = split(tokenizer, [Text(example.prompt, "", example.cuttable)])
    tokens.first = len(tokens.ids)
    _one_bos(tokens, example, tokenizer.bos_token_id)
    if not tokens.ids:
        tokens.ids.append(_start(tokenizer, example))
    excess = 0 if room is None else len(tokens.ids) - room
    left = min(tokens.stop, len(tokens.ids)) - tokens.lead
    if excess > 0 and excess >= left + (example.cuttable is not None):
        raise InputError(
            f"{example.where}: {room} tokens are left for the prompt beside what may be written; lower "
            f"task.max_new_tokens, or raise model.max_length"
        )
    del tokens.ids[tokens.lead : tokens.lead + max(excess, 0)]
    return tokens.ids


def _finish(tokens: Tokens, example: Example, tokenizer: Any, eos: int | None) -> None:
    """One BOS, the EOS if asked for, and at least one token on each side of the boundary."""
    ids = tokens.ids
    _one_bos(tokens, example, tokenizer.bos_token_id)
    if eos is not None and (len(ids) == tokens.first or ids[-1] != eos):
        ids.append(eos)
    if tokens.first == len(ids):
        raise InputError(f"{example.where}: the answer is empty: no token of the prompt's tokenisation belongs to it")
    if next(tokens.labels) == 0:  # nothing can predict the first token of a text: the usual start stands before it
        ids.insert(0, _start(tokenizer, example))
        tokens.lead += 1
        tokens.moved(1)


def _one_bos(tokens: Tokens, example: Example, bos: int | None) -> None:
    ids, lead = tokens.ids, tokens.lead
    if example.cuttable is None and 0 < lead < tokens.first and ids[lead - 1] == ids[lead] == bos:
        del ids[lead]  # the text begins with the BOS that the tokenizer adds too
        tokens.moved(-1)


def _start(tokenizer: Any, example: Example) -> int:
    """The token before an empty prompt."""
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise InputError(f"{example.where}: the prompt is empty and the tokenizer has no BOS or EOS to start from")
    return start


def _truncate(options: list[Tokens], example: Example, max_length: int | None) -> bool:
    """Cut the prompt at its left, behind the specials, by one amount for all options: they keep one context."""
    longest = max(len(o.ids) for o in options)
    excess = 0 if max_length is None else longest - max_length
    if excess <= 0:
        return False
    room = min(o.stop - max(o.lead, 1) for o in options)  # one token must stay before the answer
    if excess > room:
        answer, rest = max(len(o.ids) - o.first for o in options), max(o.first - o.stop + o.lead for o in options)
        chat = f"beside the {rest} of the chat's headers " if example.cuttable else ""
        raise InputError(
            f"{example.where}: the answer has {answer} tokens and does not fit {chat}into {max_length} "
            f"(an answer is never truncated); raise model.max_length or shorten the answer"
        )
    for option in options:
        del option.ids[option.lead : option.lead + excess]
        # what is left of a turn, or a turn without its header, would be read as another's and learnt as that
        option.learnt = [turn for turn in option.learnt if turn.header >= option.lead + excess]
        option.moved(-excess)
    return True


def _rows(options: list[Tokens]) -> tuple[Row, ...]:
    """One row per distinct context: an option that another one's row already contains as a prefix rides along."""
    bodies: list[tuple[int, ...]] = []
    owner: dict[int, int] = {}
    for number in sorted(range(len(options)), key=lambda n: -len(options[n].ids)):
        body = tuple(options[number].ids[:-1])
        row = next((r for r, other in enumerate(bodies) if other[: len(body)] == body), len(bodies))
        if row == len(bodies):
            bodies.append(body)
        owner[number] = row
    labels: list[list[tuple[int, int, int]]] = [[] for _ in bodies]
    for number, option in enumerate(options):
        labels[owner[number]].extend((i - 1, option.ids[i], number) for i in option.labels)
    return tuple(Row(body, tuple(row_labels)) for body, row_labels in zip(bodies, labels))
