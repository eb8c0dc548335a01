"""theta larger than memory: an estimate and the update before it read it once, and write it once, layer by layer.

Where an update has been asked for, a layer makes its part of it when a forward comes to the layer, then computes both
sides of the next estimate, and goes. The bits are those of `Point`, which passes over all of theta each time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from zofo.zo.direction import Direction
from zofo.zo.kernels.reference import Terms
from zofo.zo.lockstep import Lockstep
from zofo.zo.move import RESTS, Move, Planes
from zofo.zo.point import Point
from zofo.zo.shift import Scratch

SLICE = 1 << 22  # elements of an update that are made before they are written
log = logging.getLogger("zofo")
Value = TypeVar("Value")


class Pages(Protocol):
    """Where the weights are: mapped, in memory page by page; and a layer's also in a memory of its own for a while.

    layers: in the order of a forward.
    """

    @property
    def layers(self) -> Sequence[nn.Module]: ...

    def need(self, layer: int, mapped: bool) -> None:
        """A layer will be read soon, where it is mapped or in a memory of its own."""
        ...

    def take(self, layer: int) -> dict[int, Tensor] | None:
        """{id of a parameter: its values} in a memory of its own, until `give`; None: they are read where mapped."""
        ...

    def give(self, layer: int, changed: bool) -> None:
        """What was taken; if changed it is written back, behind what else is done."""
        ...

    def leave(self, layer: int) -> None:
        """The pages of a layer will not be read for a while."""
        ...

    def write(self, param: Tensor, lo: int, values: Tensor) -> None:
        """Elements lo ... of a parameter, taken flat, <- values, where it is mapped."""
        ...

    def sync(self) -> None:
        """What is mapped is what was given back, and nothing is read ahead any more."""
        ...


class PagedPoint(Point):
    """A `Point` whose layers are in memory while they are needed. Mode `layer` alone.

    Raises ValueError for another mode.
    """

    def __init__(
        self, model: nn.Module, pages: Pages, sides: Lockstep, names: set[str] | None = None, mode: str = "layer"
    ) -> None:
        """sides: what the model's forwards are made with. model and names: as in `Point`."""
        if mode != "layer":
            raise ValueError(f"weights that are not all in memory cannot be shifted in mode {mode}; use layer")
        super().__init__(model, names, mode)
        self._pages, self._sides = pages, sides
        self._at: int | None = None  # the layer that a forward is in
        self._taken: dict[int, Tensor] | None = None  # where that layer's weights are, if not mapped
        self._changed = self._auditing = False
        self._mixed: set[int] = set()  # layers with weights that are read outside: these are where they are mapped
        self._mapped = {name: param.data for name, param in self._params.items()}
        self._deferring = False
        self._late: Move | None = None  # an update that these layers have still to make
        self._left: set[int] = set()
        self._scratch = Scratch()
        self._names = _layers_of(pages.layers, self._params)
        for number, layer in enumerate(pages.layers):
            layer.register_forward_pre_hook(partial(self._enter, number))
        for module in _around(model, pages.layers):
            module.register_forward_hook(self._end, always_call=True)

    def _enter(self, number: int, module: nn.Module, args: Any) -> None:
        """A forward comes to a layer. Of two sides the one that is here first waits for the other."""
        del module, args
        self._sides.turn()
        # A graph may keep views of a weight, whose memory must stay what it is
        mapped = torch.is_grad_enabled() or self._auditing
        if number != self._at or (mapped and self._taken is not None):
            self._exit()
            self._at = number
            if mapped:
                self._pages.sync()
            else:
                self._bind(number)
            following = (number + 1) % len(self._names)
            # Between forwards others may write weights, so the next one's first layer is not read before
            if following or mapped or self._deferring:
                self._pages.need(following, mapped or following in self._mixed)
        self._make([number])

    def _end(self, *_: Any) -> None:
        """A forward is behind the layers. Whoever looks at a weight now finds it where it stays."""
        if self._taken is not None and self._sides.alone:
            self._exit()

    def _bind(self, number: int) -> None:
        for name in self._names[number]:
            if self._params[name].data_ptr() != self._mapped[name].data_ptr():
                raise RuntimeError(f"{name} was moved, cast or given other memory after its Point was built")
        self._taken = None if number in self._mixed else self._pages.take(number)
        if self._taken is not None:
            for name in self._names[number]:
                self._places.rebind(name, self._taken[id(self._params[name])])

    def _exit(self) -> None:
        """The layer that a forward was in goes."""
        at, taken, changed = self._at, self._taken, self._changed
        self._at, self._taken, self._changed = None, None, False
        if at is None:
            return
        if taken is None:
            self._pages.leave(at)
        else:
            for name in self._names[at]:
                self._places.rebind(name, self._mapped[name])
            self._pages.give(at, changed)

    @contextmanager
    def deferring(self) -> Iterator[None]:
        """An update may be made as late inside as the model next reads the weights; all are made at the end. Who reads
        theta in another way than by a forward, or here, calls `settle` before."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
            self.settle()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        self.settle()  # what waits is made where weights stay
        with super().waiting():
            yield

    def settle(self) -> None:
        super().settle()
        self._make(sorted(self._left))
        self._exit()
        self._pages.sync()

    def sides(self, f: Callable[[], Value], z: Direction, eps: float, rounding: str) -> tuple[Value, Value]:
        """f at theta + eps z and at theta - eps z, each forward of the two sides in one reading of theta."""
        with self.shifted(z, +eps, rounding), self._sides.both(self._move, self.terms(z, -eps)):
            plus = f()
        with self.shifted(z, -eps, rounding), self._sides.second():
            return plus, f()

    def _add(self, terms: Terms, z: Direction, round_seed: int | None, low: Planes | None = None) -> None:
        self._make(sorted(self._left))
        move = Move(self.bases)
        move.set(terms, z, round_seed, low)
        with torch.no_grad():
            if not self._deferring:
                self._exit()
                self._pages.sync()
                self._pass(move, self._params)
                return
            within = {name for names in self._names for name in names}
            self._pass(move, [name for name in self._params if name not in within])
        self._late, self._left = move, set(range(len(self._names)))

    def _make(self, layers: Collection[int]) -> None:
        """Of the update that is left to be made, the part of these layers."""
        if self._late is None:
            return
        with torch.no_grad():
            for number in layers:
                if number in self._left and number == self._at and self._taken is not None:
                    params = [(self._params[name], self.addresses[name]) for name in self._names[number]]
                    self._late.add_all((param, param, at) for param, at in params)
                    self._changed = True
                elif number in self._left:
                    self._pages.sync()
                    self._pass(self._late, self._names[number])
                self._left.discard(number)
        if not self._left:
            self._late = None

    def _pass(self, move: Move, names: Collection[str]) -> None:
        """In slices, which are made beside the file and then written: to write a mapped page is a fault for each."""
        for name in names:
            param = self._params[name]
            if move.part(name) is RESTS:
                continue
            flat = param.detach().view(-1)
            for lo in range(0, flat.numel(), SLICE):
                given = flat[lo : lo + SLICE]
                self._scratch.reset()
                made = self._scratch.take(given.shape, given)
                move.add(made, given, self.addresses[name], lo)
                self._pages.write(param, lo, made)

    def audit(self, forward: Callable[[], object]) -> set[str]:
        """As `Point.audit`. A weight that is read outside its layer takes its updates at once from here on."""
        outside, counted = set[str](), dict[str, int]()
        entered: int | None = None

        def look() -> None:
            reads = self._places.reads()
            mine = set() if entered is None else self._names[entered]
            outside.update(n for names in self._names for n in names if reads[n] != counted[n] and n not in mine)
            counted.update(reads)

        def arrive(number: int, module: nn.Module, args: Any) -> None:
            nonlocal entered
            del module, args
            look()
            entered = number

        def leave(*_: Any) -> None:
            nonlocal entered
            look()
            entered = None

        hooks = [layer.register_forward_pre_hook(partial(arrive, i)) for i, layer in enumerate(self._pages.layers)]
        hooks += [layer.register_forward_hook(leave) for layer in self._pages.layers]

        def watched() -> None:
            counted.update(self._places.reads())
            forward()
            look()

        self._exit()
        self._auditing = True
        try:
            unread = super().audit(watched)
        finally:
            self._auditing = False
            for hook in hooks:
                hook.remove()
        if outside:
            log.info("read outside their layers, and so held in memory longer: %s", ", ".join(sorted(outside)[:3]))
            self._mixed = {number for number, names in enumerate(self._names) if outside & set(names)}
            self._names = [[name for name in names if name not in outside] for names in self._names]
        return unread


def _around(model: nn.Module, layers: Sequence[nn.Module]) -> list[nn.Module]:
    """The model, and what is in it around the layers: wrappers call some of these past the model."""
    inside = {*layers}
    return [m for m in model.modules() if m is model or (m not in inside and not inside.isdisjoint(m.modules()))]


def _layers_of(layers: Sequence[nn.Module], params: dict[str, Tensor]) -> list[list[str]]:
    """theta's names in each layer; a tensor that two layers share is in none."""
    names = {id(param): name for name, param in params.items()}
    inside = [list(dict.fromkeys(names[id(p)] for p in layer.parameters() if id(p) in names)) for layer in layers]
    counts: dict[str, int] = {}
    for each in inside:
        for name in each:
            counts[name] = counts.get(name, 0) + 1
    return [[name for name in each if counts[name] == 1] for each in inside]
