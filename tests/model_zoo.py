"""Every causal language model of transformers that can be made tiny: random, from its config, the same every time."""

from __future__ import annotations

from typing import Any

import torch

# What configs call their sizes. A family takes those that it has; no window is shorter than a test's row.
GROUPS: dict[Any, str] = {
    32: "hidden_size n_embd d_model word_embed_proj_dim lru_width attention_hidden_size moe_intermediate_size "
    "shared_expert_intermediate_size",
    4: "num_hidden_layers n_layer num_layers n_layers num_attention_heads n_head num_heads n_heads num_local_experts "
    "num_experts n_routed_experts mamba_n_heads linear_num_value_heads",
    64: "intermediate_size n_inner ffn_dim d_ff max_position_embeddings n_positions max_seq_len sliding_window "
    "attention_window_size mamba_d_ssm",
    16: "mamba_d_head",
    8: "head_dim rotary_dim state_size mamba_d_state mamba_chunk_size chunk_size linear_key_head_dim "
    "linear_value_head_dim",
    2: "num_key_value_heads num_experts_per_tok mamba_expand linear_num_key_heads pad_token_id",
    1: "n_group topk_group num_shared_experts n_shared_experts first_k_dense_replace mamba_n_groups eos_token_id",
    0: "bos_token_id",
}
SIZES = {name: size for size, names in GROUPS.items() for name in names.split()}
OTHERS = {"lfm2": {"layer_types": ["conv", "full_attention"] * 2}}  # what else a family is asked for

# Layers that carry a state or a convolution from token to token, alone or between attention
RECURRENT = (
    "bamba",
    "falcon_h1",
    "falcon_mamba",
    "granitemoehybrid",
    "jamba",
    "lfm2",
    "lfm3",
    "mamba",
    "minimax",
    "olmo_hybrid",
    "qwen3_next",
    "qwen3_5_text",
    "recurrent_gemma",
    "rwkv",
)


def families() -> list[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny(family: str, vocab: int, init: float = 0.2) -> Any | None:
    """In eval mode, without gradients; None where this version of transformers has no such family, or it resists."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    if family not in CONFIG_MAPPING:
        return None
    kind = CONFIG_MAPPING[family]
    try:
        usual = kind()
        if getattr(usual, "vocab_size", None) is None:
            return None
        asked = {name: value for name, value in SIZES.items() if hasattr(usual, name)}
        asked |= {"vocab_size": vocab, "initializer_range": init, **OTHERS.get(family, {})}
        if usual.to_dict().get("layer_types") and "layer_types" not in asked:
            asked["layer_types"] = None  # of the usual depth
        with torch.device("meta"):
            if sum(p.numel() for p in AutoModelForCausalLM.from_config(kind(**asked)).parameters()) > 3_000_000:
                return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(kind(**asked)).eval().requires_grad_(False)
        with torch.no_grad():
            model(input_ids=torch.tensor([[5, 6, 7]]), use_cache=False)
    except Exception:  # sizes that a family does not take: there are more than a hundred others
        return None
    return model
