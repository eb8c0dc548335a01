"""A tokenizer of letters, and a model whose next letter is known by heart."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

LETTERS = "abcdefgh\n#"
IDS = {c: i + 3 for i, c in enumerate(LETTERS)}  # behind <s>, </s>, <pad>
SIZE = 16


def spelling() -> Any:
    """A tokenizer of letters."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "<pad>": 2, **IDS}, unk_token="#"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def chain(follows: dict[str, dict[str, float]]) -> Any:
    """A Llama whose next letter has the given chances after each letter ("" ends), whatever stands before that one."""
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = LlamaConfig(
        vocab_size=SIZE,
        hidden_size=SIZE,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=32,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        model: Any = LlamaForCausalLM(settings).eval().requires_grad_(False)
    model.model.layers[0].self_attn.o_proj.weight.zero_()  # so a layer adds nothing
    model.model.layers[0].mlp.down_proj.weight.zero_()
    model.model.embed_tokens.weight.copy_(torch.eye(SIZE))  # sqrt(SIZE) times it behind the norm
    model.lm_head.weight.fill_(-30.0 / SIZE**0.5)
    for letter, chances in follows.items():
        for after, chance in chances.items():
            model.lm_head.weight[IDS.get(after, 1), IDS[letter]] = float(np.log(chance)) / SIZE**0.5
    return model


ABC = {one: {two: 1.0} for one, two in zip("abcdefgh", [*"bcdefgh", ""])}  # a b c d e f g h, and the end
