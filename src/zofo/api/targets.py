"""What a verb can be pointed at: a run, an export, a PEFT directory, a plain model or a hub id."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zofo.api.restore import Given, given_model, restore, with_given
from zofo.api.standing import warn_of_the_export
from zofo.api.states import is_state, run_of
from zofo.config.json_text import read_json
from zofo.config.layers import brief
from zofo.config.resolve import Config, ModelConfig, from_dict
from zofo.data import ending
from zofo.errors import InputError
from zofo.models._transformers import unwrapped
from zofo.models.adapters._set import room
from zofo.models.backbone import Loaded
from zofo.models.load import load as load_model
from zofo.models.sealed import EXPORT, NotAsWritten, check_export
from zofo.models.sharded import Sharding, refuse_adapters
from zofo.train.inputs import check_inputs, tokenizer_digest
from zofo.train.lease import refuse_in_use
from zofo.zo.ranks import ALONE, Ranks

log = logging.getLogger("zofo")
AGAIN = "export the run again"
DAMAGED = {"model": AGAIN, "tokenizer": AGAIN, "examples": AGAIN}


def load(
    path: str | Path, adapter: str | None = None, *, model: str | None = None, overrides: Sequence[str] = ()
) -> tuple[Any, Any]:
    """(model, tokenizer) of a run or of an export, ready for generation; the model is in eval mode.

    adapter: which of a run's ("p", "s", "theta"); the deployed one if left out. model: where the base model is now.
    overrides: "model.key=value", such as model.device=cpu. Raises InputError.
    """
    given, _ = given_model(model, overrides, "load")
    opened = open_target(path, adapter, given)
    ending.tell(unwrapped(opened.model), opened.loaded.tokenizer)
    return opened.model, opened.loaded.tokenizer


@dataclass
class Opened:
    """loaded: the backbone and its tokenizer. model: what computes. config: of the run, or of the run that an export
    was made of; None for anything else. info: the contents of run.json or zofo.json. inputs: digests of what the run
    was made from, {} where none are known."""

    loaded: Loaded
    model: Any
    config: Config | None = None
    info: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)


def open_target(
    target: str | Path, adapter: str | None = None, given: Given | None = None, ranks: Ranks = ALONE
) -> Opened:
    """Load a run, an export, a PEFT directory or a plain model.

    adapter: which of a run's. given: fields of the model section. ranks: those that may hold it together. Raises
    InputError.
    """
    path = as_path(target)
    if str(target).startswith((".", "/", "~")) and not path.exists():  # a hub id would be looked for on the network
        refuse_half_written(path)
        raise InputError(f"{target}: no such directory")
    if is_state(path):
        restored = restore(path, adapter, given, ranks)
        return Opened(restored.loaded, restored.model, restored.config, restored.info, restored.inputs)
    if adapter is not None:
        raise InputError(f"{path} is no run, so it has no adapters to choose from: leave out --adapter")
    try:
        config, info = recorded(path), export_info(path)
        loaded, model = load_export(path, config, given, ranks)
    except InputError:
        refuse_half_written(path)
        raise
    warn_of_the_export(path, info)
    inputs = info.get("inputs") or {}
    if config is not None and "tokenizer" in inputs:
        check_inputs(inputs, {"tokenizer": tokenizer_digest(loaded.tokenizer)}, str(path), DAMAGED)
    return Opened(loaded, model, config, info, inputs)


def refuse_without_chat(target: str | Path, given: Given | None = None) -> None:
    """Raises InputError for a run or a model in a directory here whose tokenizer has no chat template, before the model
    is loaded. Whatever else is wrong is its loading's to say."""
    from transformers import AutoTokenizer

    path = as_path(target)
    try:
        base = with_given(run_of(path).read_config().model, given or {}).name if is_state(path) else path
        name = Path(base)
        if not (name / "tokenizer_config.json").is_file():
            return
        tokenizer = AutoTokenizer.from_pretrained(str(name), local_files_only=True)
    except Exception as error:  # the loading's, which may have code of its own to run
        log.debug("%s: its tokenizer is read with the model: %s", path, error)
        return
    check_chat(tokenizer, str(target))


def check_chat(tokenizer: Any, place: str) -> None:
    """Raises InputError for a tokenizer without a chat template."""
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"{place}: the model's tokenizer has no chat template; take an instruction-tuned model, or continue plain "
            "texts: zofo generate, without --chat"
        )


def refuse_half_written(path: Path) -> None:
    """Raises InputError where a process is writing a run or an export there, so that what it lacks is still to come."""
    for inside in (True, False):
        refuse_in_use(path, inside)


def load_export(
    path: Path, config: Config | None = None, given: Given | None = None, ranks: Ranks = ALONE
) -> tuple[Loaded, Any]:
    """A plain model directory or hub id, or a PEFT directory (an export) with its backbone beside it or elsewhere.

    config: of the run that an export was made of, whose lengths and dtype it has.
    ranks: see `open_target`. Raises InputError, for an adapter that was made for another model too.
    """
    given = given or {}
    if not (path / "adapter_config.json").is_file():
        if "name" in given:
            raise InputError(f"model.name: {path} is the model itself; leave out --model")
        if not (path / "config.json").is_file():  # else the model's loading does it
            check_export(path)
        loaded = _load_named(str(path), "", config, given, Sharding.of(ranks))
        return loaded, loaded.model
    refuse_adapters(ranks, str(path))
    from zofo.models.adapters._open import open_adapter, read_config, use_tokenizer_of

    base, named = path / "backbone", read_config(path).get("base_model_name_or_path")
    if base.is_dir():
        if "name" in given:
            raise InputError(f"model.name: {path} has its backbone beside it; leave out --model")
        named = str(base)
    elif "name" in given:
        named = given["name"].value
    if not base.is_dir():  # else the backbone's loading does it
        check_export(path)
    if not named:
        raise InputError(
            f"{path}: its adapter_config.json names no base model, and there is no backbone/ beside it; give --model"
        )
    loaded = _load_named(str(named), f"{path}: its base model: ", config, given)
    use_tokenizer_of(path, loaded)
    model, virtual = open_adapter(path, loaded.model, loaded.tokenizer)
    loaded.max_length = room(loaded.max_length, loaded.model.config, virtual)
    return loaded, model


def _load_named(name: str, place: str, config: Config | None, given: Given, sharding: Sharding | None = None) -> Loaded:
    base = ModelConfig(name=name)
    if config is not None:
        base = dataclasses.replace(base, dtype=config.model.dtype, max_length=config.model.max_length)
    try:
        model = with_given(base, {key: value for key, value in given.items() if key != "name"})
        return load_model(model, sharding=sharding)
    except NotAsWritten:
        raise
    except InputError as error:  # there is no model section here whose field could be at fault
        raise InputError(place + str(error).removeprefix("model.name: ")) from error


def export_info(path: Path) -> dict[str, Any]:
    """What an export says of itself, `zofo.json`; {} where there is none. Raises InputError where it is damaged."""
    return read_json(path / EXPORT, AGAIN) if (path / EXPORT).is_file() else {}


def recorded(path: Path) -> Config | None:
    """The configuration of the run that an export was made of; None where it is none of zofo's, or not understood."""
    try:
        return from_dict(export_info(path)["config"])
    except (KeyError, InputError):  # no export of zofo's; a method or task that is not installed
        return None


def config_of(target: Path) -> Config | None:
    """Of a run, or of the run that an export was made of."""
    return run_of(target).read_config() if is_state(target) else recorded(target)


def as_path(target: object) -> Path:
    if not isinstance(target, (str, Path)):
        raise InputError(f"expected a run's or a model's directory or a hub id, got {brief(target)}")
    return Path(target)
