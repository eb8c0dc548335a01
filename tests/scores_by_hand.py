"""Log-probabilities of answers and of options, from plain forwards of transformers."""

from __future__ import annotations

from typing import Any

import torch

from tests.setting_files import JsonRow


def answer_tokens(model: Any, tokenizer: Any, prompt: str, answer: str) -> torch.Tensor:
    """log P of each token of the answer, from one plain forward."""
    tokens = tokenizer(prompt + answer, return_offsets_mapping=True, return_tensors="pt")
    ids, ends = tokens["input_ids"], tokens["offset_mapping"][0, :, 1]
    logp = model(input_ids=ids).logits.double().log_softmax(-1)
    places = [i for i in range(1, ids.shape[1]) if ends[i] > len(prompt)]
    return torch.stack([logp[0, i - 1, ids[0, i]] for i in places])


@torch.no_grad()
def chosen(model: Any, tokenizer: Any, row: JsonRow, context: str = "", null: bool = False) -> tuple[int, list[float]]:
    """The option with the best mean token log-probability; null: less that after the input N/A."""
    scores = []
    for option in row["options"]:
        score = float(answer_tokens(model, tokenizer, context + row["input"], "\n" + option).mean())
        if null:
            score -= float(answer_tokens(model, tokenizer, context + "N/A", "\n" + option).mean())
        scores.append(score)
    return max(range(len(scores)), key=scores.__getitem__), scores
