"""A few memories that take turns in holding a layer: one is computed with, one is read ahead, one is written back.

They are read and written past the system's cache of files, which would need memory of its own and a copy. Where a file
cannot be opened so, there are none, and layers are read where they are mapped.
"""

from __future__ import annotations

import mmap
import os
import queue
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

PAGE = mmap.ALLOCATIONGRANULARITY
COUNT = 3
PIECE = 8 << 20  # bytes of one read or write


class Buffers:
    """Each holds the bytes of any layer. Reads go ahead in one thread, writes behind in another."""

    def __init__(self, file: int, spans: Sequence[tuple[int, int]], folder: Path) -> None:
        """file: open past the cache, in this folder, and closed with this. spans: of each layer, its first byte, of a
        page, and how many it has."""
        self._file, self._folder = file, folder
        weakref.finalize(self, os.close, file)
        self._spans = [(start, -(-length // PAGE) * PAGE) for start, length in spans]
        largest = max(length for _, length in self._spans)
        self._free: queue.SimpleQueue[mmap.mmap] = queue.SimpleQueue()
        for _ in range(COUNT):
            self._free.put(mmap.mmap(-1, largest))
        self._ahead, self._behind = ThreadPoolExecutor(1, "zofo-ahead"), ThreadPoolExecutor(1, "zofo-behind")
        self._reads: dict[int, Future[mmap.mmap]] = {}
        self._writes: dict[int, Future[None]] = {}
        self._taken: dict[int, mmap.mmap] = {}

    @classmethod
    def of(cls, file: int, spans: Sequence[tuple[int, int]], folder: Path) -> Buffers | None:
        """For an open file, which need not have a name; None where the system or the file's disk has no such way."""
        try:
            direct = os.open(f"/proc/self/fd/{file}", os.O_RDWR | os.O_DIRECT)
        except (AttributeError, OSError):
            return None
        try:
            os.preadv(direct, [mmap.mmap(-1, PAGE)], 0)  # some open it and then read no page, or larger ones alone
        except OSError:
            os.close(direct)
            return None
        return cls(direct, spans, folder)

    def read(self, layer: int) -> None:
        """Begin to."""
        if layer not in self._reads and layer not in self._taken:
            self._reads[layer] = self._ahead.submit(self._read, layer, self._writes.get(layer))

    def _read(self, layer: int, before: Future[None] | None) -> mmap.mmap:
        memory = self._free.get()
        try:
            if before is not None:
                before.result()
            start, length = self._spans[layer]
            view = memoryview(memory)
            for at in range(0, length, PIECE):
                end = min(at + PIECE, length)
                while at < end:
                    done = os.preadv(self._file, [view[at:end]], start + at)
                    if not done:
                        raise OSError(f"the file of the weights ends before byte {start + end}")
                    at += done
        except BaseException as error:
            self._free.put(memory)
            raise self._named(error) from None
        return memory

    def take(self, layer: int) -> mmap.mmap:
        """The layer's bytes, from the beginning. Raises OSError."""
        self.read(layer)
        for other in [each for each in self._reads if each != layer]:
            if len(self._reads) + len(self._taken) >= COUNT:  # read ahead for a forward that went another way
                self._drop(other)
        self._taken[layer] = self._reads.pop(layer).result()
        return self._taken[layer]

    def give(self, layer: int, changed: bool) -> None:
        """Take it back, and write it where it was changed. Raises OSError of a write before."""
        memory, done = self._taken.pop(layer), [each for each, write in self._writes.items() if write.done()]
        ended = [self._writes.pop(each) for each in done]
        if changed:
            self._writes[layer] = self._behind.submit(self._write, layer, memory)
        else:
            self._free.put(memory)
        for write in ended:
            write.result()

    def _write(self, layer: int, memory: mmap.mmap) -> None:
        try:
            start, length = self._spans[layer]
            view = memoryview(memory)
            for at in range(0, length, PIECE):
                end = min(at + PIECE, length)
                while at < end:
                    at += os.pwritev(self._file, [view[at:end]], start + at)
        except OSError as error:
            raise self._named(error) from None
        finally:
            self._free.put(memory)

    def _named(self, error: BaseException) -> BaseException:
        """The file has no name, so the folder is told."""
        if isinstance(error, OSError) and error.filename is None and error.errno is not None:
            error.filename = str(self._folder)
        return error

    def sync(self) -> None:
        """All is written, and nothing is read ahead. Raises OSError."""
        writes, self._writes = self._writes, {}
        for write in writes.values():
            write.result()
        for layer in list(self._reads):
            self._drop(layer)

    def _drop(self, layer: int) -> None:
        self._free.put(self._reads.pop(layer).result())
