"""Writing with anything that is a model: a run, an export, a PEFT directory, a hub id. One prompt at a time.

Alone, a row has no padding, so that positions are those of training for every model and every adapter (PEFT's deployed
soft prompts lose them beside left padding).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zofo.deploy import open_target
from zofo.errors import InputError
from zofo.models import Loaded
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
    done: Callable[[int, str], None] | None = None,
) -> list[str]:
    """The continuation of each prompt by a run's, an export's or a plain model, without the prompt.

    prompts: texts, or conversations (lists of turns with role and content), which the tokenizer's chat template writes.
    temperature: 0 takes the likeliest token each time. top_p: sample from the likeliest tokens that hold so much of the
    probability. stop: texts that end a continuation, and are no part of it. seed: keys the sampling, together with the
    prompt's number; the global random state is neither read nor moved. chat: a text is a user's turn. adapter: which of
    a run's ("p", "s", "theta"). done: called with each prompt's number and continuation. Raises InputError.
    """
    _check(prompts, max_new_tokens, temperature, top_p, stop)
    found = [p if isinstance(p, Prompt) else Prompt(p, f"prompt {i}") for i, p in enumerate(prompts, 1)]
    loaded, model, _ = open_target(target, adapter)
    encoded = [_encode(prompt, loaded, chat) for prompt in found]  # a wrong one stops before the first is written
    written = []
    for number, ids in enumerate(encoded):
        room = max_new_tokens if loaded.max_length is None else loaded.max_length - len(ids) + 1
        if room < max_new_tokens:
            log.warning("%s: room for %d new tokens, not %d", found[number].place, room, max_new_tokens)
        options = _options(model, loaded, min(room, max_new_tokens), temperature, top_p)
        text = _write(model, loaded, ids, options, stop, derive(seed, "generate", number))
        written.append(text)
        if done is not None:
            done(number, text)
    return written


def _check(prompts: Sequence[Any], max_new_tokens: int, temperature: float, top_p: float, stop: Sequence[str]) -> None:
    problems = []
    if isinstance(prompts, str) or not prompts:
        problems.append("prompts: expected a list of at least one prompt")
    if max_new_tokens < 1:
        problems.append(f"max_new_tokens: must be >= 1, got {max_new_tokens}")
    if not 0 <= temperature < float("inf"):
        problems.append(f"temperature: must be >= 0, got {temperature}")
    if not 0 < top_p <= 1:
        problems.append(f"top_p: must be > 0 and <= 1, got {top_p}")
    if isinstance(stop, str) or not all(stop):
        problems.append("stop: expected a list of texts, none of them empty")
    if problems:
        raise InputError("\n".join(problems))


def _encode(prompt: Prompt, loaded: Loaded, chat: bool) -> list[int]:
    """Token ids, at least one. Raises InputError where they do not fit the model."""
    tokenizer, content = loaded.tokenizer, prompt.content
    if chat and isinstance(content, str):
        content = [{"role": "user", "content": content}]
    if isinstance(content, str):
        ids = list(tokenizer(content, verbose=False)["input_ids"])
        if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id and not content.endswith(tokenizer.eos_token):
            ids.pop()  # some tokenizers close every text; the continuation is before the close
        if len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id:
            ids.pop(0)  # the text begins with the BOS that the tokenizer adds too
    else:
        ids = list(tokenizer(_render(tokenizer, content, prompt.place), add_special_tokens=False)["input_ids"])
    if not ids:
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if start is None:
            raise InputError(f"{prompt.place}: it is empty and the tokenizer has no BOS or EOS to start from")
        ids = [start]
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
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is the model's own program: it may raise anything
        raise InputError(f"{place}: the model's chat template refuses these messages: {error}") from None


def _options(model: Any, loaded: Loaded, new: int, temperature: float, top_p: float) -> dict[str, Any]:
    """Of transformers' `generate`. Everything a model's generation_config.json may set otherwise is said here."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    options = {
        "max_new_tokens": new, "pad_token_id": loaded.pad_id, "eos_token_id": base.generation_config.eos_token_id,
        "num_beams": 1, "repetition_penalty": 1.0, "do_sample": temperature > 0,
    }  # fmt: skip
    return options | ({"temperature": temperature, "top_p": top_p, "top_k": 0} if temperature > 0 else {})


@torch.no_grad()
def _write(model: Any, loaded: Loaded, ids: list[int], options: dict[str, Any], stop: Sequence[str], key: int) -> str:
    row = torch.tensor([ids], device=loaded.device)
    before = _decode(loaded.tokenizer, ids)

    def continuation(sequence: Tensor) -> str:
        """Decoded with the prompt: some tokenizers drop the first space of a text."""
        whole = _decode(loaded.tokenizer, sequence.tolist())
        return whole[len(before) :] if whole.startswith(before) else _decode(loaded.tokenizer, sequence[len(ids) :])

    def stopped(sequences: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        text = continuation(sequences[0])
        return torch.tensor([any(end in text for end in stop)], device=sequences.device)

    devices = [loaded.device] if loaded.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Position ids are not supported")  # PEFT's own, without padding right
        torch.manual_seed(key % 2**63)
        found = model.generate(
            input_ids=row, attention_mask=torch.ones_like(row), stopping_criteria=[stopped] if stop else None, **options
        )
    text = continuation(found[0])
    return text[: min((text.find(end) for end in stop if end in text), default=len(text))]


def _decode(tokenizer: Any, ids: Any) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
