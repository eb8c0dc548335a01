"""SHA-256 of theta's tensors: what a journal's header lists, and one digest of them all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor


def tensor_sha256(tensor: Tensor) -> str:
    """Of its bytes, row-major and little endian."""
    raw = tensor.detach().contiguous().cpu().view(-1).view(torch.uint8)
    return hashlib.sha256(raw.numpy().data).hexdigest()


def sha256_of_each(tensors: Mapping[str, Tensor], together: bool = True) -> dict[str, str]:
    """Of each tensor's bytes, in as many threads as torch has: a digest is a core's work, and holds no lock. Not
    together: one after the other, in order, as tensors must be read that others put together with us."""
    if not together:
        return {name: tensor_sha256(tensor) for name, tensor in tensors.items()}
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as threads:
        return dict(zip(tensors, threads.map(tensor_sha256, tensors.values()), strict=True))


def catalogue(tensors: Mapping[str, Tensor], shapes: Mapping[str, list[int]], sums: Mapping[str, str]) -> list[dict]:
    """The tensors in order as a journal's header lists them (docs/journal.md). sums: `sha256_of_each`."""
    return [
        {"id": number, "name": name, "shape": shapes[name], "dtype": str(tensor.dtype)[6:], "sha256": sums[name]}
        for number, (name, tensor) in enumerate(tensors.items())
    ]


def digest(sums: Mapping[str, str]) -> str:
    """One SHA-256 over the names and digests of all tensors, in the order of their names. sums: `sha256_of_each`."""
    lines = (f"{name} {one}\n" for name, one in sorted(sums.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
