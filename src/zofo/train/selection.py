"""Model selection on dev: which step, and which adapter beside theta (docs/algorithms.md, what is deployed)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Best:
    """The best evaluation so far. journal: theta is the initial tensors and the journal up to this byte."""

    count: int
    k: int
    candidate: str
    score: float
    journal: int | None
    dev: dict[str, dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


class Selection:
    """Lower dev loss wins, or higher dev metric; a tie goes to the earlier evaluation and the earlier candidate.

    What is not finite never wins: not over another candidate, and not as the first evaluation.
    """

    def __init__(self, by: str, metric: str, candidates: Sequence[str]) -> None:
        self.by, self.metric, self.candidates = by, metric, tuple(candidates)

    def score(self, values: Mapping[str, float]) -> float:
        """Smaller is better; inf for what is not finite, and for a metric of no prediction at all."""
        score = -values[self.metric] if self.by == "metric" and self.metric in values else values["loss"]
        void = values.get("unpredicted", 0) == values.get("n")
        return score if math.isfinite(score) and not void else math.inf

    def logs(self, evaluations: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """What transformers' callbacks see: all that was measured, and `eval_loss`, the least of what may be chosen."""
        logs = {f"eval_{name}_{key}": value for name, values in evaluations.items() for key, value in values.items()}
        chosen = [evaluations[name] for name in self.candidates]
        # Of rows without a loss what the callbacks call so is minus the metric
        losses = [values["loss"] if "loss" in values else -values[self.metric] for values in chosen]
        logs["eval_loss"] = min((loss for loss in losses if math.isfinite(loss)), default=losses[0])
        return logs

    def better(
        self, evaluations: dict[str, dict[str, float]], best: Best | None, count: int, k: int, journal: int | None
    ) -> Best | None:
        """The new best, or None where the old one stays."""
        winner = min(self.candidates, key=lambda name: self.score(evaluations[name]))
        score = self.score(evaluations[winner])
        if not score < (best.score if best is not None and math.isfinite(best.score) else math.inf):
            return None
        return Best(count, k, winner, score, journal, evaluations)
