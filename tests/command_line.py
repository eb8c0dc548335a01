"""The command `zofo` in a process of its own, and stand-ins for the modules that its verbs call."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TRAIN = ["train", "--model", "m", "--task", "sst2", "--method", "mezo", "--output-dir", "out"]


def zofo(*args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zofo.cli.main", *map(str, args)]
    environment = {**os.environ, "NO_COLOR": "1", **env}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)


def fake_module(path: str, monkeypatch: pytest.MonkeyPatch, **functions: Callable[..., Any]) -> None:
    """Stands in for a module of zofo, so that no verb computes here."""
    module = types.ModuleType(path)
    module.__dict__.update(functions)
    package, _, name = path.rpartition(".")
    monkeypatch.setitem(sys.modules, path, module)
    monkeypatch.setattr(importlib.import_module(package), name, module, raising=False)
