"""Weights larger than memory: theta in a file that is mapped into memory, where layers come and go (docs/scale.md).

The file is this process's own, and nameless: it goes with it. What a killed run needs is the base model and the
journal, as for weights in memory, so a kill in the middle of a write leaves nothing half written behind.
"""

from __future__ import annotations

import logging
import mmap
import os
import tempfile
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from zofo.errors import FULL, InputError
from zofo.models.buffers import Buffers
from zofo.models.room import of_machine
from zofo.models.widened import make_folder
from zofo.zo.digests import tensor_sha256
from zofo.zo.lockstep import Lockstep
from zofo.zo.quantized import weights

log = logging.getLogger("zofo")
PAGE = mmap.ALLOCATIONGRANULARITY
FITS = 0.6  # of the memory that is free: what is smaller stays in it
AT_ONCE = 4  # layers that are there at one time: one read, one ahead, two that are being written


class Offload:
    """A model whose weights may be put into such a file. `Pages` of a `PagedPoint`.

    layers: the model's, in the order of a forward. resident: the layers that stay in memory. nbytes: of all weights.
    sums: SHA-256 of each tensor as it was moved in, by name.
    """

    def __init__(self, model: nn.Module, folder: Path) -> None:
        self.folder, self.sides = folder, Lockstep()
        self.layers: Sequence[nn.Module] = layers_of(model)
        self.resident: set[int] = set()
        self.sums: dict[str, str] = {}
        self._params = weights(model)
        self.nbytes = sum(param.numel() * param.element_size() for param in self._params.values())
        self._spans: list[tuple[int, int]] = []  # of each layer: its first byte in the file, and how many
        self._map: mmap.mmap | None = None
        self._file, self._piece = -1, 1
        self._starts: dict[int, int] = {}  # of each parameter, by its id: its first byte
        self._ahead, self._behind = ThreadPoolExecutor(1, "zofo-ahead"), ThreadPoolExecutor(1, "zofo-behind")
        self._written: int | None = None  # the layer that was left last, and is being written
        self._buffers: Buffers | None = None

    def move_in(self) -> None:
        """Copy the weights into the file, from where the model's tensors are read from now on; once is enough.

        Raises InputError where the folder has no room for them.
        """
        if self._map is not None:
            return
        places, size = self._layout()  # whole pages, each layer from the beginning of one
        make_folder(self.folder)
        try:
            with tempfile.TemporaryFile(dir=self.folder, prefix="zofo-") as file:
                self._file = os.dup(file.fileno())
            weakref.finalize(self, os.close, self._file)  # which gives the disk its room back
            os.posix_fallocate(self._file, 0, size)
        except OSError as error:
            if error.errno not in FULL:
                raise InputError(f"model.offload_folder: {self.folder}: {error.strerror}") from error
            raise InputError(
                f"model.offload_folder: {self.folder} has no room for {size / 2**30:.1f} GiB of weights; name another"
            ) from error
        self._map = mmap.mmap(self._file, size)
        self._piece = _reads_ahead(self._file)
        self._choose_resident()
        if len(self.resident) < len(self.layers) and any(length for _, length in self._spans):
            self._buffers = Buffers.of(self._file, self._spans, self.folder)
        with ThreadPoolExecutor(1) as beside:
            for name, param in self._params.items():
                digest = beside.submit(tensor_sha256, param)
                _write(self._file, places[name], param.detach())
                self.sums[name] = digest.result()
        for name, param in self._params.items():
            self._starts[id(param)] = start = places[name]
            param.data = _within(self._map, start, param)
        for start, length in self._spans:
            self._drop(start, length)
        self._log()

    def _layout(self) -> tuple[dict[str, int], int]:
        """({name: where its tensor begins}, bytes in all): first what is in no layer, then the layers, page by page."""
        layer_of = dict[int, int]()
        for number, layer in enumerate(self.layers):
            for param in dict.fromkeys(layer.parameters()):  # what two share is in neither
                layer_of[id(param)] = -1 if id(param) in layer_of else number
        order = sorted(self._params, key=lambda name: layer_of.get(id(self._params[name]), -1))
        places, end, last = dict[str, int](), 0, -1
        starts = dict[int, int]()
        for name in order:
            param = self._params[name]
            layer = layer_of.get(id(param), -1)
            if layer != last:
                end, last = -(-end // PAGE) * PAGE, layer
                starts[layer] = end
            places[name] = end = -(-end // 64) * 64
            end += param.numel() * param.element_size()
        ends = [*list(starts.values())[1:], end]
        spans = {layer: (start, stop - start) for (layer, start), stop in zip(starts.items(), ends)}
        self._spans = [spans.get(number, (0, 0)) for number in range(len(self.layers))]
        return places, max(-(-end // PAGE), 1) * PAGE

    def _choose_resident(self) -> None:
        """Layers stay while there is room for them beside what comes and goes."""
        free, largest = of_machine().free, max((length for _, length in self._spans), default=0)
        if self.nbytes <= FITS * free:
            self.resident = set(range(len(self.layers)))
            return
        outside = self.nbytes - sum(length for _, length in self._spans)
        left = FITS * free - outside - AT_ONCE * largest
        for number, (_, length) in enumerate(self._spans):
            if left < length:
                return
            self.resident.add(number)
            left -= length

    def _log(self) -> None:
        held = sum(self._spans[number][1] for number in self.resident)
        log.info("weights: %.1f GiB in %s, %.1f GiB of the layers held", self.nbytes / 2**30, self.folder, held / 2**30)

    def words(self) -> str:
        """For the run's log; "" where nothing is in a file."""
        if self._map is None:
            return ""
        where = f"weights: {self.nbytes / 2**30:.2f} GiB in a file in {self.folder}"
        if len(self.resident) == len(self.layers):
            return f"{where}, which memory has room for"
        return f"{where}; {len(self.resident)} of {len(self.layers)} layers stay in memory, the others come and go"

    def need(self, layer: int, mapped: bool) -> None:
        """See `zo.paged_point.Pages`."""
        if self._map is None or layer in self.resident:
            return
        if self._buffers is not None and not mapped:
            self._buffers.read(layer)
        elif hasattr(os, "posix_fadvise"):
            self._ahead.submit(self._read_ahead, *self._spans[layer])

    def take(self, layer: int) -> dict[int, Tensor] | None:
        """See `zo.paged_point.Pages`."""
        if self._buffers is None or layer in self.resident:
            return None
        memory, (first, length) = self._buffers.take(layer), self._spans[layer]
        starts = {param: self._starts[id(param)] - first for param in self._params.values()}
        return {
            id(param): _within(memory, start, param)
            for param, start in starts.items()
            if 0 <= start <= length - param.nbytes
        }

    def give(self, layer: int, changed: bool) -> None:
        """See `zo.paged_point.Pages`."""
        assert self._buffers is not None
        self._buffers.give(layer, changed)

    def sync(self) -> None:
        """See `zo.paged_point.Pages`."""
        if self._buffers is not None:
            self._buffers.sync()

    def _read_ahead(self, start: int, length: int) -> None:
        for piece in range(start, start + length, self._piece):  # of a longer one the system reads the beginning alone
            os.posix_fadvise(self._file, piece, min(self._piece, start + length - piece), os.POSIX_FADV_WILLNEED)

    def leave(self, layer: int) -> None:
        """See `zo.paged_point.Pages`."""
        if self._map is None or layer in self.resident:
            return
        before, self._written = self._written, layer
        self._behind.submit(self._drop, *self._spans[layer])
        if before is not None and before != layer:
            self._behind.submit(self._drop, *self._spans[before])  # what was dirty a layer ago is written by now

    def write(self, param: Tensor, lo: int, values: Tensor) -> None:
        """See `zo.paged_point.Pages`."""
        _write(self._file, self._starts[id(param)] + lo * param.element_size(), values)

    def _drop(self, start: int, length: int) -> None:
        """Of a layer's pages those that are on the disk leave memory; the others are sent there."""
        if self._map is None or not length:
            return
        with suppress(OSError, ValueError):
            self._map.madvise(mmap.MADV_DONTNEED, start, length)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(self._file, start, length, os.POSIX_FADV_DONTNEED)


def layers_of(model: nn.Module) -> Sequence[nn.Module]:
    """The list of modules that holds most of the weights; the model itself where it has none."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    most = max(lists, key=lambda each: sum(p.numel() for p in each.parameters()), default=None)
    return [model] if most is None else list(most)


def _reads_ahead(file: int) -> int:
    """Bytes that the system reads ahead at once on this file's device."""
    device = os.fstat(file).st_dev
    try:
        told = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb").read_text("ascii")
        return max(PAGE, int(told) << 10)
    except (OSError, ValueError):
        return 128 << 10


def _within(memory: mmap.mmap, start: int, param: Tensor) -> Tensor:
    """What lies there, in a parameter's shape and dtype."""
    if not param.numel():
        return param.detach()
    return torch.frombuffer(memory, dtype=param.dtype, count=param.numel(), offset=start).view(param.shape)


def _write(file: int, start: int, tensor: Tensor) -> None:
    if not tensor.numel():
        return
    raw = tensor.contiguous().view(-1).view(torch.uint8).numpy().data
    while raw:
        done = os.pwrite(file, raw[: 1 << 26], start)
        raw, start = raw[done:], start + done
