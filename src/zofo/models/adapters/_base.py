"""What an adapter's file has: a `Config`, and an `Adapter` that builds the set of named copies on a backbone."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from zofo.errors import InputError, printable

if TYPE_CHECKING:
    from zofo.models.adapters._set import AdapterSet


# What families call the matrix that makes logits; any other name of it is found out when the model is there.
HEADS = ("lm_head", "embed_out", "output_layer", "output_projection", "lm_loss")
WHY_NOT_HEAD = "logits are computed where a label is, from the head's own weights, past any adapter of it"


def head_problems(targets: Sequence[str] | None) -> list[str]:
    """For a Config's `problems`: targets, by name or by path, that are a head by their names."""
    heads = [target for target in targets or () if target.rpartition(".")[2] in HEADS]
    return [f"target_modules: {name!r} is the head, which cannot be adapted: {WHY_NOT_HEAD}" for name in heads[:1]]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a `Config` has besides the settings of its own kind."""

    start: str | None = field(
        default=None,
        metadata={
            "help": "directory of a trained adapter to go on from: PEFT's, an export's or a run's; null: a fresh one"
        },
    )


class Base(ABC):
    """fixed_start: what every copy starts from where nothing is drawn; then two copies cannot start apart."""

    fixed_start: ClassVar[str | None] = None

    def __init__(self, config: Any) -> None:
        self.config = config

    @classmethod
    def reads(cls, raw: Mapping[str, Any], tensors: Sequence[str]) -> dict[str, Any] | None:
        """The settings of a trained adapter of this kind, for `adapter.start`; None for one of another kind.

        raw: its adapter_config.json. tensors: the names in its weights' file. Raises InputError, without the directory,
        for what of PEFT's this kind does not have.
        """
        del raw, tensors
        return None

    @abstractmethod
    def build(self, model: Any, names: Sequence[str], seed: int, tokenizer: Any = None) -> AdapterSet:
        """One copy of the adapter on `model` for each name, all equal. seed: key of what is drawn. tokenizer: the
        model's. Raises InputError where the model has no place for it."""


def whole_number(raw: Mapping[str, Any], key: str) -> int:
    """A field of adapter_config.json. Raises InputError."""
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value) or value < 1:
        raise InputError(f"{key} is {printable(repr(value), 60)}, and zofo takes whole numbers from 1 on")
    return int(value)


def refuse(raw: Mapping[str, Any], keys: Sequence[str], kind: str) -> None:
    """Raises InputError where one of these fields makes another function of the adapter than zofo's of this kind."""
    for key in keys:
        if (value := raw.get(key)) not in (None, False, "none", 0) and value not in ([], {}):
            raise InputError(
                f"{key} is {printable(repr(value), 60)}, which zofo's {kind} does not have; merge the adapter into its "
                f"model (PEFT's merge_and_unload), and give that as --model"
            )


def paths_of(tensors: Sequence[str], kind: str) -> list[str]:
    """Paths in the model of the modules that an adapter's file has weights of. kind: a regular expression of what PEFT
    puts behind the path. Raises InputError where there is none."""
    found = (re.fullmatch(rf"base_model\.model\.(.+)\.{kind}", name) for name in tensors)
    if paths := sorted({match[1] for match in found if match}):
        return paths
    raise InputError("its weights' file names no module of a model; save the adapter again")
