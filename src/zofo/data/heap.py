"""Rows and examples are small objects that stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def growing() -> Iterator[None]:
    """Meanwhile no garbage is looked for: each look would go through all objects that were made before, and few of them
    are any. A million rows took twice as long. Also a decorator."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
