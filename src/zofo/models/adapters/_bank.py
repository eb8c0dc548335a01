"""Bank: one adapter for each training task under one name, so that a method says p and s and each example has its own.

A batch may hold examples of several tasks; which adapter each of its rows meets is `members`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zofo.errors import InputError
from zofo.models.adapters._set import AdapterSet
from zofo.models.sealed import Sums
from zofo.zo.keys import derive


def member(name: str, task: str) -> str:
    """The adapter `name` of one task. torch's modules allow no dot in a name."""
    return f"{name}/{task.replace('.', '_')}"


class Bank(AdapterSet):
    """`names` are those the method uses; `inner` holds an adapter for each of them and each task.

    A name that is active changes nothing in the model: the loss asks for the members of its batch.
    """

    def __init__(self, inner: AdapterSet, names: Sequence[str], tasks: Sequence[str]) -> None:
        """inner: made with `Bank.all_members` as its names."""
        self.inner, self.tasks, self.mixes, self.virtual = inner, tuple(tasks), inner.mixes, inner.virtual
        parameters = {
            name: {f"{t}: {key}": p for t in tasks for key, p in inner.parameters(member(name, t)).items()}
            for name in names
        }
        super().__init__(inner.model, names, parameters)

    @staticmethod
    def all_members(names: Sequence[str], tasks: Sequence[str]) -> list[str]:
        """Raises InputError where two tasks would share an adapter."""
        members = [member(name, task) for name in names for task in tasks]
        if len(set(members)) < len(members):
            raise InputError(f"two tasks of one name: {', '.join(sorted({t for t in tasks if '.' in t}))}; rename one")
        return members

    def members(self, name: str, groups: Sequence[str]) -> list[str]:
        return [member(name, group) for group in groups]

    def _activate(self, name: str) -> None:
        pass

    @contextmanager
    def active(self, name: str) -> Iterator[None]:
        context = super().active if name in self.names else self.inner.active
        with context(name):
            yield

    def rows(self, names: Sequence[str]) -> AbstractContextManager[dict[str, Any]]:
        return self.inner.rows(names)

    def without(self) -> AbstractContextManager[None]:
        return self.inner.without()

    def unwrap(self) -> Any:
        return self.inner.unwrap()

    def redraw(self, name: str, seed: int) -> None:
        for task in self.tasks:
            self.inner.redraw(member(name, task), derive(seed, task))

    def save(self, name: str, directory: Path, base_model: str | None = None) -> Sums:
        """A PEFT directory for each task, in `directory`/task."""
        saved = (self.inner.save(member(name, task), directory / task, base_model) for task in self.tasks)
        return {path: digest for sums in saved for path, digest in sums.items()}

    def restore(self, name: str, directory: Path) -> None:
        for task in self.tasks:
            self.inner.restore(member(name, task), directory / task)

    def state(self, name: str) -> dict[str, Tensor]:
        return {f"{t}/{key}": v for t in self.tasks for key, v in self.inner.state(member(name, t)).items()}

    def _load(self, name: str, state: dict[str, Tensor]) -> None:
        for task in self.tasks:
            tensors = {key.removeprefix(f"{task}/"): v for key, v in state.items() if key.startswith(f"{task}/")}
            self.inner.load(member(name, task), tensors)

    def config(self, name: str) -> dict[str, Any]:
        return self.inner.config(member(name, self.tasks[0]))

    def deployable(self, name: str) -> Any:
        raise InputError(f"adapter {name}: there is one for each training task and none for another; take theta")

    def as_peft(self, name: str) -> Any:
        return self.deployable(name)

    def mergeable(self, name: str) -> str:
        return f"adapter {name}: there is one for each training task and none for another; take theta"


@torch.no_grad()
def mean(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several adapters' tensors: where a new task may start from, when each old one has its own."""
    return {
        key: torch.stack([state[key].double() for state in states]).mean(0).to(value.dtype)
        for key, value in states[0].items()
    }
