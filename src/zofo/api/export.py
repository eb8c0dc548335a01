"""A run's model written for plain transformers and peft."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zofo.api.restore import Restored, given_model, restore
from zofo.api.standing import in_the_readme
from zofo.api.targets import as_path
from zofo.data import ending
from zofo.data.asking import how_to_ask
from zofo.errors import InputError, first_few
from zofo.models._transformers import close, quiet, right_way
from zofo.models.quantization import quantized_by
from zofo.models.sealed import EXPORT, MANIFEST
from zofo.models.versions import named
from zofo.train.ending import Ending
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
) -> Path:
    """Write a run's model for plain transformers and peft, in a directory that can be moved.

    One plain transformers directory with the deployed adapter (or `adapter`) in its weights, where it can be put there;
    else, and with merge=False, the tuned backbone in `backbone/` and the adapter beside it. merge=True: the first or
    none. model: where the base model is now; overrides: "model.key=value". The directory's README.md says how it is
    opened. The same base, adapters and journal give the same bytes. PEFT does not know DePT: its export is for
    `zofo.load` alone. Raises InputError.
    """
    run_dir, out = as_path(run_dir), Path(output_dir)
    given, _ = given_model(model, overrides, "export")
    _check_target(out, overwrite)
    restored = restore(run_dir, adapter, given)
    make_directory(out.parent)
    with Lease(out, inside=out.is_dir()):
        stays = write_tree(out, lambda directory: _write(restored, restored.inputs, directory, out, merge))
    if stays := [name for name in stays if not of_a_lock(name)]:
        log.warning("%s: not zofo's, and left there: %s", out, first_few(stays))
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


def _write(restored: Restored, inputs: dict[str, Any], directory: Path, final: Path, merge: bool | None) -> None:
    model, adapters, target = restored.model, restored.adapters, directory
    reason = adapters.mergeable(restored.adapter) if adapters is not None else ""
    if adapters is not None and reason and merge is None:
        log.info("%s: %s: backbone and adapter are written apart", final, reason.partition(";")[0])
    merged = adapters is not None and (merge or (merge is None and not reason))
    if adapters is not None and merged:
        model = _merged(restored)
    elif adapters is not None:
        adapters.save(restored.adapter, directory, base_model=str((final / "backbone").resolve()))
        _try_peft(restored, final)
        model, target = adapters.unwrap(), directory / "backbone"
    _save_model(model, target, final)
    ending.tell_file(target / "generation_config.json", model, restored.loaded.tokenizer)
    restored.loaded.tokenizer.save_pretrained(target)
    info = {key: restored.info[key] for key in ("zofo", "method", "task", "model", "seed", "best_step", "test")}
    dev = restored.info.get("dev", {}).get(restored.adapter, {}) if not any(info["test"].values()) else None
    info |= {"outcome": restored.info.get("outcome"), "dev": dev, "checkpoint": restored.info.get("checkpoint")}
    info |= {"tasks": restored.info.get("tasks"), "adapter": restored.adapter, "merged": merged}
    config = restored.config.absolute()
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, output_dir="."))
    info |= {"labels": restored.info.get("labels"), "config": config.to_dict(), "inputs": inputs}
    write_json(directory / EXPORT, info)
    readme = _readme(info, adapters is not None and not merged, _is_ours(restored))
    asked = how_to_ask(config.task, "HERE", info["labels"] or (), str(restored.info.get("metric")))
    write_text(directory / "README.md", readme + asked)


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


def _try_peft(restored: Restored, final: Path) -> None:
    """Warns where PEFT's own `generate` would not write what the exported adapter says, as its forward does."""
    assert restored.adapters is not None
    theirs = restored.adapters.as_peft(restored.adapter)
    if theirs is None:
        return
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


def _is_ours(restored: Restored) -> bool:
    """Whether PEFT does not know the adapter."""
    return restored.adapters is not None and "zofo" in restored.adapters.config(restored.adapter)


_PLAIN = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(HERE)
tokenizer = AutoTokenizer.from_pretrained(HERE)
"""
_APART = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

backbone = AutoModelForCausalLM.from_pretrained(f"{HERE}/backbone")
model = PeftModel.from_pretrained(backbone, HERE)
tokenizer = AutoTokenizer.from_pretrained(f"{HERE}/backbone")
"""
_OURS = """import zofo

model, tokenizer = zofo.load(HERE)
"""


def _readme(info: dict[str, Any], apart: bool, ours: bool) -> str:
    what = "a backbone and its adapter" if apart else "a model"
    code = (_OURS if ours else _APART) if apart else _PLAIN
    name, base = info["adapter"], f"`{info['model']}`"
    if Path(info["model"]).is_absolute():  # of the machine that trained, and nothing here needs it
        base = f"the model in a directory `{Path(info['model']).name}`"
    test = info["test"].get(name, {})
    measured = f"Test: {_numbers(test) or 'not measured'}."
    if info["dev"]:
        measured += f" Dev, at step {info['best_step']}: {_numbers(info['dev'])}."
    ending, here = Ending.read(info["outcome"]), ""
    if info["checkpoint"]:
        here = f"What is here is {info['checkpoint']} of the run.\n\n"
    elif not test and ending.kind != "finished":
        here = f"What is here is the best of its evaluations until then, that of step {info['best_step']}.\n\n"
    return (
        f"# {info['method']} on {info['task']}: {what}\n\n"
        f"Trained from {base} with zofo, seed {info['seed']}. {measured}\n\n"
        f"{in_the_readme(ending)}{here}"
        f"HERE is the path of this folder, which can be moved:\n\n```python\n{code}```\n\n"
        f"`zofo eval HERE` measures it, `zofo generate HERE --prompt TEXT` writes with it.\n"
    )


def _numbers(values: Mapping[str, float | None]) -> str:
    return ", ".join(f"{key} {value:.4f}" for key, value in values.items() if key != "n" and value is not None)
