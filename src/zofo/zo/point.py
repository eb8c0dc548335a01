"""Point: theta, the set of tensors that zeroth-order updates move, tied tensors once (SPEC section 2)."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from zofo.zo import kernels
from zofo.zo.direction import SPHERE, TABLE_ONE, Direction
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.kernels.reference import Terms
from zofo.zo.keys import tensor_key
from zofo.zo.shift import Move, ReadAudit, Shifted

MODES = ("layer", "inplace")
SLICE = 1 << 20  # elements that a rule with a dense step takes at a time
STRETCHES = 256  # seeds whose stretch is remembered: more than an estimate has terms


class UnshiftableError(RuntimeError):
    """A weight of theta is read where no stand-in can reach it."""


class Point(Mapping[str, Tensor]):
    """theta as {canonical name: tensor}; names are those of the unwrapped model's checkpoint.

    Build it before PEFT wraps the model: the parameter objects and their modules stay, their names would not.
    """

    def __init__(
        self,
        model: nn.Module,
        names: set[str] | None = None,
        mode: str = "layer",
        params: Mapping[str, nn.Parameter] | None = None,
    ) -> None:
        """names: the tensors of theta, or None for every floating-point parameter. Their requires_grad becomes False.

        params: theta itself as {canonical name: parameter of model}, for names that the wrapped model does not give
        (an adapter's). It excludes `names`. Raises ValueError for a parameter that is not the model's or comes twice.

        mode `layer`: theta is never written during an estimate. `inplace`: MeZO's arithmetic, theta + eps z - eps z,
        which drifts in every dtype; for comparisons only.
        """
        if mode not in MODES:
            raise ValueError(f"unknown shift mode {mode!r}; known: {', '.join(MODES)}")
        if names is not None and params is not None:
            raise ValueError("give names or params, not both")
        self.mode = mode
        self._move = Move()
        self._stretches: dict[int, float] = {}
        self._dense_seconds = math.inf  # of the fastest `apply_`
        self._places: list[tuple[nn.Module, str, nn.Parameter, Shifted]] = []
        chosen = _chosen(model, names) if params is None else dict(params)
        self.params: dict[str, Tensor] = {name: param.requires_grad_(False) for name, param in chosen.items()}
        self._keys = {name: tensor_key(name) for name in self.params}
        if len(set(self._keys.values())) != len(self._keys):
            raise ValueError("two tensor names share a 64-bit key; rename one of them")
        standins = {id(p): Shifted(p, self._keys[name], self._move) for name, p in self.params.items()}
        if len(standins) != len(self.params):
            raise ValueError("one parameter has two names: tied tensors stand in theta once")
        for module in model.modules():
            for attribute, param in module._parameters.items():
                if param is not None and id(param) in standins:
                    self._places.append((module, attribute, param, standins[id(param)]))
        absent = standins.keys() - {id(param) for _, _, param, _ in self._places}
        if absent:
            raise ValueError(f"not among the model's parameters: {', '.join(self._names(absent))}")

    def _names(self, ids: Set[int]) -> list[str]:
        return [name for name, param in self.params.items() if id(param) in ids]

    def __getitem__(self, name: str) -> Tensor:
        return self.params[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.params)

    def __len__(self) -> int:
        return len(self.params)

    @property
    def size(self) -> int:
        """d, the number of weights."""
        return sum(p.numel() for p in self.params.values())

    @property
    def nbytes(self) -> int:
        return sum(p.numel() * p.element_size() for p in self.params.values())

    @property
    def scratch_bytes(self) -> int:
        """Bytes that the stand-ins' scratch has grown to."""
        return self._move.scratch.nbytes

    @contextmanager
    def shifted(self, move: ZOGrad | Direction, scale: float, rounding: str = "stochastic") -> Iterator[None]:
        """The model computes at theta + scale * move inside this context; theta itself is not written (mode `layer`).

        In bf16 and fp16 the shifted weight is rounded stochastically with the direction's own rounding key, the same
        for every scale, or to nearest. Not re-entrant. No gradients flow to theta.
        """
        if self._move.terms:
            raise RuntimeError("theta is already shifted: two shifts cannot be nested")
        if any(standin.source.data_ptr() != param.data_ptr() for _, _, param, standin in self._places):
            raise RuntimeError("the model was moved or cast after its Point was built; build the Point last")
        first = _first(move)
        terms = self.terms(move, scale)
        self._move.terms, self._move.law = terms, first.entries
        if self.mode == "inplace":
            self._add(terms, None, first.entries)
            try:
                yield
            finally:
                self._add([(seed, -factor) for seed, factor in terms], None, first.entries)
                self._move.terms = ()
            return
        self._move.round_seed = first.rounding_seed if rounding == "stochastic" else None
        try:
            for module, attribute, _, standin in self._places:
                module._parameters[attribute] = standin  # pyright: ignore[reportArgumentType]
            with torch.no_grad():
                yield
        finally:
            for module, attribute, param, _ in self._places:
                module._parameters[attribute] = param
            self._move.terms = ()

    def sides(self, f: Callable[[], float], z: Direction, eps: float, rounding: str) -> tuple[float, float]:
        """f at theta + eps z and at theta - eps z. In mode `inplace` by MeZO's three passes: + eps, - 2 eps, + eps."""
        if self.mode == "layer":
            with self.shifted(z, +eps, rounding):
                plus = f()
            with self.shifted(z, -eps, rounding):
                return plus, f()
        self._add(self.terms(z, +eps), None, z.entries)
        plus = f()
        self._add(self.terms(z, -2 * eps), None, z.entries)
        minus = f()
        self._add(self.terms(z, +eps), None, z.entries)
        return plus, minus

    @contextmanager
    def trainable(self) -> Iterator[None]:
        """theta's tensors take gradients inside, for first-order steps; after it none, and `.grad` is None."""
        params = self.params.values()
        try:
            for param in params:
                param.requires_grad_(True)
            yield
        finally:
            for param in params:
                param.requires_grad_(False)
                param.grad = None

    def add_(self, g: ZOGrad, scale: float, round_seed: int | None) -> None:
        """theta <- round(theta + sum_i fp32(scale c_i) z_i), one pass, one rounding.

        round_seed: key of the stochastic rounding of bf16 and fp16 weights; None rounds to nearest.
        """
        self._add(self.terms(g, scale), round_seed, _first(g).entries)

    def apply_(self, g: ZOGrad, move: Callable[[str, slice, Tensor], Tensor], round_seed: int | None) -> None:
        """theta <- round(theta + move(g)), for rules that are not linear in g; one rounding, keyed as in `add_`.

        move(name, at, g): for the elements `at` (row-major) of a tensor, the fp32 values of sum_i fp32(c_i r_i) z_i,
        which it may overwrite, to the fp32 step. Slices keep the temporaries small.
        """
        terms, law, start = self.terms(g, 1.0), _first(g).entries, time.perf_counter()
        with torch.no_grad():
            for name, param in self.params.items():
                flat, key = param.detach().contiguous().view(-1), self._keys[name]
                for lo in range(0, flat.numel(), SLICE):
                    part = flat[lo : lo + SLICE]
                    dense = torch.zeros(part.numel(), dtype=torch.float32, device=part.device)
                    kernels.add(dense, dense, terms, key, lo, law=law)
                    step = move(name, slice(lo, lo + part.numel()), dense)
                    kernels.add_dense(part, part, step, key, lo, round_seed)
                if not param.is_contiguous():
                    param.copy_(flat.view(param.shape))
        self._dense_seconds = min(self._dense_seconds, time.perf_counter() - start)

    def _add(self, terms: Terms, round_seed: int | None, law: str) -> None:
        with torch.no_grad():
            for name, param in self.params.items():
                kernels.add(param, param, terms, self._keys[name], 0, round_seed, law)

    def terms(self, move: ZOGrad | Direction, scale: float) -> Terms:
        """(seed, fp32(scale c_i r_i)) of each term, as the kernels take them; r_i is the direction's stretch."""
        if isinstance(move, Direction):
            return [(move.seed, float32(scale * self.stretch(move)))]
        return [(z.seed, float32(scale * c * self.stretch(z))) for c, z in move.terms]

    def stretch(self, z: Direction) -> float:
        """What its law multiplies z's entries by: 1, or sqrt(d / sum of squares over all of theta) on the sphere.

        The sum is one of integers, exact; it takes a pass over theta's elements and is remembered for the last seeds.
        """
        if z.law != SPHERE:
            return 1.0
        if z.seed not in self._stretches:
            total = sum(kernels.sum_squares(p.numel(), z.seed, self._keys[n], p.device) for n, p in self.params.items())
            # An integer quotient and a square root, each rounded once: the same double everywhere
            self._stretches[z.seed] = math.sqrt(self.size * TABLE_ONE**2 / total) if total else 1.0
            if len(self._stretches) > STRETCHES:
                del self._stretches[next(iter(self._stretches))]
        return self._stretches[z.seed]

    def realised(self, z: Direction, scale: float, rounding: str = "stochastic") -> dict[str, float]:
        """Per tensor, the share of the wanted move that the dtype lets through.

        <round(theta + scale z) - theta, z> / (scale <z, z>), 1 where nothing is lost.
        """
        shares, (_, factor) = {}, self.terms(z, scale)[0]
        for name, param in self.params.items():
            seed = z.rounding_seed if rounding == "stochastic" else None
            moved = torch.empty_like(param, memory_format=torch.contiguous_format)
            kernels.add(moved, param.detach(), [(z.seed, factor)], self._keys[name], 0, seed, z.entries)
            entries = torch.zeros(param.shape, dtype=torch.float32, device=param.device)
            kernels.add(entries, entries, [(z.seed, 1.0)], self._keys[name], law=z.entries)
            step = (moved.double() - param.detach().double()) * entries
            shares[name] = float(step.sum() / entries.double().square().sum()) / factor
        return shares

    def time_update(self) -> float:
        """Seconds of one update: of the fastest `apply_` so far, else of a pass by zero into scratch."""
        if math.isfinite(self._dense_seconds):
            return self._dense_seconds
        start = time.perf_counter()
        for name, param in self.params.items():
            for part in param.detach().reshape(-1).split(1 << 22):
                kernels.add(torch.empty_like(part), part, [(0, 0.0)], self._keys[name], 0, 0, self._move.law)
        return time.perf_counter() - start

    def audit(self, forward: Callable[[], object]) -> set[str]:
        """Run `forward` shifted and check that no weight of theta is read unshifted. Returns the names never read.

        Raises UnshiftableError naming weights that some module keeps a second reference to.
        """
        if self.mode == "inplace":  # the weights themselves are shifted, so every read meets the shift
            return set()
        for _, _, _, standin in self._places:
            standin.reads = 0
        watch = ReadAudit(dict(self.params))
        with self.shifted(Direction(0), 1e-3):
            with watch:
                forward()
        if watch.unshifted:
            raise UnshiftableError(
                f"cannot be shifted, a module reads them past its parameters: {', '.join(sorted(watch.unshifted))}"
            )
        return set(self._names({id(param) for _, _, param, standin in self._places if not standin.reads}))

    def sha256(self) -> dict[str, str]:
        """SHA-256 of each tensor's bytes, row-major and little endian."""
        return {name: tensor_sha256(param) for name, param in self.params.items()}

    def digest(self) -> str:
        """One SHA-256 over the names and digests of all tensors, in the order of their names."""
        lines = (f"{name} {digest}\n" for name, digest in sorted(self.sha256().items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def tensor_sha256(tensor: Tensor) -> str:
    raw = tensor.detach().contiguous().cpu().view(-1).view(torch.uint8)
    return hashlib.sha256(raw.numpy().data).hexdigest()


def _chosen(model: nn.Module, names: set[str] | None) -> dict[str, nn.Parameter]:
    return {n: p for n, p in model.named_parameters() if p.is_floating_point() and (names is None or n in names)}


def _first(move: ZOGrad | Direction) -> Direction:
    return move if isinstance(move, Direction) else move.terms[0][1]
