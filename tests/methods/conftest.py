"""The methods' tests run on one thread: their matrices are so small that a second one only waits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.tiny_bilevel import one_thread


@pytest.fixture(autouse=True)
def few_threads() -> Iterator[None]:
    with one_thread():
        yield
