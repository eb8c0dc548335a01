"""The one way from a model to numbers: the log-probabilities of a batch's labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zofo.data.batch import Batch
from zofo.models.label_head import LabelHead


@dataclass(frozen=True)
class Scorer:
    """model: what computes, adapters included. head: reads the labels' log-probabilities off it.

    pad_id: stands where a row has no token; any id will do, since the mask alone says what is padding.
    """

    model: Any
    head: LabelHead
    pad_id: int
    device: torch.device

    def logprobs(self, batch: Batch, **kwargs: Any) -> Tensor:
        """fp32 [N] on the model's device: the log-probability of each label. kwargs: of the model's forward."""
        return self.head.logprobs(self.model, batch.to(self.device), **kwargs)
