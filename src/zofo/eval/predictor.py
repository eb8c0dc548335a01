"""Answers to rows whose answer nobody knows yet: an option with its probability, or a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from zofo.data.calibration import NULLED, NullKey, null_key
from zofo.data.checks import check_scoring, check_words, refuse_words
from zofo.data.example import Example, Scoring
from zofo.data.files import BadRows
from zofo.data.metrics import NONE
from zofo.data.tokenization import Encoded, tokenize_all, tokenize_prompt
from zofo.data.unlabelled import Asking
from zofo.errors import InputError
from zofo.eval.decoding import Request, decode
from zofo.eval.likelihood import likeliest, null_scores, option_scores_of
from zofo.models.backbone import Loaded
from zofo.models.scorer import Scorer
from zofo.models.tree_probe import Sharing
from zofo.zo.keys import derive
from zofo.zo.ranks import ALONE, Ranks

NULLS = 2**12  # prompts without their input whose scores are kept


@dataclass(frozen=True)
class Answer:
    """What the model says to a row. prediction: the option it chooses, by its name; None where there is none: a score
    is NaN, or the row could not be used. probabilities: of the options, as `options` names them. text: what it wrote.
    """

    prediction: str | None = None
    options: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    text: str | None = None


@dataclass
class Predictor:
    """model: the backbone, or what an adapter makes of it. seed: of texts that are sampled, with a row's id.

    ranks: those that share the rows. cut: how many rows lost the beginning of their prompts. nan: how many had no
    finite scores.
    """

    loaded: Loaded
    model: Any
    asking: Asking
    scoring: Scoring
    batch_size: int
    seed: int
    cut: int = 0
    nan: int = 0
    ranks: Ranks = ALONE
    _null: dict[NullKey, tuple[float, ...]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._scorer: Scorer = self.loaded.scorer(self.model)
        self._share = Sharing(self._scorer, self.loaded.max_length, self.ranks.every)

    def check(self, examples: Sequence[Example], bad: BadRows) -> None:
        """Tells `bad` of the rows that cannot be asked, so that it can be said before the first is answered."""
        if self.asking.kind == "text":
            self._requests(examples, bad)
            return
        loaded, encoded = self.loaded, self._encoded(examples, bad)
        check_scoring([e.example for e in encoded], self.scoring, loaded.tokenizer, loaded.max_length, loaded.beyond)

    @torch.no_grad()
    def __call__(
        self, examples: Sequence[Example], bad: BadRows, progress: Callable[[int], None] | None = None
    ) -> list[Answer]:
        """The answer to each, in their order. bad: what is done with rows that do not fit the model; their answer is
        empty. progress: called with how many are done. Raises InputError naming the row."""
        if self.asking.kind == "text":
            return self._texts(examples, bad, progress)
        encoded = self._encoded(examples, bad)
        bad.stop("rows", len(examples))
        self.cut += sum(e.cut for e in encoded)
        if self.scoring in NULLED:
            if len(self._null) > NULLS:  # rows with options of their own have nulls of their own
                self._null.clear()
            new = [e.example for e in encoded if null_key(e.example) not in self._null]
            if new:
                how = (self.loaded.tokenizer, self.loaded.max_length, self.batch_size, self.scoring, self.ranks)
                self._null |= null_scores(self._scorer, new, *how)
        packed = self._share(encoded) if encoded else []
        scores = option_scores_of(self._scorer, packed, self.batch_size, self.scoring, self._null, progress, self.ranks)
        answers = {e.example.id: self._choice(e.example, each) for e, each in zip(encoded, scores)}
        return [answers.get(example.id, Answer()) for example in examples]

    def _encoded(self, examples: Sequence[Example], bad: BadRows) -> list[Encoded]:
        limit, usable = self.loaded.max_length, []
        for each in tokenize_all(self.loaded.tokenizer, examples, limit, "options", False, True, "", bad, says=False):
            try:
                check_words([each], self.loaded.beyond)
            except InputError as error:
                bad.refuse(error, each.example.where)
            else:
                usable.append(each)
        return usable

    def _choice(self, example: Example, scores: torch.Tensor) -> Answer:
        names = self.asking.labels or tuple(answer.strip() for answer in example.answers)
        index = likeliest(scores)
        if index == NONE:
            self.nan += 1
            return Answer(options=names)
        return Answer(names[index], names, tuple(scores.softmax(0).tolist()))

    def _requests(self, examples: Sequence[Example], bad: BadRows) -> dict[str, tuple[Request, bool]]:
        """{example's id: (what is written to, whether its prompt lost its beginning)} of those that can be used."""
        loaded, new = self.loaded, self.asking.decoding.max_new_tokens
        room = None if loaded.max_length is None else max(0, loaded.max_length - new + 1)
        requests = {}
        for example in examples:
            try:
                ids = tokenize_prompt(loaded.tokenizer, example, room)
                refuse_words(ids, loaded.beyond, example.where)
            except InputError as error:
                bad.refuse(error, example.where)
                continue
            cut = len(ids) == room and len(tokenize_prompt(loaded.tokenizer, example, None)) > len(ids)
            key = derive(self.seed, f"write/{example.id}", 0)
            requests[example.id] = Request(ids, new, key, example.cuttable is not None), cut
        return requests

    def _texts(self, examples: Sequence[Example], bad: BadRows, progress: Callable[[int], None] | None) -> list[Answer]:
        requests, loaded, done = self._requests(examples, bad), self.loaded, 0
        bad.stop("rows", len(examples))
        self.cut += sum(cut for _, cut in requests.values())

        def count(number: int, text: str) -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(min(done * ranks.count("world"), len(requests)))

        ranks, decoding = self.ranks, self.asking.decoding
        asked = [request for request, _ in requests.values()][ranks.place("world") :: ranks.count("world")]
        texts = decode(self.model, loaded.tokenizer, asked, decoding, loaded.pad_id, self.batch_size, count)
        texts = ranks.objects(texts, len(requests))
        written = dict(zip(requests, texts))
        return [Answer(text=written.get(example.id)) for example in examples]
