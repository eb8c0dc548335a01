"""A task's rows dealt to the clients of a simulation, evenly or with skewed labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from zofo.config.instantiate import make_method
from zofo.data import TaskData, load_task
from zofo.data.example import Example
from zofo.errors import InputError
from zofo.federated.settings import Settings
from zofo.zo.keys import derive


def shares(examples: Sequence[Example], clients: int, alpha: float | None, seed: int) -> list[list[Example]]:
    """Each client's examples. alpha: the labels of each are dealt by shares that Dirichlet's law with this parameter
    gives (Hsu et al., arXiv 1909.06335): the smaller, the fewer clients have a label; None: dealt in turn.

    Every client has an example at least: one that would have none takes it of who has most. Raises InputError where
    there are fewer than clients.
    """
    if len(examples) < clients:
        raise InputError(f"simulate.clients: {clients}, and {len(examples)} training rows")
    if alpha is None:
        return [list(examples[i::clients]) for i in range(clients)]
    rng = np.random.Generator(np.random.PCG64(derive(seed, "federated/shares")))
    by_label = defaultdict[object, list[Example]](list)
    for example in examples:
        by_label[example.gold].append(example)
    out: list[list[Example]] = [[] for _ in range(clients)]
    for label in sorted(by_label, key=str):
        ours = by_label[label]
        cuts = np.cumsum(rng.dirichlet([alpha] * clients))[:-1] * len(ours)
        order = rng.permutation(len(ours))
        for client, places in enumerate(np.split(order, cuts.round().astype(int))):
            out[client] += [ours[int(place)] for place in places]
    for empty in (share for share in out if not share):
        empty.append(max(out, key=len).pop())
    return out


def dealt(settings: Settings) -> list[TaskData]:
    """The task with each client's training rows, of a simulation. Raises InputError where rows or dev are too few."""
    simulation, run = settings.simulation, settings.run
    data = load_task(run.task, run.train.seed)
    _enough(data, simulation.clients)
    given = shares(data.train, simulation.clients, simulation.alpha, run.train.seed)
    return [replace(data, train=share) for share in given]


def labels(data: TaskData) -> dict[str, int]:
    """{label: training rows}."""
    named = data.labels or ()
    return dict(sorted(Counter(named[one.gold[0]] if named and one.gold else "rows" for one in data.train).items()))


def unable(settings: Settings, clients: Sequence[TaskData]) -> dict[int, str]:
    """{client: why the method cannot train on its rows}."""
    method, out = make_method(settings.run), dict[int, str]()
    for client, data in enumerate(clients):
        try:
            method.split(data, settings.run.train.seed)
        except InputError as error:
            out[client] = str(error)
    return out


def _enough(data: TaskData, clients: int) -> None:
    if len(data.dev) < clients:
        raise InputError(f"simulate.clients: {clients}, and {len(data.dev)} dev rows; task.dev_examples says more")


def part(client: int, clients: int, alpha: float | None) -> Callable[..., TaskData]:
    """What reads the task as one client has it: its training rows, and every so-manieth of dev."""

    def load(task: Any, seed: int, *rest: Any) -> TaskData:
        data = load_task(task, seed, *rest)
        train = shares(data.train, clients, alpha, seed)[client]
        _enough(data, clients)
        return replace(data, train=train, dev=data.dev[client::clients])

    return load
