"""For the methods' tests: one thread, since their matrices are so small that a second one only waits; many tasks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.six_tasks import make_tasks
from tests.tiny_bilevel import one_thread


@pytest.fixture(autouse=True)
def few_threads() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="session")
def six_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a setting with six training tasks, one of them held out, and two targets. Read only."""
    return make_tasks(tmp_path_factory.mktemp("six"))


@pytest.fixture(scope="session")
def one_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One training task beside the held-out one. Read only."""
    return make_tasks(tmp_path_factory.mktemp("one"), ("v1.0-mail",))
