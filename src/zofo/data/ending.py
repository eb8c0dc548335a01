"""Where a text ends: the one place that says it, for what is trained, what stops a generated text and is exported.

- Of a plain text the trained end is the tokenizer's EOS, or the model's where the tokenizer names none (`adopt`).
- Of a chat it is what the template writes behind the assistant's text, white space at its end left out, or else the
  EOS (`of_tail`). The first token in it that stands for itself (`<|im_end|>`) ends a text; where there is none, and for
  what stands before it, the words do (`stop_texts`).
- A generated text ends before the first of all these, of the ids in the checkpoint's generation_config, and of the
  task's stop strings (`cut`); the generation_config of an export, and of what is loaded, names the ids (`tell`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zofo.config.json_text import dumps
from zofo.data.chat_template import render
from zofo.errors import InputError

if TYPE_CHECKING:
    from zofo.data.example import TaskData

log = logging.getLogger("zofo")
MARK = "zofo0marks0this0place"  # a text that no template changes: shows where a template puts a turn's content


# ------------------------------------------------------------------------------------------------------ what is trained


def trained_id(tokenizer: Any) -> int | None:
    """The token that is learnt as the end of a plain text; None where the tokenizer has no EOS."""
    return tokenizer.eos_token_id


def of_tail(tail: str, tokenizer: Any) -> str:
    """The end of an assistant's turn that is learnt, from what a template writes behind it; "" where there is none."""
    return tail.rstrip() or tokenizer.eos_token or ""


def turn_end(tokenizer: Any) -> str:
    """The end of turn of the tokenizer's chat template; "" without a template, or where it writes no end."""
    if not getattr(tokenizer, "chat_template", None):
        return ""
    turns = [{"role": role, "content": MARK} for role in ("user", "assistant")]
    try:
        before, mark, tail = render(tokenizer, turns).rpartition(MARK)
    except Exception as error:  # a template is the model's own program: it may raise anything
        log.debug("the chat template refuses a user's and an assistant's turn: %s", error)
        return ""
    return of_tail(tail, tokenizer) if mark and MARK in before else ""


def adopt(tokenizer: Any, model: Any) -> None:
    """A tokenizer without EOS takes the one that its model stops at, where that is a token of its own and no word.

    Warns of a word (as where a config's default id meets another vocabulary): every text would be cut at it.
    """
    alone = _standing_alone(tokenizer)
    for token_id in _ids_of(model):
        if (token := alone.get(token_id)) is not None and tokenizer.eos_token_id is None:
            tokenizer.eos_token = token
            log.info("the tokenizer names no EOS: texts end with the model's, %s", token)
        elif token is None and token_id < len(tokenizer) and (word := tokenizer.decode([token_id]).strip()).isalnum():
            log.warning(
                "the model ends texts at id %d, which is %r in this tokenizer; mend eos_token_id in its "
                "generation_config.json",
                token_id,
                word,
            )


def _standing_alone(tokenizer: Any) -> dict[int, str]:
    """{id: text} of the tokens that no other text is made of, as specials and added ones; runs of blanks left out."""
    ids = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", ())}
    texts = zip(ids, tokenizer.convert_ids_to_tokens(list(ids)))
    return {token_id: text for token_id, text in texts if text and text.strip()}


def _ids_of(model: Any) -> list[int]:
    """The ends that the checkpoint's generation_config names."""
    ids = getattr(model.generation_config, "eos_token_id", None)
    return [ids] if isinstance(ids, int) else list(ids or ())


def _turn(tokenizer: Any) -> tuple[str, int | None]:
    """(words that end a turn, often none; the token that does, often there)."""
    end = turn_end(tokenizer)
    alone = _standing_alone(tokenizer)
    ids = tokenizer(end, add_special_tokens=False)["input_ids"] if end else []
    token_id = next((i for i in ids if i in alone), None)
    words = end if token_id is None else end[: max(end.find(alone[token_id]), 0)]
    return (words if words.strip() else ""), token_id


# ----------------------------------------------------------------------------------------------------- what ends a text


def stop_ids(tokenizer: Any, model: Any) -> list[int]:
    """The tokens that end a generated text, each once: the model's own, the tokenizer's EOS, the chat's end of turn.

    model: with a generation_config; the trained ends are in the list whatever that says.
    """
    ids = [*_ids_of(model), trained_id(tokenizer), _turn(tokenizer)[1]]
    return list(dict.fromkeys(i for i in ids if i is not None))


def stop_texts(tokenizer: Any, chat: bool, stops: Sequence[str] = ()) -> tuple[str, ...]:
    """The texts that end a generated one: a task's stop strings and, of a chat, the words of its template's end."""
    words = _turn(tokenizer)[0] if chat else ""
    return tuple(dict.fromkeys([*stops, *([words] if words else [])]))


def cut(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stops."""
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]


def settled(text: str, stops: Sequence[str]) -> str:
    """What of a text that is still written stays as it is: neither the beginning of a stop, nor of a character."""
    text = cut(text, stops).rstrip("\ufffd")  # what bytes of a character are decoded as until all are there
    starts = (stop[:n] for stop in stops for n in range(len(stop) - 1, 0, -1))
    return text[: len(text) - max((len(start) for start in starts if text.endswith(start)), default=0)]


def tell(model: Any, tokenizer: Any) -> None:
    """model.generation_config.eos_token_id <- `stop_ids`: transformers' own `generate` ends where training did."""
    ids = stop_ids(tokenizer, model)
    if set(ids) - set(_ids_of(model)):
        model.generation_config.eos_token_id = ids[0] if len(ids) == 1 else ids


def tell_file(file: Path, model: Any, tokenizer: Any) -> None:
    """The same in an export's generation_config.json, whose other lines stay (transformers would refuse to write some).

    Warns of an end that is made of words, which no id says.
    """
    ids = stop_ids(tokenizer, model)
    if set(ids) - set(_ids_of(model)):
        settings = json.loads(file.read_text("utf-8")) if file.is_file() else {}
        settings["eos_token_id"] = ids[0] if len(ids) == 1 else ids
        file.write_text(dumps(settings, indent=2, sort_keys=True) + "\n", "utf-8")
    words, token_id = _turn(tokenizer)
    if words and token_id is None:
        log.warning("%s: the chat template ends a turn with words: give `generate` stop_strings=[%r]", file, words)


# -------------------------------------------------------------------------------------------------- where none is there


def check(data: TaskData, tokenizer: Any) -> None:
    """Says where an end that should be learnt is none. Raises InputError where no generated text could ever end."""
    if not data.ends:
        return
    examples = [*data.train[:1], *data.dev[:1], *data.test[:1]]
    chat = bool(examples) and examples[0].cuttable is not None
    if (turn_end(tokenizer) if chat else trained_id(tokenizer)) not in (None, ""):
        return
    lacks = f"{'the chat template writes no end of turn and ' if chat else ''}the tokenizer has no EOS"
    fix = "set eos_token in its tokenizer_config.json, or take another model"
    if data.kind == "generation" and not data.decoding.stop:
        fix = f"{fix}, or give the task file stop strings (generation: {{stop: [...]}})"
        raise InputError(f"task.name: {lacks}, so the texts of {data.name} would never end; {fix}")
    rest = "; the task's stop strings alone end a text" if data.decoding.stop else ""
    log.warning("%s: %s, so the end of an answer is not learnt%s; %s", data.name, lacks, rest, fix)
