"""Encoded examples whose options share a prompt, and each beside its option tree."""

from __future__ import annotations

from typing import Any

from zofo.data import Example
from zofo.data.option_tree import option_trees
from zofo.data.tokenization import Encoded, tokenize_all


def with_options(tokenizer: Any) -> list[Encoded]:
    """Two to four options of several tokens, a pair in one row already, and one that is not worth it."""
    examples = [
        Example("a", "the film is warm and funny. What next?", (" I would see it again", " the end never comes"), (1,)),
        Example("b", "one two three four five six", (" seven eight nine", " ten", " nine ten one two", " a dog"), (0,)),
        Example("c", "hello, the dog is", (" good", " great"), (0,)),
        Example("d", "a", (" very good morning to you", " b"), (0,)),
        Example("e", "the jokes are stale and the plot is dull. It was", (" great fun", " terrible and dull"), (1,)),
    ]
    return tokenize_all(tokenizer, examples, None, "options", add_eos=False)


def pairs(encoded: list[Encoded], limit: int | None = None) -> list[tuple[Encoded, Encoded]]:
    """(plain, option tree) of each."""
    return list(zip(encoded, option_trees(encoded, limit)))
