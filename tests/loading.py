"""A task's section, and what `load_task` says of one that it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zofo.config.sections import TaskConfig
from zofo.data import load_task
from zofo.errors import InputError


def task(name: str | Path, **changes: Any) -> TaskConfig:
    return TaskConfig(name=str(name), **changes)


def error(*args: Any, **kwargs: Any) -> str:
    """Of load_task(...)."""
    with pytest.raises(InputError) as caught:
        load_task(*args, **kwargs)
    return str(caught.value)
