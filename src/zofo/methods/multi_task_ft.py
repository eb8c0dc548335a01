"""First-order fine-tuning of every weight on a mixture of tasks, without demonstrations: the plain baseline.

A baseline of Min et al. (MetaICL, NAACL 2022, arXiv 2110.15943). A batch takes its examples from different
training tasks in turn, all with the same share.

| symbol | field | default | place |
|---|---|---|---|
| eta | lr | 1e-5 | as MetaICL's |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zofo.methods import fo_ft
from zofo.methods.meta_bilevel_zofo import TASKS


def defaults(names: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    return dict(TASKS)


@dataclass(frozen=True)
class Config(fo_ft.Config):
    pass


class Method(fo_ft.Method):
    """theta <- theta - lr grad_theta F(theta; B), B of many tasks."""

    many = True

    @classmethod
    def faults(cls, parts: Mapping[str, Any]) -> list[str]:
        shots = parts["task"].num_fewshot
        return (
            ["task.num_fewshot: with demonstrations in training this is method metaicl; leave it at 0"] if shots else []
        )
