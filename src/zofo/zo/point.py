"""Point: theta, the set of tensors that zeroth-order updates move, tied tensors once (SPEC section 2)."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from zofo.zo import kernels
from zofo.zo.direction import Direction
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.keys import tensor_key
from zofo.zo.shift import Move, ReadAudit, Shifted

MODES = ("layer", "inplace")


class UnshiftableError(RuntimeError):
    """A weight of theta is read where no stand-in can reach it."""


class Point(Mapping[str, Tensor]):
    """theta as {canonical name: tensor}; names are those of the unwrapped model's checkpoint.

    Build it before PEFT wraps the model: the parameter objects and their modules stay, their names would not.
    """

    def __init__(self, model: nn.Module, names: set[str] | None = None, mode: str = "layer") -> None:
        """names: the tensors of theta, or None for every floating-point parameter. Their requires_grad becomes False.

        mode `layer`: theta is never written during an estimate. `inplace`: MeZO's arithmetic, theta + eps z - eps z,
        which drifts in every dtype; for comparisons only.
        """
        if mode not in MODES:
            raise ValueError(f"unknown shift mode {mode!r}; known: {', '.join(MODES)}")
        self.mode = mode
        self.params: dict[str, Tensor] = {}
        self._move = Move()
        self._places: list[tuple[nn.Module, str, nn.Parameter, Shifted]] = []
        for name, param in model.named_parameters():
            if param.is_floating_point() and (names is None or name in names):
                self.params[name] = param.requires_grad_(False)
        self._keys = {name: tensor_key(name) for name in self.params}
        if len(set(self._keys.values())) != len(self._keys):
            raise ValueError("two tensor names share a 64-bit key; rename one of them")
        standins = {id(p): Shifted(p, self._keys[name], self._move) for name, p in self.params.items()}
        for module in model.modules():
            for attribute, param in module._parameters.items():
                if param is not None and id(param) in standins:
                    self._places.append((module, attribute, param, standins[id(param)]))

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
        direction = move if isinstance(move, Direction) else move.terms[0][1]
        terms = _terms(move, scale)
        self._move.terms = terms
        if self.mode == "inplace":
            self._add(terms, None)
            try:
                yield
            finally:
                self._add([(seed, -factor) for seed, factor in terms], None)
                self._move.terms = ()
            return
        self._move.round_seed = direction.rounding_seed if rounding == "stochastic" else None
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
        self._add(_terms(z, +eps), None)
        plus = f()
        self._add(_terms(z, -2 * eps), None)
        minus = f()
        self._add(_terms(z, +eps), None)
        return plus, minus

    def add_(self, g: ZOGrad, scale: float, round_seed: int | None) -> None:
        """theta <- round(theta + sum_i fp32(scale c_i) z_i), one pass, one rounding.

        round_seed: key of the stochastic rounding of bf16 and fp16 weights; None rounds to nearest.
        """
        self._add(_terms(g, scale), round_seed)

    def _add(self, terms: list[tuple[int, float]], round_seed: int | None) -> None:
        with torch.no_grad():
            for name, param in self.params.items():
                kernels.add(param, param, terms, self._keys[name], 0, round_seed)

    def realised(self, z: Direction, scale: float, rounding: str = "stochastic") -> dict[str, float]:
        """Per tensor, the share of the wanted move that the dtype lets through.

        <round(theta + scale z) - theta, z> / (scale d), 1 where nothing is lost.
        """
        shares = {}
        for name, param in self.params.items():
            seed = z.rounding_seed if rounding == "stochastic" else None
            moved = torch.empty_like(param, memory_format=torch.contiguous_format)
            kernels.add(moved, param.detach(), _terms(z, scale), self._keys[name], 0, seed)
            sign = torch.zeros(param.shape, dtype=torch.float32, device=param.device)
            kernels.add(sign, sign, _terms(z, 1.0), self._keys[name])
            step = (moved.double() - param.detach().double()) * sign
            shares[name] = float(step.mean()) / scale
        return shares

    def time_update(self) -> float:
        """Seconds of one update's pass over theta, measured on a pass by zero, which leaves every bit as it is."""
        start = time.perf_counter()
        for name, param in self.params.items():
            for part in param.detach().reshape(-1).split(1 << 22):
                kernels.add(torch.empty_like(part), part, [(0, 0.0)], self._keys[name], 0, 0)
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
        read = {id(param) for _, _, param, standin in self._places if standin.reads}
        return {name for name, param in self.params.items() if id(param) not in read}

    def sha256(self) -> dict[str, str]:
        """SHA-256 of each tensor's bytes, row-major and little endian."""
        return {name: tensor_sha256(param) for name, param in self.params.items()}


def tensor_sha256(tensor: Tensor) -> str:
    raw = tensor.detach().contiguous().cpu().view(-1).view(torch.uint8)
    return hashlib.sha256(raw.numpy().data).hexdigest()


def _terms(move: ZOGrad | Direction, scale: float) -> list[tuple[int, float]]:
    if isinstance(move, Direction):
        return [(move.seed, float32(scale))]
    return [(z.seed, float32(scale * c)) for c, z in move.terms]
