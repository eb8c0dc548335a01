"""What a method says of itself, and the little that all of them share. The order of the updates is each one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from zofo.data.example import Example, TaskData
    from zofo.methods._first_order import Descent
    from zofo.methods._problem import Metrics, Problem


class Base:
    """Facts first. `streams`: the training data of a one-level method is "train", of a bilevel one "f" and "p".

    moves: how theta is moved: not at all, by zeroth-order updates (the run keeps a journal), or by first-order ones
    (the run keeps weights). theta_of: theta is the backbone, or the adapter's tensors.
    """

    needs: ClassVar[frozenset[str]] = frozenset()  # sections of the configuration
    optional: ClassVar[frozenset[str]] = frozenset()
    streams: ClassVar[tuple[str, ...]] = ("train",)
    moves: ClassVar[Literal["nothing", "zo", "fo"]] = "nothing"
    first_order: ClassVar[bool] = True  # whether some part needs a differentiable objective
    iterates: ClassVar[bool] = True  # whether a step is an iteration of one kind, so that iterations can be counted
    theta_of: Literal["backbone", "adapter"] = "backbone"
    many: ClassVar[bool] = False  # whether it trains on many tasks, a setting, and on nothing else
    demonstrates: ClassVar[bool] = False  # whether training prompts have task.num_fewshot demonstrations too
    bank: bool = False  # whether each training task has adapters of its own, under the names of `adapters_used`
    adapters_used: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ("loss",)  # what it descends; "metric": minus the task's metric, somewhere
    apart: bool = False  # whether p and s start from different draws
    tasks_per_step: int = 0  # training tasks sampled for an iteration; 0: batches are of all
    candidates: tuple[str, ...] = ("theta",)  # what is evaluated; the first one wins a tie
    lower_per_step: int = 0
    upper_per_step: int = 0

    def __init__(self, config: Any, with_adapter: bool = False) -> None:
        """with_adapter: the configuration has an adapter section (for methods to which it is optional)."""
        del with_adapter
        self.config = config

    @classmethod
    def faults(cls, parts: Mapping[str, Any]) -> list[str]:
        """What is wrong with the configuration's sections together, as "section.field: what and the fix"."""
        del parts
        return []

    @property
    def deployable(self) -> tuple[str, ...]:
        """The candidates that dev may choose from."""
        return self.candidates

    @property
    def per_step(self) -> int:
        """Updates of one `step`, lower and upper."""
        return self.lower_per_step + self.upper_per_step

    @property
    def draws(self) -> dict[str, int]:
        """{stream: batches that one `step` draws from it, those of estimates aside that want more}."""
        return dict.fromkeys(self.streams, 1)

    def sizes(self, train: int, dev: int) -> dict[str, int]:
        """{stream: its examples} by `split` of so many examples."""
        del dev
        return dict.fromkeys(self.streams, train)

    def estimated(self, k: int) -> tuple[int, int]:
        """Of the first k steps those with a zeroth-order estimate: from the first number on, before the second."""
        return 0, k

    @property
    def shortest(self) -> int:
        """Counted steps below which a run would leave out a part of the method."""
        return self.per_step

    def updates(self, k: int) -> dict[str, int]:
        """Updates of the first k steps."""
        return {"lower": k * self.lower_per_step, "upper": k * self.upper_per_step}

    def kinds(self, steps: int) -> dict[int, int]:
        """{a step of each kind: how many of the run's `steps` are of it}, for a rehearsal."""
        return {0: steps}

    def now(self, k: int, t: int = 0) -> int:
        """Counted steps before update t of step k: what schedules go by. `count: outer` counts upper updates alone."""
        return k if self.problem.count == "outer" else k * self.per_step + t

    def scheduled(self, k: int, total: int) -> dict[str, float]:
        """{setting: what its schedule makes of it at step k} in a run of `total` counted steps: each rate, lambda."""
        rates = {name: value for name, value in vars(self.config).items() if name.startswith("lr")}
        step = min(self.now(k), total)  # beyond its end a schedule stays where it ended
        schedule = replace(self.problem.schedule, total=total) if self.problem.schedule is not None else None
        numbers = {name: value for name, value in rates.items() if isinstance(value, float) and value}
        return {} if schedule is None else {name: schedule(value, step) for name, value in numbers.items()}

    def split(self, data: TaskData, seed: int) -> dict[str, list[Example]]:
        """{stream: its training data}."""
        del seed
        return dict.fromkeys(self.streams, data.train)

    def setup(self, problem: Problem) -> None:
        """Called once, before the first step, with adapters and theta at their start."""
        self.problem = problem

    def step(self, k: int) -> Metrics:
        """Iteration k, from 0."""
        raise NotImplementedError

    @property
    def details(self) -> Metrics:
        """Of the last step: what is logged beside its metrics, and is too much for the line that a person reads."""
        return {}

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a run of these settings says once, at its start."""
        return ()

    def optimizers(self) -> dict[str, Descent]:
        """The first-order optimizers whose state a checkpoint holds."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {name: descent.state_dict() for name, descent in self.optimizers().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, descent in self.optimizers().items():
            descent.load_state_dict(state.get(name, {}))
