"""A conversation with anything that is a model: a run, an export, a PEFT directory, a hub id."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zofo.api.generate import Prompt, encode, of_the_run, system_of
from zofo.api.out_of_memory import smaller, with_options
from zofo.api.restore import given_model
from zofo.api.targets import Opened, check_chat, open_target, refuse_without_chat
from zofo.config.typed import build
from zofo.data import Decoding
from zofo.errors import InputError
from zofo.eval.decoding import Request, decode
from zofo.zo.keys import derive

log = logging.getLogger("zofo")
Turn = dict[str, Any]  # {"role": ..., "content": ...}


@dataclass(frozen=True)
class Answer:
    """text: of the assistant's turn. whole: False where Ctrl-C cut it. left_out: turns of the history that the model
    was not given, the oldest, since they do not fit its context."""

    text: str
    whole: bool = True
    left_out: int = 0


@dataclass
class Conversation:
    """turns: all that was said, without the system's. The whole history is read anew at each turn: no cache is kept,
    since a template may write it otherwise then."""

    opened: Opened
    decoding: Decoding
    seed: int = 0
    system: str | None = None
    turns: list[Turn] = field(default_factory=list)
    advice: Sequence[str] = ()  # what takes less memory

    @property
    def messages(self) -> list[Turn]:
        """The turns with the system's before them, as rows with messages have them."""
        return [*([] if self.system is None else [_turn("system", self.system)]), *self.turns]

    def instruct(self, system: str | None) -> None:
        """Another system turn from now on; None: none. Raises InputError where the template takes none."""
        encode(Prompt([_turn("user", "a")], "system"), self.opened.loaded, True, system)
        self.system = system

    def ask(
        self, text: str, heard: Callable[[str], None] = lambda text: None, place: str = "the conversation"
    ) -> Answer:
        """The model's answer to a user's turn; both are in the history then. The same seed and history give the same.

        heard: called with what of the answer is settled, as it is written. place: for errors. Ctrl-C stops the answer,
        and what was heard stays as one. Raises InputError, with the history as it was, for a turn that does not fit.
        """
        asked = [*self.turns, _turn("user", text)]
        ids, room, left_out = self._prompt(asked, place)
        said = ""

        def hear(number: int, settled: str) -> None:
            nonlocal said
            if settled != said:
                said = settled
                heard(said)

        loaded, key = self.opened.loaded, derive(self.seed, "chat", sum(turn["role"] == "user" for turn in asked))
        whole = True
        try:
            with with_options("the answer", self.advice):
                request = Request(ids, room, key, chat=True)
                (said,) = decode(
                    self.opened.model, loaded.tokenizer, [request], self.decoding, loaded.pad_id, 1, heard=hear
                )
        except KeyboardInterrupt:
            whole = False
        self.turns = [*asked, _turn("assistant", said)]
        return Answer(said, whole, left_out)

    def _prompt(self, turns: Sequence[Turn], place: str) -> tuple[list[int], int, int]:
        """(token ids, tokens that the answer may have, turns left out): of the newest turns, from a user's on, as many
        as leave the answer its tokens, or half of the context."""
        loaded, most, first = self.opened.loaded, self.decoding.max_new_tokens, 0
        limit = loaded.max_length
        users = [i for i, turn in enumerate(turns) if turn["role"] == "user"]
        wanted = most if limit is None else min(most, max(limit // 2, 1))
        while True:
            prompt, last = Prompt(turns[first:], place), first == users[-1]
            ids = encode(prompt, loaded, True, self.system, fits=last)
            if last or limit is None or len(ids) + wanted - 1 <= limit:
                return ids, most if limit is None else min(most, limit - len(ids) + 1), first
            first = next(i for i in users if i > first)


def _turn(role: str, content: str) -> Turn:
    return {"role": role, "content": content}


def open_chat(
    target: str | Path,
    *,
    system: str | None = None,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    adapter: str | None = None,
    model: str | None = None,
    overrides: Sequence[str] = (),
    noted: Callable[[str], None] | None = None,
) -> Conversation:
    """A conversation with a run's, an export's or a plain model that has a chat template. Arguments: as `generate`'s.

    noted: called with what a person should know. Raises InputError.
    """
    given, _ = given_model(model, overrides, "chat")
    settings, errors = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}, list[str]()
    decoding = build("", Decoding, settings, errors)
    if errors or decoding is None:
        raise InputError("\n".join(errors))
    if idle := decoding.idle():
        log.warning("%s", idle)
    refuse_without_chat(target, given)
    advice = [*smaller(given), "fewer new tokens"]
    with with_options("the loading", advice):
        opened = open_target(target, adapter, given)
    check_chat(opened.loaded.tokenizer, str(target))
    made = Conversation(opened, decoding, seed, advice=advice)
    own = system_of(opened, system)
    made.instruct(own)
    if own is not None and system is None:
        (noted or log.info)(of_the_run(own))
    return made
