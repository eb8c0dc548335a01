"""A tokenizer's chat template, the model's own program, run under the bounds of `jinja.py`.

transformers compiles it, as it always does, in an environment that counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

from zofo.data.jinja import Bounded, counting
from zofo.errors import RunError

Turn = dict[str, Any]


class BoundedChat(Bounded, ImmutableSandboxedEnvironment):
    """Counts while `render` is at work, and is transformers' own environment otherwise."""

    def from_string(self, source: Any, *args: Any, **options: Any) -> Any:
        self.bound_filters()  # transformers has added its own by now
        return super().from_string(source, *args, **options)


def render(tokenizer: Any, turns: Sequence[Turn], **options: Any) -> str:
    """`tokenizer.apply_chat_template` as a text. Raises whatever the template does, TooMuchError past its bounds."""
    from transformers.utils import chat_template_utils

    inside: Any = chat_template_utils
    if not hasattr(inside, "ImmutableSandboxedEnvironment"):
        raise RunError("this version of transformers runs chat templates elsewhere: take a tested one (zofo env)")
    plain, inside.ImmutableSandboxedEnvironment = inside.ImmutableSandboxedEnvironment, BoundedChat
    try:
        with counting():
            return tokenizer.apply_chat_template(list(turns), tokenize=False, **options)
    finally:
        inside.ImmutableSandboxedEnvironment = plain
