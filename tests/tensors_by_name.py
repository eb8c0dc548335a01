"""Tensors by name: copied and compared bit for bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def values(tensors: Any) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def same(one: Any, two: Any) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
