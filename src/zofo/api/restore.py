"""From a run's directory back to a model: base weights, journal, adapter. Nothing else of the run is needed."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zofo.config import registry
from zofo.config.instantiate import make_method
from zofo.config.layers import brief
from zofo.config.resolve import Config, from_dict
from zofo.config.resolve import load as load_config
from zofo.errors import InputError
from zofo.models.adapters._set import AdapterSet, room
from zofo.models.backbone import Loaded
from zofo.models.load import load as load_model
from zofo.train import checkpoint
from zofo.train.checkpoint import move_theta
from zofo.train.checks import shift_mode
from zofo.zo.keys import derive
from zofo.zo.point import Point

log = logging.getLogger("zofo")


@dataclass
class Restored:
    """A run's model: theta moved to its best step; `model` is the backbone in its adapter where one is deployed."""

    config: Config
    info: dict[str, Any]
    loaded: Loaded
    model: Any
    adapters: AdapterSet | None
    adapter: str  # "p", "s" or "theta"


def is_run(path: Path) -> bool:
    return (path / "run.json").is_file() and (path / "config.yaml").is_file()


def _why_no_run(path: Path) -> str:
    if not path.exists():
        return ": no such directory"
    if (path / "zofo.json").is_file():
        return "; it is an export already, give the directory of its run"
    if not (path / "config.yaml").is_file():
        return " (no run.json)"
    if checkpoint.checkpoints(path):
        return "; its training did not finish: train with --resume latest"
    return "; its training stopped before the first checkpoint: train again with --overwrite"


def restore(run_dir: Path, adapter: str | None = None) -> Restored:
    """Rebuild what a finished run deploys, or its `adapter`. Raises InputError where a part is missing or another's."""
    if not is_run(run_dir):
        raise InputError(f"{run_dir}: no finished run here{_why_no_run(run_dir)}")
    config, info = load_config(run_dir / "config.yaml"), json.loads((run_dir / "run.json").read_text())
    chosen, known = adapter or info["deployed"], list(dict.fromkeys([*info["test"], "theta"]))
    if chosen not in known:
        raise InputError(f"adapter {chosen!r}: this run has {', '.join(known)}")
    loaded = load_model(config.model)
    best = run_dir / f"best-{info['best_step']}"
    theta = Point(loaded.model, mode=shift_mode(config))
    _restore_theta(loaded, theta, config, info, run_dir, best)
    if chosen == "theta":
        return Restored(config, info, loaded, loaded.model, None, chosen)
    build = registry.load("adapters", config.names["adapter"]).Adapter(config.adapter).build
    adapters = build(loaded.model, (chosen,), derive(config.train.seed, "adapter"), loaded.tokenizer)
    loaded.max_length = room(loaded.max_length, loaded.model.config, adapters.virtual)
    try:
        adapters.restore(chosen, best / chosen)
    except (OSError, ValueError) as error:
        raise InputError(f"{best / chosen}: {error}") from error
    return Restored(config, info, loaded, adapters.deployable(chosen), adapters, chosen)


def _restore_theta(
    loaded: Loaded, theta: Point, config: Config, info: dict[str, Any], run_dir: Path, best: Path
) -> None:
    """theta, which holds the base weights, <- theta of the run's best step."""
    method = make_method(config)
    journalled = method.moves == "zo" and method.theta_of == "backbone"  # it names the first tensor that differs
    if (loaded.frozen or not journalled) and loaded.base_sha256(theta) != info.get("base_sha256"):
        why = ", or is quantised otherwise (by another version, or on another device)" if loaded.frozen else ""
        raise InputError(f"{run_dir}: the base model {config.model.name} is not the one this run started from{why}")
    if journalled:
        move_theta(theta, config, run_dir / "journal.bin", info["journal_position"], best)
        return
    if method.moves == "fo":
        try:
            checkpoint.load_theta_(theta, best / "backbone")
        except (OSError, ValueError) as error:
            raise InputError(f"{best / 'backbone'}: {error}") from error


def load(path: str | Path, adapter: str | None = None) -> tuple[Any, Any]:
    """(model, tokenizer) of a run or of an export, ready for generation; the model is in eval mode.

    adapter: which of a run's ("p", "s", "theta"); the deployed one if left out. Raises InputError.
    """
    loaded, model, _ = open_target(path, adapter)
    return model, loaded.tokenizer


def load_export(path: Path) -> tuple[Loaded, Any]:
    """A plain model directory or hub id, or a PEFT directory (an export) with its backbone beside it or elsewhere.

    Raises InputError, for an adapter that was made for another model too.
    """
    if not (path / "adapter_config.json").is_file():
        loaded = _load_named(str(path), "")
        return loaded, loaded.model
    from zofo.models.adapters._open import open_adapter, read_config

    base, named = path / "backbone", read_config(path).get("base_model_name_or_path")
    if not base.is_dir() and not named:
        raise InputError(f"{path}: its adapter_config.json names no base model, and there is no backbone/ beside it")
    loaded = _load_named(str(base) if base.is_dir() else str(named), f"{path}: its base model: ")
    model, virtual = open_adapter(path, loaded.model, loaded.tokenizer)
    loaded.max_length = room(loaded.max_length, loaded.model.config, virtual)
    return loaded, model


def _load_named(name: str, place: str) -> Loaded:
    from zofo.config.sections import ModelConfig

    try:
        return load_model(ModelConfig(name=name))
    except InputError as error:  # there is no model section here whose field could be at fault
        raise InputError(place + str(error).removeprefix("model.name: ")) from error


def recorded(path: Path) -> Config | None:
    """The configuration of the run that an export was made of; None where it is not there or not understood."""
    try:
        return from_dict(json.loads((path / "zofo.json").read_text())["config"])
    except (OSError, ValueError, KeyError, InputError):  # no export of zofo's; a method or task that is not installed
        return None


def open_target(target: str | Path, adapter: str | None = None) -> tuple[Loaded, Any, Config | None]:
    """(model as loaded, what computes, configuration) of a run or an export; of anything else the last is None.

    adapter: which of a run's. Raises InputError.
    """
    path = as_path(target)
    if str(target).startswith((".", "/", "~")) and not path.exists():  # a hub id would be looked for on the network
        raise InputError(f"{target}: no such directory")
    if is_run(path) or (path / "config.yaml").is_file():
        restored = restore(path, adapter)
        return restored.loaded, restored.model, restored.config
    if adapter is not None:
        raise InputError(f"{path} is no run, so it has no adapters to choose from: leave out --adapter")
    return *load_export(path), recorded(path)


def as_path(target: object) -> Path:
    if not isinstance(target, (str, Path)):
        raise InputError(f"expected a run's or a model's directory or a hub id, got {brief(target)}")
    return Path(target)
