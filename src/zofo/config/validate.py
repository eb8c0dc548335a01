"""Settings that are each right and do not go together, as far as neither model nor data decide it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from zofo.config import registry
from zofo.config.epochs import refused as without_epochs
from zofo.config.layers import Merged
from zofo.config.reward_name import reward_name
from zofo.config.sections import SPLIT_FIELDS, ModelConfig
from zofo.errors import printable


def code_from_a_file(merged: Merged, asked: int) -> list[str]:
    """Where a file or a preset lets code run, a model's own or a reward's: whoever wrote it is not who starts this run.

    asked: the layer of the command line, or of a caller in Python, which alone may.
    """
    value = merged.values.get("model", {}).get("trust_remote_code")
    faults = _reward_from_a_file(merged, asked)
    if value is None or value.layer >= asked or value.value is False:
        return faults
    return [
        *faults,
        f"model.trust_remote_code: {value.source} cannot set it, as no file may let a model's code run; leave it out "
        f"there, and where you have read that code, add model.trust_remote_code=true to the command line",
    ]


def _reward_from_a_file(merged: Merged, asked: int) -> list[str]:
    value = merged.values.get("task", {}).get("metric")
    named = None if value is None or value.layer >= asked else reward_name(value.value)
    if value is None or named is None:
        return []
    how = f"task.metric={value.value} on the command line" if named.file is not None else "metric=FUNCTION in Python"
    return [
        f"task.metric: {printable(value.source)} names {printable(str(value.value), 300)}, and no file may let code "
        f"run; where you have read that code, give {how} again to run it"
    ]


SECRET = re.compile(
    r"://[^/\s@]+@|[?&](token|key|secret|password|access_token|api_key)=|\bhf_[A-Za-z0-9]{30,}|\bgh[pousr]_\w{30,}"
    r"|\bsk-[\w-]{20,}|\bAKIA[0-9A-Z]{16}",
    re.IGNORECASE,
)


def secrets(merged: Merged) -> list[str]:
    """Names and places that hold a password or a token: a run writes its settings into files that are passed on."""
    rows = ("name", "data", *SPLIT_FIELDS.values())
    pairs = [("model", ("name", "revision")), ("task", rows), ("train", ("output_dir", "resume"))]
    places: list[tuple[str, tuple[str, ...]]] = [*pairs, ("adapter", ("start",))]
    given = [(f"{part}.{key}", merged.values.get(part, {}).get(key)) for part, keys in places for key in keys]
    return [
        f"{field}: holds a password or a token, which the run's files would repeat; give a plain name, and a token in "
        f"the variable HF_TOKEN"
        for field, value in given
        if value is not None and SECRET.search(str(value.value))
    ]


def together(parts: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """Settings that are each right and do not go together. What a model or the data decide is checked with them."""
    train, config = parts["train"], parts["method"]
    method = registry.load("methods", names["method"]).Method(config, parts.get("adapter") is not None)
    steps, faults = train.max_steps, method.faults(parts)
    if parts["model"].quantization and (fault := refused(parts["model"], names["method"], method)):
        faults.append(fault)
    if parts["model"].offload_folder is not None:
        faults += [f"model.offload_folder: {fault}" for fault in not_offloaded(parts, names, method)]
    if fault := parts["parallel"].unsharded(names["method"], method):
        faults.append(fault)
    for part in parts.values():
        faults += part.faults(parts) if hasattr(part, "faults") else []
    if train.num_train_epochs is not None and (fault := without_epochs(names["method"], method)):
        faults.append(f"train.num_train_epochs: {fault}")
    known = train.num_train_epochs is None  # else they are not counted yet
    if known and train.count == "all" and 0 < steps < method.shortest:  # it would leave that out, without a word
        faults.append(
            f"train.max_steps: {steps} is less than the {method.shortest} counted steps that one iteration, or one "
            f"zeroth-order step, takes; give at least {method.shortest}, or a smaller method.inner_steps"
        )
    if train.count == "outer" and not method.iterates:
        faults.append(f"train.count: outer counts iterations, and method {names['method']} has stages; leave it at all")
    if parts.get("estimator") is not None and parts["estimator"].shift == "inplace" and train.on_nonfinite != "stop":
        faults.append(
            f"train.on_nonfinite: {train.on_nonfinite} needs estimator.shift=layer: a skipped estimate in place is not "
            f"undone"
        )
    if train.gradient_checkpointing and names.get("adapter") == "prefix":
        faults.append(
            "train.gradient_checkpointing: a prefix is read from a cache, which a layer computed again would fill "
            "twice; use lora or prompt, or a smaller train.micro_batch_size"
        )
    if method.apart:
        given = dict(vars(parts["adapter"])).get("start")  # an adapter of a plug-in may have none
        if given is not None:
            faults.append("method.apart: p and s both begin with the adapter of adapter.start; leave it false")
        start = registry.load("adapters", names["adapter"]).Adapter.fixed_start
        if start and given is None:
            faults.append(
                f"method.apart: adapter {names['adapter']} starts from {start}, nothing is drawn; leave it false, or "
                f"use lora or dept"
            )
    return faults


def refused(config: ModelConfig, name: str, method: Any) -> str:
    """Why a method, called `name`, cannot run on a quantised model, in one line; "" where it can."""
    if method.moves != "fo":
        return ""
    return (
        f"{quantized_field(config)} {name} moves every weight by its gradient, and quantised weights have none; use "
        f"fo-peft (an adapter beside them, QLoRA), or mezo or bilevel-zofo (zeroth-order steps of what is not "
        f"quantised)"
    )


def not_offloaded(parts: Mapping[str, Any], names: Mapping[str, str], method: Any) -> list[str]:
    """What needs numbers for every weight in memory, or more of the weights at once than a layer, and the fix."""
    estimator, rule, mask = (parts.get(part) for part in ("estimator", "rule", "mask"))
    model, faults = parts["model"], []
    if model.device not in ("auto", "cpu"):
        faults.append(f"is for weights in this machine's memory, not for {model.device}; give model.device=cpu")
    if model.quantization is not None:
        faults.append("quantised weights are no part of the file; leave one of the two out")
    if model.device_map is not None:
        faults.append("model.device_map places the weights on several devices; leave one of the two out")
    if parts["parallel"].tensor * parts["parallel"].fsdp > 1:
        faults.append("parallel.tensor and fsdp cut the weights over processes; leave one of the two out")
    if method.moves == "fo":
        faults.append(f"{names['method']} needs a gradient of every weight; use mezo, bilevel-zofo or fo-peft")
    if estimator is not None and estimator.shift != "layer":
        faults.append(f"estimator.shift={estimator.shift} makes or writes all shifted weights; use layer")
    if estimator is not None and estimator.anchored:
        faults.append(f"estimator {names['estimator']} keeps a copy of the weights; use spsa")
    if rule is not None and rule.stateful:
        faults.append(f"rule {names['rule']} keeps numbers for every weight; use sgd or sign")
    if rule is not None and rule.rounding == "split":
        faults.append("rule.rounding=split keeps 2 bytes for every weight; use stochastic")
    if mask is not None and mask.by_gradients:
        faults.append(f"mask {names['mask']} takes a gradient of every weight; use magnitude, random or blocks")
    return faults


def quantized_field(config: ModelConfig) -> str:
    """The setting by which a model is quantised, as an error begins."""
    return f"model.quantization: {config.quantization}:" if config.quantization else f"model.name: {config.name}:"
