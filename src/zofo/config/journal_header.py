"""What a journal's header says of a configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from zofo.config.resolve import Config


def header_of(config: Config, tensors: Sequence[Any], theta_of: str) -> dict[str, Any]:
    """What a replay needs: the tensors it starts from, and the configuration of everything that acts on them."""
    return {
        "tensors": list(tensors),
        "model": config.model.name,
        "theta": theta_of,
        "estimator": {"name": config.names["estimator"], **dataclasses.asdict(config.estimator)},
        "rule": {"name": config.names["rule"], **dataclasses.asdict(config.rule)},
        "mask": {"name": config.names["mask"], **dataclasses.asdict(config.mask)} if config.mask else None,
        "seed": config.train.seed,
    }
