"""numba's compiler, whatever its cache on disk does: without one, or with a damaged one, kernels are compiled anew.

numba refuses to compile at all where no directory for its cache can be written (a read-only install, no home), fails in
the first call where the disk is full, and cannot read a file that was cut.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numba

log = logging.getLogger("zofo")
_said: list[str] = []


def njit(**options: Any) -> Callable[[Callable], Any]:
    """numba.njit(**options), cached on disk where that can be done. The numbers are the same."""

    def compiled(function: Callable) -> Any:
        dispatcher: Any = numba.njit(**options)(function)
        try:
            dispatcher.enable_caching()
        except RuntimeError as error:
            _say(str(error))
        else:
            dispatcher._cache = _Forgiving(dispatcher._cache)
        return dispatcher

    return compiled


class _Forgiving:
    """A function's cache, whose failures are said and cost a compilation, no more."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return self._cache.load_overload(sig, target_context)
        except Exception as error:  # what unpickling says to bytes of another making
            _say(f"{self._cache.cache_path}: {error!r}")
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            self._cache.save_overload(sig, data)
        except Exception as error:
            _say(f"{self._cache.cache_path}: {error!r}")


def _say(why: str) -> None:
    if not _said:
        log.warning(
            "the kernels are compiled anew in every process, which takes seconds: numba's cache cannot be used (%s); "
            "NUMBA_CACHE_DIR names a directory for it",
            why,
        )
    _said.append(why)
