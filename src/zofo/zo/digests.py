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


def sha256_of_each(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Of each tensor's bytes, in as many threads as torch has: a digest is a core's work, and holds no lock."""
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as threads:
        return dict(zip(tensors, threads.map(tensor_sha256, tensors.values()), strict=True))


def catalogue(tensors: Mapping[str, Tensor], sums: Mapping[str, str] | None = None) -> list[dict]:
    """The tensors in order as a journal's header lists them (docs/journal.md). sums: `sha256_of_each`, where known."""
    sums = sha256_of_each(tensors) if sums is None else sums
    return [
        {
            "id": number,
            "name": name,
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype)[6:],
            "sha256": sums[name],
        }
        for number, (name, tensor) in enumerate(tensors.items())
    ]


def digest(tensors: Mapping[str, Tensor], sums: Mapping[str, str] | None = None) -> str:
    """One SHA-256 over the names and digests of all tensors, in the order of their names. sums: see `catalogue`."""
    sums = sha256_of_each(tensors) if sums is None else sums
    lines = (f"{name} {one}\n" for name, one in sorted(sums.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
