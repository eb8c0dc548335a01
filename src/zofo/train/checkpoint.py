"""What a checkpoint holds: nested state and theta, in JSON and safetensors. No pickle is written or read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zofo.config.instantiate import make_estimator, make_rule
from zofo.config.journal_header import header_of
from zofo.config.json_text import read_json
from zofo.config.resolve import Config
from zofo.errors import InputError, printable
from zofo.models.sealed import Sums
from zofo.models.tensors import load_tensors, save_tensors
from zofo.train.files import write_json
from zofo.zo.journal import JournalError, read_header, read_records
from zofo.zo.point import Point
from zofo.zo.replay import check_initial, replay
from zofo.zo.shards import cut

if TYPE_CHECKING:
    from zofo.train.setup import Session


def save_tree(directory: Path, name: str, tree: Mapping[str, Any]) -> Sums:
    """Write a nested dict as `name`.json, its tensors as `name`.safetensors under their paths. Returns the digest of
    these, as `save_theta` does."""
    tensors: dict[str, Tensor] = {}

    def strip(node: Any, path: str) -> Any:
        if isinstance(node, Tensor):
            tensors[path] = node
            return {"__tensor__": path}
        if isinstance(node, Mapping):
            return {str(key): strip(value, f"{path}/{key}" if path else str(key)) for key, value in node.items()}
        return node

    write_json(directory / f"{name}.json", strip(tree, ""))
    return {(path := directory / f"{name}.safetensors"): save_tensors(tensors, path)}


def load_tree(directory: Path, name: str) -> dict[str, Any]:
    tensors = load_tensors(directory / f"{name}.safetensors")

    def fill(node: Any) -> Any:
        if isinstance(node, dict):
            return tensors[node["__tensor__"]] if "__tensor__" in node else {k: fill(v) for k, v in node.items()}
        return node

    return fill(read_json(directory / f"{name}.json"))


def save_theta(params: Mapping[str, Tensor], directory: Path) -> Sums:
    """A snapshot of theta, so that a resume need not replay the whole journal."""
    directory.mkdir(parents=True, exist_ok=True)
    return {(path := directory / "theta.safetensors"): save_tensors(params, path)}


def load_theta_(params: Mapping[str, Tensor], directory: Path) -> None:
    """Of a tensor that is a part its part. Raises ValueError where the file's tensors are not these, in name, shape and
    dtype."""
    held = load_tensors(path := directory / "theta.safetensors")
    whole = {name: at.shape for name, at in params.addresses.items()} if isinstance(params, Point) else {}
    for name in sorted({*held, *params}):
        if name not in held or name not in params:
            raise ValueError(f"{path}: {'lacks' if name in params else 'has'} {name}")
        shape = whole.get(name, params[name].shape)
        if (held[name].shape, held[name].dtype) != (shape, params[name].dtype):
            there = f"{held[name].dtype} {list(held[name].shape)}"
            here = f"{params[name].dtype} {list(shape)}"
            raise ValueError(f"{path}: {name} is {there}, expected {here}")
    with torch.no_grad():
        for name, value in held.items():
            part = cut(value, params.addresses[name]) if isinstance(params, Point) else value
            params[name].copy_(part.view(params[name].shape))


@contextmanager
def fitting(directory: Path, instead: Callable[[], str]) -> Iterator[None]:
    """Raises InputError for what a checkpoint raises that is whole by its checksums, as one changed by hand. instead:
    what to do about it."""
    try:
        yield
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError, OSError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"{directory}: is not what this run wrote ({printable(' '.join(str(what).split()), 200)}); {instead()}"
        ) from error


def read(directory: Path, name: str) -> dict[str, Any]:
    """`load_tree` of a checkpoint that was verified. Raises InputError instead of a parser's errors."""
    try:
        return load_tree(directory, name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{directory}: cannot be read: {error}") from error


@contextmanager
def _reading(journal: Path) -> Iterator[None]:
    try:
        yield
    except JournalError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise InputError(f"{journal}: {error.strerror or error}") from error


def check_base(theta: Point, journal: Path) -> int:
    """The journal's first byte behind its header, where theta holds what it started from. Raises InputError."""
    with _reading(journal):
        header, start = read_header(journal)
        check_initial(theta, header, journal)
        return start


def move_theta(theta: Point, config: Config, journal: Path, position: int | None, snapshot: Path) -> None:
    """theta, which holds the base weights, <- theta of the journal's first `position` bytes (None: all of it).

    A snapshot of it in `snapshot`/backbone is taken instead where there is one. Raises InputError where the journal is
    missing, damaged, or another model's.
    """
    if (snapshot / "backbone").is_dir():
        load_theta_(theta, snapshot / "backbone")
        return
    start = check_base(theta, journal)
    with _reading(journal):
        replay(theta, make_estimator(config), make_rule(config), read_records(journal, start, position))


def journal_header(session: Session) -> dict[str, Any]:
    """See `header_of`."""
    sums = session.sums if session.method.theta_of == "backbone" else None
    return header_of(session.config, session.problem.theta.catalogue(sums), session.method.theta_of)
