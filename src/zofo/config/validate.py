"""Settings that are each right and do not go together, as far as neither model nor data decide it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from zofo.config import registry
from zofo.config.layers import Merged
from zofo.config.sections import ModelConfig


def code_from_a_file(merged: Merged, asked: int) -> list[str]:
    """Where a file or a preset lets a model's own code run: whoever wrote it is not who starts this run.

    asked: the layer of the command line, or of a caller in Python, which alone may.
    """
    value = merged.values.get("model", {}).get("trust_remote_code")
    if value is None or value.layer >= asked or value.value is False:
        return []
    return [
        f"model.trust_remote_code: {value.source} cannot set it, as no file may let a model's code run; leave it out "
        f"there, and where you have read that code, add model.trust_remote_code=true to the command line"
    ]


SECRET = re.compile(
    r"://[^/\s@]+@|[?&](token|key|secret|password|access_token|api_key)=|\bhf_[A-Za-z0-9]{30,}|\bgh[pousr]_\w{30,}"
    r"|\bsk-[\w-]{20,}|\bAKIA[0-9A-Z]{16}",
    re.IGNORECASE,
)


def secrets(merged: Merged) -> list[str]:
    """Names and places that hold a password or a token: a run writes its settings into files that are passed on."""
    places = [("model", ("name", "revision")), ("task", ("name", "data")), ("train", ("output_dir", "resume"))]
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
    for part in parts.values():
        faults += part.faults(parts) if hasattr(part, "faults") else []
    if train.count == "all" and 0 < steps < method.shortest:  # it would leave that out, without a word
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
        start = registry.load("adapters", names["adapter"]).Adapter.fixed_start
        if start:
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


def quantized_field(config: ModelConfig) -> str:
    """The setting by which a model is quantised, as an error begins."""
    return f"model.quantization: {config.quantization}:" if config.quantization else f"model.name: {config.name}:"
