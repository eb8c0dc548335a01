"""A client, as the server knows it. No torch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from zofo.federated.messages import Kind


@dataclass
class Known:
    """A client, as the server knows it."""

    name: str
    base: bytes
    position: int
    refused: str = ""
    asked: tuple[Kind, int] | None = None  # what it has not answered, and of which round
    late: int = 0
    bytes: Counter[str] = field(default_factory=Counter)
