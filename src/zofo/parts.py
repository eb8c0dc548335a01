"""The parts of a zeroth-order method from their sections: the estimator with its mask, and the rule."""

from __future__ import annotations

from typing import Any

from zofo import registry
from zofo.config import Config


def make_estimator(config: Config) -> Any:
    """The estimator as at the start of a run; its `mask` is None where there is no such section."""
    mask, seed = None, config.train.seed
    if config.mask is not None:
        mask = registry.load("masks", config.names["mask"]).Mask(config.mask, seed)
    return registry.load("estimators", config.names["estimator"]).Estimator(config.estimator, seed, mask)


def make_rule(config: Config) -> Any:
    """The rule as at the start of a run."""
    return registry.load("rules", config.names["rule"]).Rule(config.rule, config.train.seed)
