"""What a run is made of, between its configuration and its problem."""

from __future__ import annotations

from dataclasses import dataclass

from zofo.eval.evaluator import Evaluator
from zofo.models.adapters import _start as adapter_start
from zofo.models.adapters._set import AdapterSet
from zofo.models.backbone import Loaded
from zofo.models.scorer import Scorer
from zofo.objectives._loss import Loss
from zofo.zo.point import Point


@dataclass(frozen=True)
class Backbone:
    """A model with its adapters on. whole: every weight of the backbone. theta: what moves; scorer: what computes."""

    loaded: Loaded
    whole: Point
    theta: Point
    adapters: AdapterSet | None
    scorer: Scorer
    start: adapter_start.Start | None = None


@dataclass(frozen=True)
class Losses:
    """F, minus the task's metric in its place, and what evaluates; the two count with one meter."""

    loss: Loss
    metric: Loss
    evaluator: Evaluator
