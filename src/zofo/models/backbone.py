"""A loaded model with what belongs to it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from zofo.models._transformers import unwrapped
from zofo.models.label_head import LabelHead
from zofo.models.offload import Offload
from zofo.models.scorer import Scorer
from zofo.zo.paged_point import PagedPoint
from zofo.zo.point import Point
from zofo.zo.quantized import Frozen
from zofo.zo.shards import WHOLE, Shards


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
    offload: Offload | None = None  # where the weights are put that are to be moved, if not in memory

    def point(self, mode: str, moves: bool, shards: Shards = WHOLE) -> Point:
        """Every weight as theta. moves: whether zeroth-order updates will move it. shards: the processes that hold it
        together. Build it before there is an adapter.

        Raises InputError where the weights cannot be put where model.offload_folder says.
        """
        if self.offload is None or not moves:
            return Point(self.model, mode=mode, shards=shards)
        self.offload.move_in()
        return PagedPoint(self.model, self.offload, self.offload.sides, mode=mode)

    def scorer(self, model: Any = None) -> Scorer:
        """What reads log-probabilities off the backbone, or off a model that an adapter makes of it."""
        head = LabelHead(unwrapped(self.model), None if self.offload is None else self.offload.sides)
        return Scorer(self.model if model is None else model, head, self.pad_id, self.device)

    def base_sha256(self, theta: Point, sums: Mapping[str, str] | None = None) -> str:
        """One digest of all tensors, the quantised ones too. theta: all the others, at their start. sums: its `sha256`,
        where it is known."""
        digest = theta.digest(sums)
        if not self.frozen:
            return digest
        return hashlib.sha256(f"{digest} {self.frozen.digest()}".encode()).hexdigest()
