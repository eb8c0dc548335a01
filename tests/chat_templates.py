"""Chat templates as three families of models have them, and a tokenizer with one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SIGNS = ("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
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
# As Llama 3's: one BOS, two line breaks behind each header, the text trimmed, no white space between turns
HEADERS = (
    "{% for m in messages %}{% set c = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'"
    " + m['content'] | trim + '<|eot_id|>' %}{{ (bos_token if loop.first else '') + c }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# The thinking one with marks around what the assistant writes, as TRL's training templates have them
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}{% generation %}"
    "{% if loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def with_template(make: Callable[[], Any], template: str) -> Any:
    """The tokenizer that `make` gives, with a chat template and the signs that it writes."""
    tokenizer = make()
    tokenizer.chat_template = template
    if signs := [s for s in SIGNS if s in template]:
        tokenizer.add_special_tokens({"additional_special_tokens": signs})
    return tokenizer
