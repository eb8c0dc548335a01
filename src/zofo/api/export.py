"""A run's model written for plain transformers and peft."""

from __future__ import annotations

import logging
import shutil
import warnings
from pathlib import Path

from zofo.api.restore import Restored, as_path, restore
from zofo.errors import InputError
from zofo.models._transformers import quiet, right_way
from zofo.models.quantization import quantized_by
from zofo.models.versions import named
from zofo.train import checkpoint

log = logging.getLogger("zofo")


def export(
    run_dir: str | Path,
    output_dir: str | Path,
    *,
    merge: bool = False,
    adapter: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a run's model for plain transformers and peft.

    Without `merge`: the tuned backbone in `backbone/`, and the deployed adapter (or `adapter`) in the directory itself,
    whose adapter_config.json names that backbone by its absolute path. With `merge`, or without an adapter: one plain
    transformers directory. The same base, adapters and journal give the same bytes. PEFT does not know DePT: its
    export is for `zofo.load` alone. Raises InputError, for `merge` of an adapter that changes no weights too.
    """
    run_dir, out = as_path(run_dir), Path(output_dir)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not overwrite:
            raise InputError(f"{out}: exists and is not empty; choose another directory or give --overwrite")
        if not (out / "zofo.json").is_file():
            raise InputError(f"{out}: is no export of zofo, so it is not overwritten; delete it yourself")
    restored = restore(run_dir, adapter)
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _write(restored, temporary, out, merge)
        if out.exists():
            shutil.rmtree(out)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _try_peft(restored: Restored, final: Path) -> None:
    """Warns where PEFT's own `generate` would not write what the exported adapter says, as its forward does."""
    assert restored.adapters is not None
    theirs = restored.adapters.as_peft(restored.adapter)
    if theirs is None:
        return
    ids = restored.loaded.tokenizer("The answer is", add_special_tokens=True)["input_ids"]
    with warnings.catch_warnings(action="ignore"):  # they say what they deprecate, not that it is wrong
        way = right_way(theirs, ids)
    if way != {}:
        log.warning(
            "%s: %s with %s, `generate` does not write what this adapter computes%s; zofo generate and zofo.load do",
            final,
            named("peft"),
            named("transformers"),
            "" if way is None else ", unless it is given use_cache=False",
        )


def _write(restored: Restored, directory: Path, final: Path, merge: bool) -> None:
    directory.mkdir(parents=True)
    backbone = directory / "backbone"
    model, adapters = restored.model, restored.adapters
    if adapters is not None and merge:
        model = adapters.merged(restored.adapter)
    elif adapters is not None:
        adapters.save(restored.adapter, directory, base_model=str((final / "backbone").resolve()))
        _try_peft(restored, final)
        model = adapters.unwrap()
    target = backbone if adapters is not None and not merge else directory
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None and not quantizer.is_serializable():
        kind = quantized_by(model.config)
        raise InputError(f"{final}: weights quantised by {kind} cannot be saved; use the run's directory itself")
    with quiet():
        # transformers cannot undo what it does in reading a quantised checkpoint; it reads its own layout too
        model.save_pretrained(target, save_original_format=not getattr(quantizer, "pre_quantized", False))
    restored.loaded.tokenizer.save_pretrained(target)
    info = {key: restored.info[key] for key in ("zofo", "method", "task", "model", "seed", "best_step", "test")}
    info |= {"tasks": restored.info.get("tasks"), "adapter": restored.adapter, "merged": merge}
    info |= {"config": restored.config.to_dict()}
    checkpoint.write_json(directory / "zofo.json", info)
