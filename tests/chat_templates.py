"""Chat templates as three families of models have them, and a tokenizer with one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Llama 2's: no separate generation prompt, the text trimmed, a space before and after the answer, BOS and EOS inside
INST = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'].strip() + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant turns') }}{% endif %}{% endfor %}"
)
# As Qwen 3's: an empty block of thoughts stands before the last answer, and in no generation prompt
THINKING = CHATML.replace(
    "m['role'] + '\n' + m['content']",
    "m['role'] + '\n' + ('<think>\n\n</think>\n\n' if loop.last and m['role'] == 'assistant' else '') + m['content']",
)


def with_template(make: Callable[[], Any], template: str) -> Any:
    """The tokenizer that `make` gives, with a chat template and the signs that it writes."""
    tokenizer = make()
    tokenizer.chat_template = template
    if "im_start" in template:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return tokenizer
