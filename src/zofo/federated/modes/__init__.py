"""How a round's directions are drawn and what the server makes of the answers, a mode a file. No torch."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from zofo.federated.modes._base import Mode


def names() -> list[str]:
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def load(name: str) -> Mode:
    module: Any = importlib.import_module(f"{__name__}.{name}")
    return module.Mode()
