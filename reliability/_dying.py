"""A command of zofo in a fork of this process, which may send itself SIGKILL at a chosen point, and keeps a diary.

A point is the start of an operation on a file below a folder ("fsync out/journal.bin", "rename out/a -> out/b"), a
write ("write out/metrics.jsonl": before it, or when a part of its bytes is through), a forward pass of the model
("forward"), the reading of a journal's record ("record"), or a tensor's update where weights are in a file ("update").
"""

from __future__ import annotations

import builtins
import io
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reliability import _forked
from zofo.config.json_text import dumps

EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")
WRITES = os.O_WRONLY | os.O_RDWR
COMPUTES = ("forward", "record", "update")


@dataclass(frozen=True)
class Death:
    """At the number-th point whose text has the pattern. share: how much of a write is through by then."""

    pattern: str
    number: int
    share: float = 0.0


@dataclass(frozen=True)
class Ended:
    """code: the exit code, or minus the signal's number. diary: what happened, in order, as (what, values)."""

    code: int
    shown: str
    diary: list[tuple[str, Any]]

    def of(self, what: str) -> list[Any]:
        return [value for key, value in self.diary if key == what]


def in_a_process(act: Callable[[], int], diary: Path, seconds: int = 300) -> Ended:
    """What became of `act` in a fork of this process."""
    diary.unlink(missing_ok=True)
    code, shown = _forked.in_a_process(act, seconds)
    lines = diary.read_text("utf-8").splitlines() if diary.exists() else []
    return Ended(code, shown, [(k, v) for k, v in map(json.loads, lines)])


def _path(path: Any, folder: Any) -> Any:
    """shutil.rmtree names what it deletes by an open folder."""
    if isinstance(path, str) and not os.path.isabs(path) and isinstance(folder, int) and folder >= 0:
        return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
    return path


class Watch:
    """Sees every point of this process below `root`; `install` once, in a fork."""

    def __init__(self, root: Path, diary: Path, death: Death | None = None) -> None:
        self.root, self.death = f"{root}{os.sep}", death
        self._diary = os.open(diary, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self._matched = 0
        self.points: list[str] = []

    def note(self, what: str, value: Any) -> None:
        os.write(self._diary, (dumps([what, value]) + "\n").encode())

    def _due(self, point: str) -> bool:
        self.points.append(point)
        if self.death is None or not re.search(self.death.pattern, point):
            return False
        self._matched += 1
        return self._matched == self.death.number

    def _die(self, point: str) -> None:
        self.note("died", point)
        os.kill(os.getpid(), signal.SIGKILL)

    def point(self, point: str) -> None:
        if self._due(point):
            self._die(point)

    def name(self, path: Any) -> str | None:
        """A path within the folder; None for another one."""
        if not isinstance(path, str | os.PathLike) or not (text := os.fspath(path)).startswith(self.root):
            return None
        return text.removeprefix(self.root)

    def install(self) -> None:
        sys.addaudithook(self._hook)
        self._watch_syncs()
        self._watch_renames()
        self._watch_writes()
        self._watch_computing()

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and args[2] & WRITES and (name := self.name(args[0])):
            self.point(f"open {name}")
        elif event in EVENTS and (names := [name for arg in args if (name := self.name(_path(arg, args[-1])))]):
            self.point(f"{event.removeprefix('os.')} {' -> '.join(names)}")

    def _watch_syncs(self) -> None:
        real = os.fsync

        def fsync(handle: int) -> None:  # no event is raised for it
            name = self.name(os.readlink(f"/proc/self/fd/{handle}"))
            if name is not None:
                self.point(f"fsync {name}")
            real(handle)
            if name is not None:
                self.note("synced", [name, os.fstat(handle).st_size])

        os.fsync = fsync

    def _watch_renames(self) -> None:
        for verb in ("rename", "replace"):
            real = getattr(os, verb)

            def moved(source: Any, target: Any, *, real: Any = real, **more: Any) -> None:
                real(source, target, **more)
                self.note("renamed", [str(source).removeprefix(self.root), str(target).removeprefix(self.root)])

            setattr(os, verb, moved)

    def _watch_writes(self) -> None:
        real = io.open

        def opened(file: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
            handle = real(file, mode, *args, **more)
            if set(mode) & set("wax+") and (name := self.name(file)):
                handle.write = self._cut(handle, handle.write, name)  # type: ignore[method-assign]
            return handle

        io.open = builtins.open = opened  # type: ignore[assignment]
        import safetensors.torch
        import transformers.modeling_utils

        for owner, attribute in ((safetensors.torch, "save_file"), (transformers.modeling_utils, "safe_save_file")):
            setattr(owner, attribute, self._cut_file(getattr(owner, attribute)))

    def _cut(self, handle: Any, write: Callable[[Any], Any], name: str) -> Callable[[Any], Any]:
        def writes(data: Any) -> Any:
            if self._due(f"write {name}"):
                assert self.death is not None
                write(data[: int(len(data) * self.death.share)])
                handle.flush()
                self._die(f"write {name}")
            return write(data)

        return writes

    def _cut_file(self, save: Callable[..., Any]) -> Callable[..., Any]:
        """What libraries write as safetensors is written by Rust: nothing of Python's sees it."""

        def saves(tensors: Any, path: Any, *args: Any, **more: Any) -> None:
            name = self.name(path)
            due = name is not None and self._due(f"write {name}")
            save(tensors, path, *args, **more)
            if due:
                assert self.death is not None
                os.truncate(path, int(os.path.getsize(path) * self.death.share))
                self._die(f"write {name}")

        return saves

    def _watch_computing(self) -> None:
        from torch.nn.modules.module import register_module_forward_pre_hook

        from zofo.train.loop import Loop
        from zofo.zo.journal import Record
        from zofo.zo.paged_point import PagedPoint

        def hook(module: Any, _: Any) -> None:
            if type(module).__name__ == "LlamaModel":
                self.point("forward")

        register_module_forward_pre_hook(hook)
        unpack, resume, move = Record.unpack, Loop.resume, PagedPoint._pass

        def moved(theta: PagedPoint, by: Any, names: Any) -> None:
            for name in names:  # an update is cut between two tensors of a layer
                self.point("update")
                move(theta, by, [name])

        def unpacked(body: bytes) -> Record:
            self.point("record")
            return unpack(body)

        def resumed(loop: Loop, checkpoint: Path) -> None:
            resume(loop, checkpoint)
            self.note("resumed", checkpoint.name)

        Record.unpack = unpacked  # type: ignore[method-assign,assignment]
        PagedPoint._pass = moved  # type: ignore[method-assign,assignment]
        Loop.resume = resumed  # type: ignore[method-assign]


def command(args: list[str], root: Path, diary: Path, death: Death | None = None) -> Ended:
    """`zofo args` in a fork. A point that ends it is in the diary as "died"; without a death all are, as "points"."""

    def act() -> int:
        from zofo.cli import main as cli

        watch = Watch(root, diary, death)
        watch.install()
        code = cli.run(args)
        if death is None:
            watch.note("points", watch.points)
        return code

    return in_a_process(act, diary)
