"""What calibrated scores take off: an option's score after the prompt without its input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from zofo.data.example import Example
from zofo.errors import InputError

NULLED = ("calibrated", "pmi")  # scorings that take off an option's score under the prompt without its input
NullKey = tuple[str | None, tuple[str, ...]]  # the prompt without its input, and the options


def null_key(example: Example) -> NullKey:
    """Examples that share it share their options' scores without an input."""
    return example.null_prompt, example.answers


def null_examples(examples: Sequence[Example], scoring: str) -> dict[NullKey, Example]:
    """{null_key: an example of that prompt and those options}. Without a null prompt a start token stands for it.

    Raises InputError in a chat without null prompts: it has no empty conversation.
    """
    kinds = {null_key(example): example for example in examples}
    if chat := next((e for e in kinds.values() if e.cuttable is not None and e.null_prompt is None), None):
        raise InputError(
            f"task.scoring: {scoring} scores in a chat need a template with a null_prompt, and {chat.id} has none"
        )
    return {
        key: replace(
            shown, id=f"{shown.id} (no input)", prompt=shown.null_prompt or "", cuttable=shown.cuttable and (0, 0)
        )
        for key, shown in kinds.items()
    }
