"""Which adapter `adapter.start` means: a PEFT directory's, an export's, a run's; a run that goes on has its own."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zofo.config import registry
from zofo.config.adapter_start import Trained, same_place
from zofo.config.instantiate import make_method
from zofo.config.resolve import Config
from zofo.config.sections import exists
from zofo.errors import InputError, first_few, printable
from zofo.models.adapters._base import Settings
from zofo.train.files import looks_like_run

log = logging.getLogger("zofo")
CONFIG = "adapter_config.json"


def find(place: str, resume: str | None = None, output_dir: str = "") -> Trained:
    """The adapter in `place`; of a run that is gone on with, the settings that it was begun with.

    resume, output_dir: of the train section. Raises InputError where there is no adapter, where it is none that zofo
    has, and where the weights of its model were trained with it and would be left behind.
    """
    if resume is not None and (begun := _begun(place, resume, output_dir)) is not None:
        return begun
    path = Path(place)
    if not exists(path):
        hub = f"; of one on the hub: hf download {place} --local-dir DIR" if place.count("/") == 1 else ""
        raise InputError(f"no such directory: {printable(place, 300)}{hub}")
    if not path.is_dir():
        raise InputError(f"{path}: is a file; give the directory that holds it and {CONFIG}")
    if looks_like_run(path):
        return _of_run(path, path)
    for parent in (path, *path.absolute().parents[:3]):  # RUN/checkpoint-8, RUN/checkpoint-8/s, a task's in it
        if _numbered(parent) and looks_like_run(parent.parent):
            return _of_run(parent.parent, parent, None if parent == path else path)
    return _of_peft(path)


def trained_for(config: Config) -> Trained | None:
    """What the run's adapters begin with; None where they begin fresh. Of a run that goes on it is the run's own copy.

    Warns where the adapter was trained on another model. Raises InputError as `find` does; of a run that goes on, where
    its own copy is missing or damaged.
    """
    place, train = start_of(config), config.train
    if place is None:
        return None
    if train.resume is not None:
        from zofo.train.adapter_start import check_kept
        from zofo.train.run_dir import RunDir

        return Trained(check_kept(RunDir(train.output_dir)), {})
    trained = find(place)
    _say_other_base(config, place, trained)
    return trained


def look(config: Config) -> None:
    """Of a run that is to begin: raises InputError where the weights are damaged or no numbers."""
    if config.train.resume is not None:
        return
    try:
        if (trained := trained_for(config)) is not None:
            from zofo.models.adapters._open import check_weights  # reads numbers, so it needs torch

            check_weights(trained.directory)
    except InputError as error:
        raise InputError("\n".join(f"adapter.start: {line}" for line in str(error).split("\n"))) from error


def say_what_differs(config: Config, trained: Trained | None, base_sha256: str, tokenizer: Any) -> None:
    """Warns where the base model's weights, or its tokenizer, are known not to be those that the adapter was trained
    with. base_sha256, tokenizer: of the model that is here."""
    if trained is None:
        return
    place = start_of(config)
    if trained.base_sha256 not in (None, base_sha256):
        log.warning(
            "adapter.start: the adapter in %s was trained on other weights than those of %s, or in another dtype",
            *(place, config.model.name),
        )
    from transformers import AutoTokenizer

    from zofo.train.inputs import tokenizer_digest

    if not (trained.directory / "tokenizer_config.json").is_file():
        return
    try:
        theirs = AutoTokenizer.from_pretrained(str(trained.directory.resolve()), trust_remote_code=False)
        differs = tokenizer_digest(theirs) != tokenizer_digest(tokenizer)
    except Exception as error:  # a damaged one is not used, whatever transformers says to it
        log.debug("%s: its tokenizer: %s", trained.directory, error)
        differs = True
    if differs:
        log.warning(
            "adapter.start: the tokenizer beside the adapter in %s is not that of %s (another vocabulary, special "
            "token or chat template), whose own the run takes",
            *(place, config.model.name),
        )


def start_of(config: Config) -> str | None:
    """`adapter.start`; None for a method without an adapter, and for an adapter of a plug-in that has no such field."""
    return config.adapter.start if isinstance(config.adapter, Settings) else None


def _say_other_base(config: Config, place: str, trained: Trained) -> None:
    name = config.model.name
    if trained.model is None or same_place(name, trained.model):
        return
    if os.path.basename(name.rstrip("/")) != os.path.basename(trained.model.rstrip("/")):  # else it was moved
        log.warning(
            "adapter.start: the adapter in %s was trained on %s, and model.name is %s: on another model its weights "
            "mean something else",
            *(place, printable(trained.model, 300), name),
        )


def _begun(place: str, resume: str, output_dir: str) -> Trained | None:
    """What the run to go on with has in its config.yaml; None where there is no such run, which is said later."""
    from zofo.train.run_dir import RunDir

    run = RunDir(output_dir or Path(resume).parent)
    if not run.config.is_file():
        return None
    config = run.read_config()
    if (begun := start_of(config)) is None:
        return None
    settings = {"name": config.names["adapter"], **config.to_dict()["adapter"]}
    if os.path.abspath(place) != os.path.abspath(begun):
        raise InputError(f"the run in {run.root} began with {begun}, and goes on from there; leave it out")
    return Trained(run.root, settings, config.model.name)


def _numbered(path: Path) -> bool:
    from zofo.train.ownership import is_numbered

    return is_numbered(path.name)


def _of_run(root: Path, target: Path, part: Path | None = None) -> Trained:
    """target: the run or one of its checkpoints. part: an adapter's directory in it, None for what it deploys."""
    from zofo.api.states import state_of
    from zofo.train.run_dir import RunDir

    best = part is not None and target.name.startswith("best-")
    state = state_of(root if best else target)
    config, place = RunDir(root).read_config(), shlex.quote(str(root if best else target))
    method, name = make_method(config), state.info["deployed"]
    if method.bank or not method.adapters_used or (part is None and name == "theta"):
        raise InputError(
            f"{target}: the run deploys its model alone, without an adapter; `zofo export {place} OUT` writes it, and "
            f"--model OUT trains on from it, without adapter.start"
        )
    if method.moves != "nothing" and method.theta_of == "backbone":
        raise InputError(
            f"{target}: {config.names['method']} moved the model's weights together with the adapter, which would be "
            f"left behind; `zofo export {place} OUT --separate` writes both, and adapter.start=OUT takes both"
        )
    directory = state.directory / name if part is None else part
    return _trained(directory, config.model.name, base_sha256=state.info.get("base_sha256"))


def _of_peft(path: Path) -> Trained:
    """An export, or a directory of PEFT's."""
    from zofo.api.targets import export_info, recorded
    from zofo.models.sealed import check_export

    if not (path / CONFIG).is_file():
        raise InputError(f"{path}: {_what_else(path)}")
    check_export(path)
    config, info, backbone = recorded(path), export_info(path), path / "backbone"
    method = None if config is None else make_method(config)
    moved = method is not None and method.moves != "nothing" and method.theta_of == "backbone"
    if moved and not backbone.is_dir():
        raise InputError(f"{path}: its model's weights were trained with the adapter, and backbone/ is not there")
    if backbone.is_dir():
        return _trained(path, str(backbone), only=moved)
    sha256 = None if moved else (info.get("inputs") or {}).get("model")
    return _trained(path, _read(path).get("base_model_name_or_path"), base_sha256=sha256)


def _what_else(path: Path) -> str:
    """Of a directory without an adapter."""
    if (path / "config.json").is_file():
        return (
            "is a whole model, and an adapter that was merged is in its weights; give it as --model, and leave out "
            "adapter.start"
        )
    inside = sorted(each.parent.name for each in path.glob(f"*/{CONFIG}"))
    where = f"; there is one in {first_few(inside)}: give one of these" if inside else ""
    return f"no {CONFIG}, so no adapter{where or '; PEFT writes one with save_pretrained, and zofo export does'}"


def _trained(directory: Path, model: Any, only: bool = False, base_sha256: str | None = None) -> Trained:
    """Raises InputError where it is an adapter of a kind that zofo has not, or its files are damaged."""
    raw, tensors = _read(directory), _tensors(directory)
    for name in registry.names("adapters"):
        try:
            settings = registry.load("adapters", name).Adapter.reads(raw, tensors)
        except InputError as error:
            raise InputError(f"{directory}: {error}") from error
        if settings is not None:
            named = model if isinstance(model, str) and model else None
            return Trained(directory, {"name": name, **settings}, named, only, base_sha256)
    kind = printable(str(raw.get("zofo") or raw.get("peft_type")), 60)
    raise InputError(
        f"{directory}: an adapter of the kind {kind}, and zofo trains {', '.join(registry.names('adapters'))}; merge "
        f"it into its model (PEFT's merge_and_unload), and give that as --model"
    )


def _read(directory: Path) -> dict[str, Any]:
    from zofo.models.files import read_json

    return read_json(directory / CONFIG)


def _tensors(directory: Path) -> Sequence[str]:
    """Names of the weights. Raises InputError where they are not there as safetensors."""
    from zofo.models.adapters._open import check_files
    from zofo.models.adapters._set import WEIGHTS
    from zofo.models.files import shapes_of

    if not (directory / WEIGHTS).is_file() and (directory / "adapter_model.bin").is_file():
        raise InputError(
            f"{directory / 'adapter_model.bin'}: a pickle, which is not loaded; where you trust it, PEFT makes "
            f"{WEIGHTS} of it: PeftModel.from_pretrained(base, DIR).save_pretrained(NEW)"
        )
    check_files(directory)
    return list(shapes_of(directory / WEIGHTS))
