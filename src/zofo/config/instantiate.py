"""The parts of a method from their sections: the mask, the estimator, which holds it, and the rule."""

from __future__ import annotations

from typing import Any

from zofo.config import registry
from zofo.config.resolve import Config


def make_mask(config: Config, gradients: Any = None, listen: Any = None) -> Any:
    """The mask as at the start of a run; None where there is no such section.

    gradients, listen: what some masks are made of, and who is told of them, see `zo.masks._base.Base`; a replay needs
    neither.
    """
    if config.mask is None:
        return None
    return registry.load("masks", config.names["mask"]).Mask(config.mask, config.train.seed, gradients, listen)


def make_estimator(config: Config, gradients: Any = None, listen: Any = None, ranks: Any = None) -> Any:
    """The estimator as at the start of a run, with its mask; gradients, listen: see `make_mask`. ranks: the
    `zo.ranks.Ranks` that share its directions."""
    module = registry.load("estimators", config.names["estimator"])
    shared = () if ranks is None else (ranks,)
    return module.Estimator(config.estimator, config.train.seed, make_mask(config, gradients, listen), *shared)


def make_rule(config: Config) -> Any:
    """The rule as at the start of a run."""
    return registry.load("rules", config.names["rule"]).Rule(config.rule, config.train.seed)


def make_method(config: Config) -> Any:
    """The method object, not set up."""
    return registry.load("methods", config.names["method"]).Method(config.method, config.adapter is not None)
