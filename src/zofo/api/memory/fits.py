"""What fits: for each method, adapter and length the largest batch whose run a card or a machine can hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from zofo.api.memory.footprint import DESCENT_ADAPTER, DESCENT_THETA, FIRST_ORDER, Footprint, predict
from zofo.api.memory.rows import Rows
from zofo.config.resolve import Config

LENGTHS = (128, 512, 2048)
BATCHES = (1, 4, 16, 64)
_FIRST_ORDER = (FIRST_ORDER, DESCENT_ADAPTER, DESCENT_THETA)


@dataclass(frozen=True)
class Allowance:
    """What a process has beside the tensors that are counted: `base` bytes, and shares of what is no weight."""

    base: int
    first_order: float  # of first-order phases
    others: float
    words: str

    def needs(self, footprint: Footprint) -> int:
        """Bytes of the whole process, or of the device, at its fullest."""
        return self.base + max(
            peak.total + int(self._share(peak.phase) * (peak.total - peak.parts["weights"])) for peak in footprint.peaks
        )

    def _share(self, phase: str) -> float:
        return self.first_order if phase in _FIRST_ORDER else self.others


# docs/memory.md: SmolLM2-135M's process held 0.6 GiB beside, and 40 to 52 % more than the tensors of first-order steps
CPU = Allowance(
    600 * 2**20,
    0.5,
    0.0,
    "0.6 GiB for Python and torch, and half again of what first-order steps keep",
)
CUDA = Allowance(
    512 * 2**20,
    0.1,
    0.1,
    "0.5 GiB for CUDA, and a tenth of all but the weights for holes: assumed, not measured",
)


def allowance(device: str) -> Allowance:
    """device: "cpu", or one that is taken to be like CUDA."""
    return CPU if device == "cpu" else CUDA


@dataclass(frozen=True)
class Cell:
    """One setting. tensors: the predicted peak of `zofo memory`; needs: with the allowance; size: what there is."""

    method: str
    adapter: str | None
    length: int
    batch_size: int
    tensors: int
    needs: int
    size: int

    @property
    def fits(self) -> bool:
        """Whether what it needs is there."""
        return self.needs <= self.size

    def to_dict(self) -> dict[str, Any]:
        """Plain, for JSON."""
        return {**vars(self), "fits": self.fits}


def with_batch(config: Config, batch_size: int, evaluated: bool = True) -> Config:
    """evaluated: evaluations take as many examples at once."""
    more = {"eval_batch_size": batch_size} if evaluated else {}
    return replace(config, train=replace(config.train, batch_size=batch_size, **more))


class Way:
    """The predictions of one configuration at several batches and lengths, each made once, whatever the card."""

    def __init__(self, config: Config, beside: Allowance, rows: Rows, evaluated: bool = True) -> None:
        """rows: their length is that of the cell. evaluated: see `with_batch`."""
        self._config, self._beside, self._rows, self._evaluated = config, beside, rows, evaluated
        self._known: dict[tuple[int, int], Footprint] = {}

    def row(self, lengths: Sequence[int], batches: Sequence[int], size: int) -> list[Cell]:
        """For each length the largest batch that fits into `size` bytes; where none does, the smallest, which does not.

        What a run takes grows with the batch and with the length, so few of the cells are predicted. lengths, batches:
        ascending. Raises InputError.
        """
        cells, most = [], len(batches) - 1
        for length in lengths:
            low, high = -1, most + 1  # batches[low] fits, batches[high] does not
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if self.cell(length, batches[middle], size).fits else (low, middle)
            most = max(low, 0)
            cells.append(self.cell(length, batches[most], size))
        return cells

    def cell(self, length: int, batch_size: int, size: int) -> Cell:
        """Predicted, or known already. Raises InputError."""
        key = length, batch_size
        if key not in self._known:
            config = with_batch(self._config, batch_size, self._evaluated)
            self._known[key] = predict(config, replace(self._rows, length=length))
        known = self._known[key]
        return Cell(known.method, known.adapter, *key, known.peak.total, self._beside.needs(known), size)

    def asked(self, size: int) -> list[Cell]:
        """All that were predicted."""
        return [self.cell(*key, size) for key in self._known]
