"""A tokenizer's chat template, the model's own program, run under the bounds of `jinja.py`.

transformers compiles it, as it always does, in an environment that counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

from zofo.data.jinja import Bounded, counting
from zofo.errors import RunError

Turn = dict[str, Any]
MARKED = re.compile(r"\{%-?\s*generation\b")


class BoundedChat(Bounded, ImmutableSandboxedEnvironment):
    """Counts while `render` is at work, and is transformers' own environment otherwise."""

    def from_string(self, source: Any, *args: Any, **options: Any) -> Any:
        self.bound_filters()  # transformers has added its own by now
        return super().from_string(source, *args, **options)


def render(tokenizer: Any, turns: Sequence[Turn], **options: Any) -> str:
    """`tokenizer.apply_chat_template` as a text. Raises whatever the template does, TooMuchError past its bounds."""
    return _bounded(tokenizer, turns, tokenize=False, **options)


def learnt_marks(tokenizer: Any, turns: Sequence[Turn], **offered: Any) -> list[tuple[int, int]]:
    """(start, stop) in the conversation's text, in characters, of what the template marks with `{% generation %}`, to
    whole tokens; [] where it marks nothing. TRL's assistant_only_loss goes by the same marks. Raises as `render`."""
    if not MARKED.search(str(tokenizer.chat_template)) or not getattr(tokenizer, "is_fast", False):
        return []
    options = offered | {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
    out = _bounded(tokenizer, turns, **options, tokenizer_kwargs={"return_offsets_mapping": True})
    spans: list[tuple[int, int]] = []
    before = 0
    for marked, (start, stop) in zip(out["assistant_masks"], out["offset_mapping"]):
        if marked and before:
            spans[-1] = (spans[-1][0], stop)
        elif marked:
            spans.append((start, stop))
        before = marked
    return spans


def _bounded(tokenizer: Any, turns: Sequence[Turn], **options: Any) -> Any:
    """`tokenizer.apply_chat_template` while the template's work is counted."""
    from transformers.utils import chat_template_utils

    inside: Any = chat_template_utils
    if not hasattr(inside, "ImmutableSandboxedEnvironment"):
        raise RunError("this version of transformers runs chat templates elsewhere: take a tested one (zofo env)")
    plain, inside.ImmutableSandboxedEnvironment = inside.ImmutableSandboxedEnvironment, BoundedChat
    try:
        with counting():
            return tokenizer.apply_chat_template(list(turns), **options)
    finally:
        inside.ImmutableSandboxedEnvironment = plain
