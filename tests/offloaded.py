"""Runs whose weights are in a file and in memory a layer at a time, however small the model is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zofo.models import offload
from zofo.models.room import Room


def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model in a file no layer stays in memory, as where memory has no room for one."""
    monkeypatch.setattr(offload, "of_machine", lambda: Room(0, 0, "of memory"))


class Passes:
    """Counts what layers do: how often one was left, and which were asked for ahead."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: list[int] = []
        self.asked: list[int] = []
        leave, give, need = offload.Offload.leave, offload.Offload.give, offload.Offload.need

        def left(of: Any, layer: int) -> None:
            self.left.append(layer)
            leave(of, layer)

        def given(of: Any, layer: int, changed: bool) -> None:
            self.left.append(layer)
            give(of, layer, changed)

        def asked(of: Any, layer: int, mapped: bool) -> None:
            self.asked.append(layer)
            need(of, layer, mapped)

        monkeypatch.setattr(offload.Offload, "leave", left)
        monkeypatch.setattr(offload.Offload, "give", given)
        monkeypatch.setattr(offload.Offload, "need", asked)


def folder_is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())
