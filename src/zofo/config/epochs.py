"""train.num_train_epochs -> train.max_steps: the counted steps after which a run has made so many passes.

An iteration of a method draws a batches of b = train.batch_size examples from a stream of n examples (T + 1 batches of
D_p and one of D_f with Bilevel ZOFO; of one stream a = 1), and counts as c steps:

    max_steps = c K,   K the least with   b (a K + m(K)) >= num_train_epochs n

where m(K) are the further batches of an estimator (svrg's anchors), else 0. Of two streams the one with more examples
counts, of two that are alike the one that is drawn less. A batch that a pass cannot fill goes on in the next one, so
nothing is rounded up at the end of each pass, as transformers does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from typing import Any

from zofo.config.cadence import counted_per_step
from zofo.config.layers import Merged
from zofo.config.sections import TrainConfig
from zofo.config.typed import show
from zofo.errors import InputError

LEVELS = {"f": "upper", "p": "lower"}  # streams as a user knows them


def settle(merged: Merged, errors: list[str]) -> None:
    """Of max_steps and num_train_epochs the one that was given last; of both in one place none, which is an error."""
    given = merged.values.get("train", {})
    epochs, steps = given.get("num_train_epochs"), given.get("max_steps")
    if epochs is None or epochs.value is None or steps is None:
        return
    if epochs.layer == steps.layer:
        errors.append(
            f"train.num_train_epochs: {show(epochs.value)}, and train.max_steps {show(steps.value)}: both say how long "
            f"to train; give one of the two"
        )
        return
    kept, out = ("num_train_epochs", "max_steps") if epochs.layer > steps.layer else ("max_steps", "num_train_epochs")
    old, new = given.pop(out), given[kept]
    merged.notes.append(
        f"train.{out}: {show(old.value)} ({old.source}) is left out, as train.{kept} is {show(new.value)} "
        f"({new.source})"
    )


def refused(name: str, method: Any) -> str:
    """Why passes say nothing of a method, called `name`; "" where they do."""
    if not method.streams:
        return f"method {name} trains on nothing; leave it out (train.num_train_epochs=null)"
    if method.many:
        return (
            f"method {name} takes the tasks in turn whatever their sizes, so there is no pass over all examples; give "
            f"train.max_steps"
        )
    return ""


@dataclass(frozen=True)
class Passes:
    """The passes of one run. sizes: {stream: its training examples}. at_most: that is the most that there can be, the
    rows are not counted yet. estimator: its settings, or None."""

    train: TrainConfig
    method: Any
    estimator: Any
    sizes: Mapping[str, int]
    at_most: bool = False

    @property
    def stream(self) -> str:
        """The one whose passes are counted."""
        return max(self.sizes, key=lambda name: (self.sizes[name], -self.method.draws[name]))

    @property
    def iterations(self) -> int:
        """K of the equation above."""
        drawn, size = self.method.draws[self.stream], self.sizes[self.stream]
        # Of the number as it is written: 0.1 is a tenth, and not the binary fraction next to it
        wanted = math.ceil(Fraction(str(self.train.num_train_epochs)) * size / self.train.batch_size)
        most = -(-wanted // drawn)
        extra = self._further(most)  # of fewer iterations it is no more than one anchor above that
        if not extra:
            return most
        first = max(1, (wanted - 2 * extra) // drawn)
        return next(k for k in count(first) if drawn * k + self._further(k) >= wanted)

    @property
    def max_steps(self) -> int:
        """Raises InputError where that is too short for the method or the warm-up."""
        epochs, train, method = self.train.num_train_epochs, self.train, self.method
        steps = self.iterations * counted_per_step(train, method.per_step)
        if train.count == "all" and steps < method.shortest:
            raise InputError(
                f"train.num_train_epochs: {epochs:g} is {steps} counted steps, less than the {method.shortest} that "
                f"one iteration, or one zeroth-order step, takes; give more, or a smaller method.inner_steps"
            )
        if steps < train.warmup_steps:
            raise InputError(
                f"train.warmup_steps: more than the {steps} counted steps of num_train_epochs {epochs:g}, so no rate "
                f"would reach its value"
            )
        return steps

    def of(self, stream: str, iterations: int) -> float:
        """How often so many iterations have drawn each of a stream's examples."""
        batches = self.method.draws[stream] * iterations + self._further(iterations)
        return self.train.batch_size * batches / self.sizes[stream]

    def _further(self, iterations: int) -> int:
        """Batches that the estimator draws beside those of the iterations."""
        return 0 if self.estimator is None else self.estimator.further(*self.method.estimated(iterations))

    def words(self) -> str:
        """A line: how many steps the passes are, and how often another stream is passed; "" where none are wanted."""
        if self.train.num_train_epochs is None:
            return ""
        bound, several = "at most " if self.at_most else "", len(self.sizes) > 1
        line = (
            f"num_train_epochs {self.train.num_train_epochs:g} = {bound}{self.max_steps:,} steps of batch "
            f"{self.train.batch_size} over {bound}{self.sizes[self.stream]:,} examples"
        )
        line += f" of the {LEVELS.get(self.stream, self.stream)} level" if several else ""
        for name in (name for name in self.sizes if name != self.stream):
            times = self.of(name, self.iterations)
            line += f" (the {LEVELS.get(name, name)} level's {self.sizes[name]:,} are passed {times:.3g} times)"
        return f"{line}; a run counts them" if self.at_most else line
