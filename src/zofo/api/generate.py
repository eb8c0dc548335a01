"""Writing with anything that is a model: a run, an export, a PEFT directory, a hub id."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zofo.api.out_of_memory import smaller, with_options
from zofo.api.restore import given_model
from zofo.api.targets import Opened, check_chat, open_target, refuse_without_chat
from zofo.config.typed import build
from zofo.data import Decoding
from zofo.data.chat_template import render
from zofo.data.checks import refuse_words
from zofo.errors import InputError, printable
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
    system: str | None = None,
    adapter: str | None = None,
    model: str | None = None,
    overrides: Sequence[str] = (),
    batch_size: int = 1,
    done: Callable[[int, str], None] | None = None,
    noted: Callable[[str], None] | None = None,
) -> list[str]:
    """The continuation of each prompt by a run's, an export's or a plain model, without the prompt.

    prompts: texts, or conversations (lists of turns with role and content), which the tokenizer's chat template writes.
    temperature: 0 takes the likeliest token each time. top_p: sample from the likeliest tokens that hold so much of the
    probability. stop: texts that end a continuation, and are no part of it. seed: keys the sampling, together with the
    prompt's number; the global random state is neither read nor moved. chat: a text is a user's turn. system: a system
    turn before conversations that have none, and chats; None: the one that the run was trained with, "": none. adapter:
    which of a run's ("p", "s", "theta"). model: where the base model is now. overrides: "model.key=value". batch_size:
    prompts written at once; the texts are the same, their order of `done` is not. done: called with each prompt's
    number and continuation. noted: with what a person should know of it. Raises InputError.
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
    chats = any(chat or not isinstance(prompt.content, str) for prompt in placed)
    if system is not None and not chats:
        raise InputError("system: is part of a chat; give --chat too (chat=True in Python)")
    if chats:
        refuse_without_chat(target, given)
    less = ["--batch-size 1" if batch_size > 1 else "", *smaller(given), "fewer new tokens"]
    with with_options("the loading", less):
        opened = open_target(target, adapter, given)
    loaded = opened.loaded
    own = system_of(opened, system)
    if chats and own is not None and system is None:
        (noted or log.info)(of_the_run(own))
    requests = []
    for number, prompt in enumerate(placed):  # a wrong one stops before the first is written
        ids = encode(prompt, loaded, chat, own)
        room = max_new_tokens if loaded.max_length is None else loaded.max_length - len(ids) + 1
        if room < max_new_tokens:
            log.warning("%s: room for %d new tokens, not %d", prompt.place, room, max_new_tokens)
        is_chat = chat or not isinstance(prompt.content, str)
        requests.append(Request(ids, room, derive(seed, "generate", number), is_chat))
    with with_options("generation", less):
        return decode(opened.model, loaded.tokenizer, requests, decoding, loaded.pad_id, batch_size, done)


def system_of(opened: Opened, given: str | None) -> str | None:
    """The system turn: as given, "" for none; else the one that the run, or that of an export, was trained with."""
    if given is not None:
        return given or None
    return opened.config.task.system if opened.config is not None else None


def of_the_run(system: str) -> str:
    """A note for a person."""
    return f'the run\'s system turn: "{printable(system, 200)}" (--system TEXT for another one, --system "" for none)'


def encode(prompt: Prompt, loaded: Loaded, chat: bool, system: str | None = None, fits: bool = True) -> list[int]:
    """Token ids, at least one. system: a turn before a conversation that has none. Raises InputError for what the
    model's chat template does not take, and, where it has to fit, for more tokens than the model takes."""
    tokenizer, content = loaded.tokenizer, prompt.content
    if chat and isinstance(content, str):
        content = [{"role": "user", "content": content}]
    text = content if isinstance(content, str) else _render(tokenizer, content, prompt.place, system)
    ids = prompt_ids(tokenizer, text, prompt.place, chat=not isinstance(content, str))
    refuse_words(ids, loaded.beyond, prompt.place)
    if fits and loaded.max_length is not None and len(ids) > loaded.max_length:
        raise InputError(f"{prompt.place}: {len(ids)} tokens, and the model takes {loaded.max_length}; shorten it")
    return ids


def _render(tokenizer: Any, turns: Sequence[Turn], place: str, system: str | None) -> str:
    """The conversation up to the place where the assistant writes; a last turn of the assistant's is left out."""
    check_chat(tokenizer, place)
    if not all(isinstance(turn, dict) and {"role", "content"} <= set(turn) for turn in turns):
        raise InputError(f"{place}: expected a list of turns with role and content")
    turns = list(turns[:-1]) if turns and turns[-1]["role"] == "assistant" else list(turns)
    if not turns:
        raise InputError(f"{place}: no turn to answer")
    ours = system is not None and turns[0]["role"] != "system"
    turns = [{"role": "system", "content": system}, *turns] if ours else turns
    try:
        return render(tokenizer, turns, add_generation_prompt=True)
    except Exception as error:  # a template is the model's own program: it may raise anything
        hint = '; it may take no system turn: give --system ""' if ours else ""
        raise InputError(f"{place}: the model's chat template refuses these messages: {error}{hint}") from None
