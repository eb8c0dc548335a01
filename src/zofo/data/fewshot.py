"""In-context learning: answered examples in front of a prompt (Brown et al. 2020, section 2)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

from zofo.config.sections import TaskConfig
from zofo.data.chat import Chat
from zofo.data.example import Example, objective_of
from zofo.errors import InputError

GAP = "\n\n"  # between two demonstrations, and before the prompt
Draw = Literal["random", "per-example", "fixed"]


def demonstrate(examples: Sequence[Example], pool: Sequence[Example], k: int, how: Draw, seed: int) -> list[Example]:
    """The examples, each with k answered ones before its prompt; no example is among its own demonstrations.

    how "random": one draw for all; "per-example": one each, keyed by the example's id; "fixed": the pool's first k.
    Raises InputError where the pool is too small.
    """
    if k == 0:
        return list(examples)
    if chat := next((e for e in (*pool, *examples) if e.cuttable is not None), None):
        raise InputError(f"task.num_fewshot: {chat.id} is a conversation; demonstrations are put before plain prompts")
    if empty := next((e for e in pool if e.unanswered), None):
        raise InputError(f"task.num_fewshot: {empty.where} has no answer to show; give rows with completions")
    if len(pool) < k:
        raise InputError(
            f"task.num_fewshot: {k} demonstrations, and {len(pool)} answered examples to take them from; give a "
            f"smaller number, or a directory with more training rows"
        )
    order = list(pool) if how == "fixed" else random.Random(f"{seed}/fewshot").sample(pool, len(pool))
    demonstrated = []
    for example in examples:
        if how == "per-example":
            order = random.Random(f"{seed}/fewshot/{example.id}").sample(pool, len(pool))
        shown = _first(order, example, k)
        if len(shown) < k:
            raise InputError(
                f"task.num_fewshot: only {len(shown)} of {k} demonstrations differ from {example.where} and from each "
                f"other; give a smaller number"
            )
        demonstrated.append(replace(example, prompt=GAP.join([*map(answered, shown), example.prompt])))
    return demonstrated


def _first(order: Iterable[Example], example: Example, k: int) -> list[Example]:
    """The first k that are neither the example nor each other."""
    seen, shown = {(example.prompt, example.answers)}, []
    for other in order:
        if len(shown) == k:
            break
        if (key := (other.prompt, other.answers)) not in seen:
            seen.add(key)
            shown.append(other)
    return shown


def answered(example: Example) -> str:
    """Prompt and (first) right answer."""
    return example.prompt + example.answers[example.gold[0]]


def dressed(
    examples: dict[str, list[Example]],
    cfg: TaskConfig,
    seed: int,
    objective: str,
    kind: str,
    tokenizer: Any,
    shown: list[Example],
) -> dict[str, list[Example]]:
    """Demonstrations before the prompts that are evaluated, and the chat template around all."""
    pool = examples["train"] or examples["dev"] or shown
    if cfg.fewshot == "fixed" and len(shown) >= cfg.num_fewshot:
        pool = shown
    asked = {
        split: listed if split == "train" else demonstrate(listed, pool, cfg.num_fewshot, cfg.fewshot, seed)
        for split, listed in examples.items()
    }
    if cfg.apply_chat_template:
        chat = Chat(tokenizer, cfg.system)
        learns = objective_of(objective).ends  # to end its turn; an option is scored without that
        ends = {split: learns and (split == "train" or kind != "options") for split in asked}
        asked = {split: [chat.dress(e, ends[split]) for e in listed] for split, listed in asked.items()}
    return asked
