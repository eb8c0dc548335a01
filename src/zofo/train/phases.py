"""Where a run's time and memory go: setup, training, evaluation, saving, test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Phases:
    """Of this process alone: what a run did before it was gone on with is not counted."""

    def __init__(self, peak: Callable[[], int], began: float | None = None) -> None:
        """peak: the peak of memory so far. began: `time.perf_counter` as the setup began, which ends now."""
        self._peak = peak
        self._seconds: dict[str, float] = {}
        self._peaks: dict[str, int] = {}
        if began is not None:
            self._add("setup", began)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """What is done inside is of this phase, an error included."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._add(name, start)

    def _add(self, name: str, start: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start
        self._peaks[name] = self._peak()

    def to_dict(self) -> dict[str, dict[str, float]]:
        """{phase: {seconds, peak_bytes: the peak up to the phase's last end}}, in the order of their beginnings."""
        return {name: {"seconds": s, "peak_bytes": self._peaks[name]} for name, s in self._seconds.items()}
