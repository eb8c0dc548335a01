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

from zofo.api.memory.fits import CPU
from zofo.api.memory.footprint import predict
from zofo.api.memory.hollow import settings_of
from zofo.api.memory.larger import sizes_of
from zofo.config.instantiate import make_method
from zofo.config.validate import not_offloaded
from zofo.errors import InputError
from zofo.models.buffers import PIECE

if TYPE_CHECKING:
    from zofo.config.resolve import Config

TRIED = 256 << 20  # bytes that are written and read to know a disk


@dataclass(frozen=True)
class Disk:
    """Bytes a second, measured."""

    reads: float
    writes: float


def disk_of(folder: Path) -> Disk:
    """Of the disk that a folder is on, with 256 MiB past the cache. Raises InputError where nothing can be written."""
    path, buffer = folder / f".zofo-{os.getpid()}-disk", mmap.mmap(-1, PIECE)
    buffer.write(os.urandom(PIECE))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_DIRECT", 0))
    except OSError as error:
        raise InputError(f"--plan: {folder}: {error.strerror}") from error
    try:
        start = time.perf_counter()
        for _ in range(TRIED // PIECE):
            os.write(file, buffer)
        os.fsync(file)
        wrote = time.perf_counter() - start
        os.lseek(file, 0, os.SEEK_SET)
        start = time.perf_counter()
        while os.readv(file, [buffer]):
            pass
        return Disk(TRIED / (time.perf_counter() - start), TRIED / wrote)
    except OSError as error:
        raise InputError(f"--plan: {folder}: {error.strerror}") from error
    finally:
        os.close(file)
        with suppress(OSError):
            path.unlink()


@dataclass(frozen=True)
class Way:
    """How the weights are held. needs: bytes of the process, None where the way is refused, why says why. setting: what
    is typed for it. read, written: seconds a step to read and write the weights, beside computing and not behind it."""

    name: str
    needs: int | None
    fits: bool
    setting: str = ""
    read: float = 0.0
    written: float = 0.0
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain, for JSON."""
        return dict(vars(self))


def ways(config: Config, folder: Path, disk: Disk, free: int, rows: Any = None) -> list[Way]:
    """In memory, and layer by layer. free: bytes that a process may take. rows: as `footprint.predict` takes them.

    Raises InputError.
    """
    model = dataclasses.replace(config.model, device="cpu", offload_folder=None)
    plain = dataclasses.replace(config, model=model)
    needs = CPU.needs(predict(plain, rows))
    told = [Way("in memory", needs, needs <= free)]
    method = make_method(config)
    parts = {name: getattr(plain, name) for name in ("model", "parallel", "estimator", "rule", "mask")}
    if faults := not_offloaded(parts, config.names, method):
        return [*told, Way("layer by layer", None, False, why=faults[0])]
    there = dataclasses.replace(plain, model=dataclasses.replace(model, offload_folder=str(folder)))
    sizes = sizes_of(*settings_of(model), model.trust_remote_code)
    needs = CPU.needs(predict(there, rows))
    readings = readings_of(config, method)
    comes = sizes.total - sizes.outside
    writes = comes if method.moves == "zo" and method.theta_of == "backbone" else 0
    seconds = readings * comes / disk.reads, writes / disk.writes
    return [*told, Way("layer by layer", needs, needs <= free, f"model.offload_folder={folder}", *seconds)]


def readings_of(config: Config, method: Any) -> int:
    """How often a step, or an upper iteration, reads the layers, at least, for each micro-batch: an estimate once for
    both sides of a direction, with the update before it; a first-order step twice, forward and backward."""
    q = 0 if config.estimator is None else config.estimator.q
    sides = q + (q and config.names["estimator"] == "one-sided")
    first_order = method.lower_per_step + (method.upper_per_step if not q else 1) if method.first_order else 0
    pieces = -(-config.train.batch_size // (config.train.micro_batch_size or config.train.batch_size))
    return (sides + 2 * first_order) * pieces
