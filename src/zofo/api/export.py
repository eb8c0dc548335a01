"""A run's model written for plain transformers and peft."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zofo.api.card.card import of_export
from zofo.api.card.opening import Opening
from zofo.api.hub import Destination, destination, push
from zofo.api.restore import Restored, given_model, restore
from zofo.api.targets import as_path
from zofo.config.instantiate import make_method
from zofo.config.paths import is_local
from zofo.data import ending
from zofo.errors import InputError, first_few
from zofo.models._transformers import close, quiet, right_way
from zofo.models.quantization import quantized_by
from zofo.models.sealed import EXPORT, MANIFEST, README
from zofo.models.versions import named
from zofo.train.files import make_directory, write_json, write_text
from zofo.train.lease import Lease, of_a_lock, refuse_in_use
from zofo.train.trees import names_of, recover, write_tree

log = logging.getLogger("zofo")
TEXT = "The answer is"  # on which an export is tried


def export(
    run_dir: str | Path,
    output_dir: str | Path,
    *,
    merge: bool | None = None,
    adapter: str | None = None,
    model: str | None = None,
    overrides: Sequence[str] = (),
    overwrite: bool = False,
    push_to_hub: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
) -> Path:
    """Write a run's model for plain transformers and peft, in a directory that can be moved.

    One plain transformers directory with the deployed adapter (or `adapter`) in its weights, where it can be put there;
    else, and with merge=False, the tuned backbone in `backbone/` and the adapter beside it. merge=True: the first or
    none. model: where the base model is now; overrides: "model.key=value". The directory's README.md is a model card
    and says how it is opened. The same base, adapters and journal give the same bytes. PEFT does not know DePT: its
    export is for `zofo.load` alone.

    push_to_hub: "owner/name", to which the directory goes in one commit (docs/serving.md); its files then name nothing
    of this machine. private: of a repository that is made. revision: a branch, made where it is not there.

    Raises InputError; RunError where the hub does not take it, and the directory stays.
    """
    run_dir, out = as_path(run_dir), Path(output_dir)
    given, _ = given_model(model, overrides, "export")
    _check_target(out, overwrite)
    hub = destination(push_to_hub, private, revision)
    restored = restore(run_dir, adapter, given)
    make_directory(out.parent)
    with Lease(out, inside=out.is_dir()):
        stays = write_tree(out, lambda directory: _write(restored, directory, out, merge, hub))
    if stays := [name for name in stays if not of_a_lock(name)]:
        log.warning("%s: not zofo's, and left there: %s", out, first_few(stays))
    if hub is not None:
        log.info("%s: pushed to %s", out, push(out, hub))
    return out


def _check_target(out: Path, overwrite: bool) -> None:
    """Raises InputError where an export may not be written. What a kill left of one is brought back to what it was."""
    refuse_in_use(out, out.is_dir())  # first: what another process is writing there is not to be brought back
    if out.is_dir():
        recover(out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise InputError(f"{out}: exists and is not empty; choose another directory or give --overwrite")
    names = names_of(out) if out.is_dir() else []
    if (out / EXPORT).is_file() and not names:
        raise InputError(
            f"{out / MANIFEST}: missing or damaged, so it is not known what zofo wrote in {out}; delete that directory "
            f"yourself, or choose another"
        )
    if EXPORT not in names:
        raise InputError(f"{out}: is no export of zofo, so it is not overwritten; delete it yourself")


def _write(restored: Restored, directory: Path, final: Path, merge: bool | None, hub: Destination | None) -> None:
    model, adapters, target = restored.model, restored.adapters, directory
    reason, way = adapters.mergeable(restored.adapter) if adapters is not None else "", {}
    if adapters is not None and reason and merge is None:
        log.info("%s: %s: backbone and adapter are written apart", final, reason.partition(";")[0])
    merged = adapters is not None and (merge or (merge is None and not reason))
    if adapters is not None and merged:
        model = _merged(restored)
    elif adapters is not None:
        adapters.save(restored.adapter, directory, base_model=_named(restored, final, hub))
        way = _try_peft(restored, final)
        model, target = adapters.unwrap(), directory / "backbone"
    _save_model(model, target, final)
    ending.tell_file(target / "generation_config.json", model, restored.loaded.tokenizer)
    restored.loaded.tokenizer.save_pretrained(target)
    write_json(directory / EXPORT, _info(restored, merged, hub))
    task, model_config = restored.config.task, restored.config.model
    opening = Opening(
        "ours" if _is_ours(restored) and not merged else "plain" if adapters is None or merged else "apart",
        way,
        task.apply_chat_template,
        task.system,
        None if hub is None else (hub.repository, hub.branch),
        model_config.trust_remote_code,
    )
    write_text(directory / README, of_export(restored.info, restored.config, restored.adapter, opening))


def _named(restored: Restored, final: Path, hub: Destination | None) -> str:
    """The base model in adapter_config.json, of which peft's Auto classes alone make use."""
    if hub is None:
        return str((final / "backbone").resolve())
    method, name = make_method(restored.config), restored.config.model.name
    moved = method.moves != "nothing" and method.theta_of == "backbone"
    return "backbone" if moved or is_local(name) else name


def _info(restored: Restored, merged: bool, hub: Destination | None) -> dict[str, Any]:
    """zofo.json. Of one that is pushed no file's place is told."""
    info = {key: restored.info[key] for key in ("zofo", "method", "task", "model", "seed", "best_step", "test")}
    dev = restored.info.get("dev", {}).get(restored.adapter, {}) if not any(info["test"].values()) else None
    info |= {"outcome": restored.info.get("outcome"), "dev": dev, "checkpoint": restored.info.get("checkpoint")}
    info |= {"tasks": restored.info.get("tasks"), "adapter": restored.adapter, "merged": merged}
    config = restored.config.absolute() if hub is None else restored.config.bare()
    if hub is not None:
        info["model"] = config.model.name
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, output_dir=".", resume=None))
    return {**info, "labels": restored.info.get("labels"), "config": config.to_dict(), "inputs": restored.inputs}


def _merged(restored: Restored) -> Any:
    """The backbone with the adapter in its weights. Raises InputError where it does not compute what it did."""
    assert restored.adapters is not None
    ids = _ids(restored)
    apart = _logits(restored.model, ids)
    model = restored.adapters.merged(restored.adapter)
    if not close(_logits(model, ids), apart):
        raise InputError(
            "--merge: the merged model does not compute what backbone and adapter do; export with --separate"
        )
    return model


def _ids(restored: Restored) -> Tensor:
    return torch.tensor([restored.loaded.tokenizer(TEXT)["input_ids"]], device=restored.loaded.device)


@torch.no_grad()
def _logits(model: Any, ids: Tensor) -> Tensor:
    return model(input_ids=ids, use_cache=False).logits[:, -ids.shape[1] :].clone()


def _save_model(model: Any, target: Path, final: Path) -> None:
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None and not quantizer.is_serializable():
        kind = quantized_by(model.config)
        raise InputError(f"{final}: weights quantised by {kind} cannot be saved; use the run's directory itself")
    with quiet():
        # transformers cannot undo what it does in reading a quantised checkpoint; it reads its own layout too
        model.save_pretrained(target, save_original_format=not getattr(quantizer, "pre_quantized", False))


def _try_peft(restored: Restored, final: Path) -> dict[str, Any] | None:
    """Warns where PEFT's own `generate` would not write what the exported adapter says, as its forward does.

    Returns what it must be given so that it does, None for nothing.
    """
    assert restored.adapters is not None
    theirs = restored.adapters.as_peft(restored.adapter)
    if theirs is None:
        return None
    with warnings.catch_warnings(action="ignore"):  # they say what they deprecate, not that it is wrong
        way = right_way(theirs, _ids(restored)[0].tolist())
    if way != {}:
        log.warning(
            "%s: %s with %s, `generate` does not write what this adapter computes%s; zofo generate and zofo.load do",
            final,
            named("peft"),
            named("transformers"),
            "" if way is None else ", unless it is given use_cache=False",
        )
    return way


def _is_ours(restored: Restored) -> bool:
    """Whether PEFT does not know the adapter."""
    return restored.adapters is not None and "zofo" in restored.adapters.config(restored.adapter)
