"""Models larger than memory: what it takes to hold them there or on a disk, and what that costs a step."""

from __future__ import annotations

import dataclasses
import mmap
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zofo.api.memory.fits import CPU, CUDA
from zofo.api.memory.footprint import Footprint
from zofo.api.memory.hollow import settings_of
from zofo.api.memory.larger import sizes_of, with_layers
from zofo.config.instantiate import make_method
from zofo.config.validate import not_offloaded
from zofo.errors import InputError
from zofo.models.buffers import PIECE

if TYPE_CHECKING:
    from zofo.config.resolve import Config

TRIED = 256 << 20  # bytes that are written and read to know a disk
LINK = 25e9  # bytes a second between devices, assumed: those of PCIe 4.0 x16


@dataclass(frozen=True)
class Disk:
    """Bytes a second, measured."""

    reads: float
    writes: float


def disk_of(folder: Path, size: int = TRIED) -> Disk:
    """Of the disk that a folder is on, with so many bytes past the cache. Raises InputError where nothing can be
    written."""
    path, buffer = folder / f".zofo-{os.getpid()}-disk", mmap.mmap(-1, PIECE)
    buffer.write(os.urandom(PIECE))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_DIRECT", 0))
    except OSError as error:
        raise InputError(f"--plan: {folder}: {error.strerror}") from error
    try:
        start = time.perf_counter()
        for _ in range(size // PIECE):
            os.write(file, buffer)
        os.fsync(file)
        wrote = time.perf_counter() - start
        os.lseek(file, 0, os.SEEK_SET)
        start = time.perf_counter()
        while os.readv(file, [buffer]):
            pass
        return Disk(size / (time.perf_counter() - start), size / wrote)
    except OSError as error:
        raise InputError(f"--plan: {folder}: {error.strerror}") from error
    finally:
        os.close(file)
        with suppress(OSError):
            path.unlink()


@dataclass(frozen=True)
class Way:
    """How the weights are held. needs: bytes of the process or device, None where the way is refused, why says why.
    setting: what is typed for it. read, written: seconds a step to read and write the weights, beside computing and not
    behind it. devices: how many; exchanged: bytes that each of them sends a step; sending: its seconds over LINK."""

    name: str
    needs: int | None
    fits: bool
    setting: str = ""
    read: float = 0.0
    written: float = 0.0
    why: str = ""
    devices: int = 1
    exchanged: float = 0.0

    @property
    def sending(self) -> float:
        return self.exchanged / LINK

    def to_dict(self) -> dict[str, Any]:
        """Plain, for JSON."""
        return {**vars(self), "sending": self.sending}


def ways(config: Config, footprint: Footprint, folder: Path, disk: Disk, free: int) -> list[Way]:
    """In memory, and layer by layer. footprint: of the run in memory. free: bytes that a process may take.

    Raises InputError.
    """
    needs = CPU.needs(footprint)
    told = [Way("in memory", needs, needs <= free)]
    model, method = dataclasses.replace(config.model, device="cpu", offload_folder=None), make_method(config)
    parts = {name: getattr(config, name) for name in ("parallel", "estimator", "rule", "mask")} | {"model": model}
    if faults := not_offloaded(parts, config.names, method):
        return [*told, Way("layer by layer", None, False, why=faults[0])]
    sizes = sizes_of(*settings_of(model), model.trust_remote_code)
    needs = CPU.needs(dataclasses.replace(footprint, peaks=with_layers(footprint.peaks, sizes)))
    comes = sizes.total - sizes.outside
    writes = comes if method.moves == "zo" and method.theta_of == "backbone" else 0
    seconds = readings_of(config, method) * comes / disk.reads, writes / disk.writes
    return [*told, Way("layer by layer", needs, needs <= free, f"model.offload_folder={folder}", *seconds)]


def readings_of(config: Config, method: Any) -> int:
    """How often a step, or an upper iteration, reads the layers, at least, for each micro-batch: an estimate once for
    both sides of a direction, with the update before it; a first-order step twice, forward and backward."""
    q = 0 if config.estimator is None else config.estimator.q
    sides = q + (q and config.names["estimator"] in ("one-sided", "fzoo"))
    first_order = method.lower_per_step + (method.upper_per_step if not q else 1) if method.first_order else 0
    pieces = -(-config.train.batch_size // (config.train.micro_batch_size or config.train.batch_size))
    return (sides + 2 * first_order) * pieces


def over_devices(config: Config, footprint: Footprint, size: int) -> list[Way]:
    """The fewest devices of `size` bytes, of 1, 2, 4, ... 64, that hold the model, for each way to cut it. What a step
    computes is taken to be whole on each, so it errs on the large side. footprint: of the run on one device.

    Raises InputError.
    """
    settings, dtype = settings_of(config.model)
    sizes = sizes_of(settings, dtype, config.model.trust_remote_code)
    method = make_method(config)
    examples, rows_of, tokens = next((b for n, b in footprint.batches.items() if n != "evaluation"), (0, 0, 0))
    del examples
    width, layers = getattr(settings, "hidden_size", 0), getattr(settings, "num_hidden_layers", 0)
    hidden = rows_of * tokens * width * dtype.itemsize  # what a layer hands on
    forwards = 2 * (1 if config.estimator is None else config.estimator.q)
    whole = CUDA.needs(footprint)
    told = []
    for name, setting in (("device_map", "model.device_map=balanced"), ("tensor", ""), ("fsdp", "")):
        refusal = _refused(config, name, method)
        if refusal:
            told.append(Way(name, None, False, why=refusal))
            continue
        for n in (1, 2, 4, 8, 16, 32, 64):
            held = {
                "device_map": sizes.total / n + (sizes.largest if n > 1 else 0),
                "tensor": sizes.total / n,
                "fsdp": sizes.total * (2 / n if n > 1 else 1) + (sizes.largest + sizes.outside if n > 1 else 0),
            }[name]
            sent = {
                "device_map": hidden * (n > 1),
                "tensor": 2 * layers * hidden * 2 * (n - 1) / n,
                "fsdp": sizes.total * (n - 1) / n,
            }[name]
            needs = int(whole - sizes.total + held)
            if needs <= size or n == 64:
                typed = setting or f"parallel.{name}={n}"
                more = " estimator.shift=copy" if name == "fsdp" else ""
                told.append(
                    Way(name, needs, needs <= size, typed + more if n > 1 else "", devices=n, exchanged=forwards * sent)
                )
                break
    return told


def _refused(config: Config, name: str, method: Any) -> str:
    """Why a way to cut the model over devices is not open to a configuration; "" where it is."""
    if name == "device_map":
        return "quantised models are on one device" if config.model.quantization else ""
    parallel = dataclasses.replace(config.parallel, **{"tensor": 1, "fsdp": 1, name: 2})
    parts = {part: getattr(config, part) for part in ("model", "estimator", "rule", "mask", "adapter")}
    if name == "fsdp" and config.estimator is not None:
        parts["estimator"] = dataclasses.replace(config.estimator, shift="copy")
    faults = [parallel.unsharded(config.names["method"], method), *parallel.faults(parts)]
    return next(filter(None, faults), "")
