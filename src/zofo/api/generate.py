"""Writing with anything that is a model: a run, an export, a PEFT directory, a hub id."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zofo.api.out_of_memory import smaller, with_options
from zofo.api.restore import given_model
from zofo.api.targets import open_target
from zofo.config.typed import build
from zofo.data import Decoding
from zofo.data.chat_template import render
from zofo.data.checks import refuse_words
from zofo.errors import InputError
from zofo.eval.decoding import Request, decode, prompt_ids
from zofo.models.backbone import Loaded
from zofo.zo.keys import derive

log = logging.getLogger("zofo")
Turn = dict[str, Any]  # {"role": ..., "content": ...}


class Prompt(NamedTuple):
    """A text, or a conversation. place: where it came from, for errors."""

    content: str | Sequence[Turn]
    place: str


def generate(
    target: str | Path,
    prompts: Sequence[str | Sequence[Turn] | Prompt],
    *,
    max_new_tokens: int = 50,
    temperature: float = 0.0,
    top_p: float = 1.0,
    stop: Sequence[str] = (),
    seed: int = 0,
    chat: bool = False,
    adapter: str | None = None,
    model: str | None = None,
    overrides: Sequence[str] = (),
    batch_size: int = 1,
    done: Callable[[int, str], None] | None = None,
) -> list[str]:
    """The continuation of each prompt by a run's, an export's or a plain model, without the prompt.

    prompts: texts, or conversations (lists of turns with role and content), which the tokenizer's chat template writes.
    temperature: 0 takes the likeliest token each time. top_p: sample from the likeliest tokens that hold so much of the
    probability. stop: texts that end a continuation, and are no part of it. seed: keys the sampling, together with the
    prompt's number; the global random state is neither read nor moved. chat: a text is a user's turn. adapter: which of
    a run's ("p", "s", "theta"). model: where the base model is now. overrides: "model.key=value". batch_size: prompts
    written at once; the texts are the same, their order of `done` is not. done: called with each prompt's number and
    continuation. Raises InputError.
    """
    given, _ = given_model(model, overrides, "generate")
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "stop": stop}
    errors = [] if prompts and not isinstance(prompts, str) else ["prompts: expected a list of at least one prompt"]
    decoding = build("", Decoding, settings, errors)
    if errors or decoding is None:
        raise InputError("\n".join(errors))
    if idle := decoding.idle():
        log.warning("%s", idle)
    placed = [p if isinstance(p, Prompt) else Prompt(p, f"prompt {i}") for i, p in enumerate(prompts, 1)]
    less = ["--batch-size 1" if batch_size > 1 else "", *smaller(given), "fewer new tokens"]
    with with_options("the loading", less):
        opened = open_target(target, adapter, given)
    loaded = opened.loaded
    requests = []
    for number, prompt in enumerate(placed):  # a wrong one stops before the first is written
        ids = _encode(prompt, loaded, chat)
        room = max_new_tokens if loaded.max_length is None else loaded.max_length - len(ids) + 1
        if room < max_new_tokens:
            log.warning("%s: room for %d new tokens, not %d", prompt.place, room, max_new_tokens)
        is_chat = chat or not isinstance(prompt.content, str)
        requests.append(Request(ids, room, derive(seed, "generate", number), is_chat))
    with with_options("generation", less):
        return decode(opened.model, loaded.tokenizer, requests, decoding, loaded.pad_id, batch_size, done)


def _encode(prompt: Prompt, loaded: Loaded, chat: bool) -> list[int]:
    """Token ids, at least one. Raises InputError where they do not fit the model."""
    tokenizer, content = loaded.tokenizer, prompt.content
    if chat and isinstance(content, str):
        content = [{"role": "user", "content": content}]
    text = content if isinstance(content, str) else _render(tokenizer, content, prompt.place)
    ids = prompt_ids(tokenizer, text, prompt.place, chat=not isinstance(content, str))
    refuse_words(ids, loaded.beyond, prompt.place)
    if loaded.max_length is not None and len(ids) > loaded.max_length:
        raise InputError(f"{prompt.place}: {len(ids)} tokens, and the model takes {loaded.max_length}; shorten it")
    return ids


def _render(tokenizer: Any, turns: Sequence[Turn], place: str) -> str:
    """The conversation up to the place where the assistant writes; a last turn of the assistant's is left out."""
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"{place}: the model's tokenizer has no chat template; take an instruction-tuned model, or give plain texts"
        )
    if not all(isinstance(turn, dict) and {"role", "content"} <= set(turn) for turn in turns):
        raise InputError(f"{place}: expected a list of turns with role and content")
    turns = list(turns[:-1]) if turns and turns[-1]["role"] == "assistant" else list(turns)
    if not turns:
        raise InputError(f"{place}: no turn to answer")
    try:
        return render(tokenizer, turns, add_generation_prompt=True)
    except Exception as error:  # a template is the model's own program: it may raise anything
        raise InputError(f"{place}: the model's chat template refuses these messages: {error}") from None
