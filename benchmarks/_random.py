"""Random models of real sizes, with batches of random tokens: for speed and memory, never for a loss."""

from __future__ import annotations

from typing import Any

import torch

from zofo.api.check_machine.world import World, of_model

MODELS = ("smollm2-135m", "opt-1.3b")
T = 10


SMOLLM: dict[bool, dict[str, Any]] = {
    False: {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
    },
    True: {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 128,
    },
}
OPT: dict[bool, dict[str, Any]] = {
    False: {
        "hidden_size": 2048,
        "word_embed_proj_dim": 2048,
        "ffn_dim": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "vocab_size": 50272,
    },
    True: {
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 128,
    },
}


def config(name: str, tiny: bool) -> Any:
    """The sizes of SmolLM2-135M and OPT-1.3B; tiny: two narrow layers of the same kinds."""
    import transformers as t

    if name == "smollm2-135m":
        return t.LlamaConfig(**SMOLLM[tiny], tie_word_embeddings=True)
    return t.OPTConfig(**OPT[tiny], dropout=0.0, max_position_embeddings=2048)


def world(name: str, dtype: torch.dtype, device: str, tiny: bool = False) -> World:
    from transformers import AutoModelForCausalLM

    settings = config(name, tiny)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(settings, dtype=dtype).eval().requires_grad_(False)
    return of_model(model, settings.vocab_size)
