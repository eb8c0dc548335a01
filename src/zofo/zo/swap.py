"""Where a model keeps theta's tensors, and what stands there while it computes at a shifted point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from zofo.zo import dtensors
from zofo.zo._torch import own_parameters
from zofo.zo.keys import Address
from zofo.zo.move import Move
from zofo.zo.shift import ReadAudit, Scratch, Shifted


class Places:
    """Every (module, attribute) that holds a tensor of theta. Tied tensors have several."""

    def __init__(
        self,
        model: nn.Module,
        params: Mapping[str, nn.Parameter],
        addresses: Mapping[str, Address],
        move: Move,
    ) -> None:
        """move: read by the stand-ins and the copies whenever they are used. Raises ValueError as `Point` does."""
        self._params, self._addresses, self._move, self.scratch = params, addresses, move, Scratch()
        self._standins = {
            id(p): Shifted(dtensors.here(p), addresses[name], move, self.scratch) for name, p in params.items()
        }
        if len(self._standins) != len(params):
            raise ValueError("one parameter has two names: tied tensors stand in theta once")
        self._gathered = bool(dtensors.gathering(model))
        self._places: list[tuple[nn.Module, str, nn.Parameter]] = []
        for module in model.modules():
            for attribute, param in own_parameters(module).items():
                if param is not None and id(param) in self._standins:
                    self._places.append((module, attribute, param))
        absent = self._standins.keys() - {id(param) for _, _, param in self._places}
        if absent:
            names = (name for name, param in params.items() if id(param) in absent)
            raise ValueError(f"not among the model's parameters: {', '.join(names)}")
        self._copies: dict[int, nn.Parameter] = {}  # by the id of the parameter

    def moved(self) -> bool:
        """Whether the model's tensors are other memory than when this was built."""
        here = dtensors.here
        return any(
            self._standins[id(param)].source.data_ptr() != here(param).data_ptr() for _, _, param in self._places
        )

    @contextmanager
    def standins(self) -> Iterator[None]:
        """Stand-ins are there inside, each of which makes its shifted values when a function reads it."""
        with self._replaced(self._standins):
            yield

    @contextmanager
    def copies(self) -> Iterator[None]:
        """Shifted copies are there inside, made in one pass. Their memory is kept from one use to the next.

        Where the model gathers its weights it reads theta's own memory: there the copies keep theta, which is back
        afterwards, bit for bit.
        """
        if not self._copies:
            self._copies = {
                key: nn.Parameter(
                    torch.empty_like(standin.source, memory_format=torch.contiguous_format), requires_grad=False
                )
                for key, standin in self._standins.items()
            }
        if self._gathered:
            with self._lent():
                yield
            return
        self._fill({key: (copy, self._standins[key].source) for key, copy in self._copies.items()})
        with self._replaced(self._copies):
            yield

    def _fill(self, pairs: Mapping[int, tuple[Tensor, Tensor]]) -> None:
        """Shifted values into the first of each pair, those of the second (or of an anchor) shifted."""
        if any(standin.anchor is not None for standin in self._standins.values()):
            for key, (out, _) in pairs.items():
                self._standins[key].values(out)
        else:
            self._move.add_all([(*pair, self._standins[key].at) for key, pair in pairs.items()])

    @contextmanager
    def _lent(self) -> Iterator[None]:
        """theta's memory holds the shifted values inside."""
        for key, kept in self._copies.items():
            kept.copy_(self._standins[key].source)
        try:
            anchored = any(standin.anchor is not None for standin in self._standins.values())
            sources = {key: standin.source for key, standin in self._standins.items()}
            self._fill({key: (source, source if anchored else self._copies[key]) for key, source in sources.items()})
            yield
        finally:
            for key, kept in self._copies.items():
                self._standins[key].source.copy_(kept)

    @contextmanager
    def anchored(self, anchor: Mapping[str, Tensor]) -> Iterator[None]:
        """Stand-ins and copies are made from these values inside, not from theta's."""
        try:
            for name, param in self._params.items():
                self._standins[id(param)].anchor = anchor[name]
            yield
        finally:
            for standin in self._standins.values():
                standin.anchor = None

    def rebind(self, name: str, values: Tensor) -> None:
        """A parameter's values are elsewhere from now on: the same ones, in its shape and dtype."""
        param = self._params[name]
        param.data = values
        self._standins[id(param)].source = param.detach()

    def reads(self) -> dict[str, int]:
        """How often each stand-in was read since the audit began."""
        return {name: self._standins[id(param)].reads for name, param in self._params.items()}

    @property
    def copied_bytes(self) -> int:
        return sum(p.numel() * p.element_size() for p in self._copies.values())

    @contextmanager
    def _replaced(self, by: Mapping[int, Tensor]) -> Iterator[None]:
        try:
            for module, attribute, param in self._places:
                own_parameters(module)[attribute] = by[id(param)]  # pyright: ignore[reportArgumentType]
            yield
        finally:
            for module, attribute, param in self._places:
                own_parameters(module)[attribute] = param

    def audit(self, forward: Callable[[], object]) -> tuple[set[str], set[str]]:
        """Run `forward` with stand-ins. Returns (names read past their stand-ins, names never read)."""
        for standin in self._standins.values():
            standin.reads = 0
        if self._gathered:  # whatever is read was gathered from the memory that is shifted
            return set(), set()
        watch = ReadAudit({name: dtensors.here(param) for name, param in self._params.items()})
        with torch.no_grad(), self.standins(), watch:
            forward()
        return watch.unshifted, {name for name, p in self._params.items() if not self._standins[id(p)].reads}
