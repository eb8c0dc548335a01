"""What gives the log-probabilities of a batch's labels, as objectives and probes see it."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from zofo.models.label_head import LabelHead


class Scorer(Protocol):
    """model: what computes, adapters included. head: reads the labels' log-probabilities off it."""

    model: Any
    head: LabelHead
    device: torch.device
    pad_id: int
