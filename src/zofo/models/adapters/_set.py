"""AdapterSet: several copies of one adapter on one backbone, by name (p and s; a bank has more)."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zofo.config.json_text import dumps
from zofo.errors import InputError
from zofo.models.sealed import Sums
from zofo.models.tensors import load_tensors, save_tensors

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


class AdapterSet(ABC):
    """The named adapters on one backbone. `model` is what computes with the active one.

    Every copy has requires_grad all the time: an adapter that is not active has no part in the graph.
    """

    model: Any
    mixes: bool  # whether the rows of one batch may belong to different adapters (without gradients)
    virtual: int = 0  # positions that the adapter puts in front of every row

    def __init__(self, model: Any, names: Sequence[str], parameters: Mapping[str, dict[str, nn.Parameter]]) -> None:
        """parameters: for each adapter {name without the adapter's: parameter}, in one order for all."""
        self.model, self.names, self._parameters = model, tuple(names), dict(parameters)
        for params in self._parameters.values():
            for param in params.values():
                param.requires_grad_(True)
        self._active = self.names[0]
        self._activate(self.names[0])

    @abstractmethod
    def _activate(self, name: str) -> None:
        """Make the model compute with this adapter."""

    @abstractmethod
    def rows(self, names: Sequence[str]) -> AbstractContextManager[dict[str, Any]]:
        """Context: row i of the next forward uses adapter names[i]. Yields the keyword arguments for that forward.

        Without gradients only. Where all rows agree the plain path is taken.
        """

    @abstractmethod
    def state(self, name: str) -> dict[str, Tensor]:
        """The adapter's tensors under the keys of its file, on the CPU."""

    @abstractmethod
    def _load(self, name: str, state: dict[str, Tensor]) -> None: ...

    @abstractmethod
    def config(self, name: str) -> dict[str, Any]:
        """The contents of adapter_config.json."""

    @abstractmethod
    def deployable(self, name: str) -> Any:
        """A model with this adapter, that can generate."""

    @abstractmethod
    def as_peft(self, name: str) -> Any | None:
        """What PEFT makes of this adapter's files, on the same backbone; None for an adapter that it does not know."""

    @abstractmethod
    def mergeable(self, name: str) -> str:
        """Why the adapter cannot become a change of the backbone's weights, and what to do; "" where it can."""

    def merged(self, name: str) -> Any:
        """The backbone with this adapter in its weights. Raises InputError where `mergeable` says why not.

        The set is of no use afterwards.
        """
        if reason := self.mergeable(name):
            raise InputError(f"--merge: {reason}")
        return self._merged(name)

    def _merged(self, name: str) -> Any:
        """Of a set whose adapters can be merged."""
        raise AssertionError(f"{type(self).__name__}.mergeable gave no reason")

    @abstractmethod
    def redraw(self, name: str, seed: int) -> None:
        """The adapter's weights <- another draw of its start, keyed by `seed`; the other adapters stay as they are.

        Raises InputError where the start is not drawn.
        """

    @abstractmethod
    def unwrap(self) -> Any:
        """The backbone, free of the adapters. The set is of no use afterwards."""

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """{name without the adapter's: parameter}, in a fixed order that is the same for every adapter of the set."""
        return self._parameters[name]

    def size(self, name: str) -> int:
        """d', the number of the adapter's weights."""
        return sum(p.numel() for p in self._parameters[name].values())

    @property
    def current(self) -> str:
        """The active adapter."""
        return self._active

    def members(self, name: str, groups: Sequence[str]) -> list[str]:
        """The adapter that `name` means for an example of each group: the same for all, but in a bank."""
        return [name] * len(groups)

    @abstractmethod
    def without(self) -> AbstractContextManager[None]:
        """Context: the model computes as the backbone alone."""

    @contextmanager
    def active(self, name: str) -> Iterator[None]:
        """The model computes with this adapter inside the context."""
        before = self._active
        self._switch(name)
        try:
            yield
        finally:
            self._switch(before)

    def _switch(self, name: str) -> None:
        self._active = name
        self._activate(name)

    @torch.no_grad()
    def copy(self, src: str, dst: str) -> None:
        """dst's weights <- src's."""
        for key, param in self._parameters[src].items():
            self._parameters[dst][key].copy_(param)

    def equal(self, one: str, other: str) -> bool:
        """Whether two adapters have the same weights; a NaN is no number's equal, and 0 is -0's."""
        pairs = zip(self._parameters[one].values(), self._parameters[other].values())
        return all(torch.equal(a, b) for a, b in pairs)

    @torch.no_grad()
    def put(self, name: str, values: Mapping[str, Tensor]) -> None:
        """The adapter's weights <- values, under the names of `parameters`."""
        for key, param in self._parameters[name].items():
            param.copy_(values[key])

    def load(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Raises ValueError with the first difference when the tensors do not fit the adapter."""
        if fault := difference(self.state(name), state):
            raise ValueError(f"the saved adapter has other tensors than this one ({fault})")
        self._load(name, dict(state))

    def save(self, name: str, directory: Path, base_model: str | None = None) -> Sums:
        """Write a PEFT directory. The same weights give the same bytes (PEFT's own writer orders sets by hash)."""
        return write_adapter(directory, self.state(name), self.config(name), base_model)

    def restore(self, name: str, directory: Path) -> None:
        """Load what `save` wrote. Raises OSError, or ValueError naming both models."""
        state = load_tensors(directory / WEIGHTS)
        try:
            self.load(name, state)
        except ValueError as error:
            raise ValueError(f"{error}; {both(directory, self.model.config)}") from error


def write_adapter(
    directory: Path, state: Mapping[str, Tensor], config: Mapping[str, Any], base_model: str | None
) -> Sums:
    """A PEFT directory of these tensors and this adapter_config.json. Returns the tensors' digest. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    sums = {(path := directory / WEIGHTS): save_tensors(state, path)}
    content = {**config} if base_model is None else {**config, "base_model_name_or_path": base_model}
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in content.items()}
    (directory / CONFIG).write_text(dumps(plain, indent=2, sort_keys=True, default=str) + "\n", "utf-8")
    return sums


def difference(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """The first difference in names or shapes, in words; "" where there is none."""
    for key in sorted({*expected, *given}):
        if key not in given:
            return f"it lacks {key}"
        if key not in expected:
            return f"it has {key}"
        if expected[key].shape != given[key].shape:
            return f"{key} is {list(given[key].shape)}, expected {list(expected[key].shape)}"
    return ""


def both(directory: Path, config: Any) -> str:
    """The model an adapter's directory was saved for, and the one it meets: a clause for an error's line.

    config: the model's that it meets.
    """
    try:
        named = json.loads((directory / CONFIG).read_text("utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError):
        named = None
    sizes = f"{config.model_type}, {getattr(config, 'num_hidden_layers', '?')} layers"
    if width := getattr(config, "hidden_size", None):
        sizes += f" of width {width}"
    here = getattr(config, "_name_or_path", "") or "the base model"
    return f"it was saved for {named or 'an unnamed model'}, or with other settings, and {here} is here ({sizes})"


def room(limit: int | None, config: Any, virtual: int) -> int | None:
    """Tokens of the longest row that fits beside `virtual` tokens in front of it; None: no limit is known.

    limit: the longest row without them. config: the model's, which names its positions. Raises InputError.
    """
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None or not virtual:
        return limit
    if positions - virtual < 2:
        raise InputError(
            f"adapter.tokens: {virtual} virtual tokens leave no room for a text in the model's {positions} positions"
        )
    return positions - virtual if limit is None else min(limit, positions - virtual)
