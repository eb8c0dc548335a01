"""A loaded model with what belongs to it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from zofo.models._transformers import unwrapped
from zofo.models.label_head import LabelHead
from zofo.models.scorer import Scorer
from zofo.zo.point import Point
from zofo.zo.quantized import Frozen


@dataclass
class Loaded:
    """A model in eval mode without gradients, its tokenizer, and the longest example it takes (tokens).

    beyond: {token id: text} of the tokenizer's words that the embedding has no row for; no data may hold them.
    """

    model: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    max_length: int | None
    pad_id: int
    frozen: Frozen | None = None  # what is quantised
    beyond: Mapping[int, str] = field(default_factory=dict)

    def scorer(self, model: Any = None) -> Scorer:
        """What reads log-probabilities off the backbone, or off a model that an adapter makes of it."""
        return Scorer(
            self.model if model is None else model, LabelHead(unwrapped(self.model)), self.pad_id, self.device
        )

    def base_sha256(self, theta: Point, sums: Mapping[str, str] | None = None) -> str:
        """One digest of all tensors, the quantised ones too. theta: all the others, at their start. sums: its `sha256`,
        where it is known."""
        digest = theta.digest(sums)
        if not self.frozen:
            return digest
        return hashlib.sha256(f"{digest} {self.frozen.digest()}".encode()).hexdigest()
