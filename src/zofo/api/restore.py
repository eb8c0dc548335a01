"""From a run's directory back to a model: base weights, journal, adapter. Nothing else of the run is needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zofo.api.states import State, state_of
from zofo.config import registry
from zofo.config.instantiate import make_method
from zofo.config.layers import Layer, Value
from zofo.config.resolve import Config, ModelConfig
from zofo.config.sections import TaskConfig
from zofo.config.typed import build
from zofo.config.words import check_words
from zofo.errors import InputError
from zofo.models.adapters._set import AdapterSet, room
from zofo.models.backbone import Loaded
from zofo.models.load import load as load_model
from zofo.models.sharded import Sharding, refuse_adapters
from zofo.train import checkpoint
from zofo.train.checks import shift_mode
from zofo.train.inputs import check_inputs, tokenizer_digest
from zofo.train.replayed import move_theta
from zofo.zo.keys import derive
from zofo.zo.point import Point
from zofo.zo.ranks import ALONE, Ranks

MOVED = {
    "model": "give the one that it was with --model (model= in Python)",
    "tokenizer": "give the model's directory as it was, with --model (model= in Python)",
    "examples": "--data says where the rows are as they were, --task FILE scores a file as it is now",
}


@dataclass
class Restored:
    """A run's model: theta moved to its best step; `model` is the backbone in its adapter where one is deployed.

    theta: every weight of the backbone. inputs: digests of what the run was made from, {} where none are known."""

    config: Config
    info: dict[str, Any]
    loaded: Loaded
    model: Any
    adapters: AdapterSet | None
    adapter: str  # "p", "s" or "theta"
    inputs: dict[str, Any]
    theta: Point


Given = Mapping[str, Value]  # fields of the model section that a command is given


def given_model(model: str | None, overrides: Sequence[str], verb: str, tasks: bool = False) -> tuple[Given, list[str]]:
    """(fields of the model section, the overrides of the task section). model: --model. tasks: whether there may be
    any. Raises InputError for whatever is no field or no value of one: call it before files are looked for."""
    sections: dict[str, type] = {"task": TaskConfig} if tasks else {}
    check_words(overrides, {**sections, "model": ModelConfig}, verb)
    ours = [text for text in overrides if text.partition("=")[0].strip().partition(".")[0] == "model"]
    layer = Layer("command line").add_overrides(ours, [])
    if model is not None:
        layer.put("model", "name", model)
    return layer.sections.get("model", {}), [text for text in overrides if text not in ours]


def with_given(base: ModelConfig, given: Given) -> ModelConfig:
    """The model section with what a command says otherwise. Code of the model's own is run where the command says so,
    whatever a file does. Raises InputError."""
    errors: list[str] = []
    fields = {**dataclasses.asdict(base), "trust_remote_code": False}
    config = build("model.", ModelConfig, {**fields, **given}, errors, ModelConfig.files)
    if config is None:
        raise InputError("\n".join(errors))
    return config


def restore(run_dir: Path, adapter: str | None = None, given: Given | None = None, ranks: Ranks = ALONE) -> Restored:
    """Rebuild what a run deploys, or its `adapter`: a finished run's, a checkpoint's, or the best so far (`state_of`).

    given: fields of the model section, such as where the base model is now. ranks: those that may hold it together.
    Raises InputError where a part is missing, damaged or another's.
    """
    state = state_of(run_dir)
    run, info = state.run, state.info
    config = run.read_config()
    config = dataclasses.replace(config, model=with_given(config.model, given or {}))
    chosen, known = adapter or info["deployed"], list(dict.fromkeys([*info["test"], "theta"]))
    if chosen not in known:
        raise InputError(f"adapter {chosen!r}: this run has {', '.join(known)}")
    if chosen != "theta":
        refuse_adapters(ranks, str(run_dir))
    loaded = load_model(config.model, sharding=Sharding.of(ranks))
    if "tokenizer" in run.inputs:
        check_inputs(run.inputs, {"tokenizer": tokenizer_digest(loaded.tokenizer)}, str(run_dir), MOVED)
    method = make_method(config)
    moves = method.moves == "zo" and method.theta_of == "backbone"
    theta = loaded.point(shift_mode(config), moves, ranks.shards)
    _restore_theta(loaded, theta, config, state)
    if chosen == "theta":
        return Restored(config, info, loaded, loaded.model, None, chosen, run.inputs, theta)
    build_set = registry.load("adapters", config.names["adapter"]).Adapter(config.adapter).build
    adapters = build_set(loaded.model, (chosen,), derive(config.train.seed, "adapter"), loaded.tokenizer)
    loaded.max_length = room(loaded.max_length, loaded.model.config, adapters.virtual)
    try:
        adapters.restore(chosen, state.directory / chosen)
    except (OSError, ValueError) as error:
        raise InputError(f"{state.directory / chosen}: {error}") from error
    return Restored(config, info, loaded, adapters.deployable(chosen), adapters, chosen, run.inputs, theta)


def _restore_theta(loaded: Loaded, theta: Point, config: Config, state: State) -> None:
    """theta, which holds the base weights, <- theta of the state."""
    method = make_method(config)
    journalled = method.moves == "zo" and method.theta_of == "backbone"  # it names the first tensor that differs
    if (loaded.frozen or not journalled) and loaded.base_sha256(theta) != state.info.get("base_sha256"):
        why = ", or is quantised otherwise (by another version, or on another device)" if loaded.frozen else ""
        raise InputError(
            f"{state.run.root}: the base model {config.model.name} is not the one this run started from{why}"
        )
    if journalled:
        move_theta(theta, config, state.run.journal, state.journal, state.directory)
        return
    if method.moves == "fo":
        try:
            checkpoint.load_theta_(theta, state.directory / "backbone")
        except (OSError, ValueError) as error:
            raise InputError(f"{state.directory / 'backbone'}: {error}") from error
