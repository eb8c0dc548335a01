"""Zero-shot: the model as it is, evaluated and not trained. No symbols, no settings."""

from __future__ import annotations

from dataclasses import dataclass

from zofo.methods._base import Base


@dataclass(frozen=True)
class Config:
    """Nothing to set."""


class Method(Base):
    """No updates at all."""

    streams = ()
    first_order = False
