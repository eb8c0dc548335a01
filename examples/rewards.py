"""Rewards for `task.metric=examples/rewards.py:FUNCTION` (docs/rewards.md), called as TRL's GRPO calls its own.

`completions` has each text that was written; every column of the rows is a list beside it. Higher is better.
"""

from __future__ import annotations

import re
from typing import Any


def written(completion: str | list[dict[str, str]]) -> str:
    """The text of a completion, which is a list of one message where the prompt is a conversation."""
    return completion if isinstance(completion, str) else completion[0]["content"]


def plain_words(completions: list[Any], **columns: Any) -> list[float]:
    """The share of words of at most four letters; 0 for fewer than three words, which nobody asked for."""
    texts = [re.findall(r"[a-z']+", written(completion).lower()) for completion in completions]
    return [sum(len(word) <= 4 for word in words) / len(words) if len(words) > 2 else 0.0 for words in texts]


def brief(completions: list[Any], **columns: Any) -> list[float]:
    """1 for a whole sentence of at most 20 words, less for a longer one, half of that where it has no end."""
    rewards = []
    for completion in completions:
        text = written(completion).strip()
        length = max(len(text.split()), 1)
        rewards.append(min(1.0, 20 / length) * (1.0 if text.endswith((".", "!", "?")) else 0.5))
    return rewards


def tagged(completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
    """Format and content: half for <answer>...</answer>, all where what it holds is the row's column `answer`."""
    found = [re.search(r"<answer>(.*?)</answer>", written(completion), re.DOTALL) for completion in completions]
    return [0.5 + 0.5 * (match[1].strip() == right) if match else 0.0 for match, right in zip(found, answer)]
