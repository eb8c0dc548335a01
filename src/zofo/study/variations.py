"""Plans made of one configuration: one setting at a time (an ablation), or templates by methods (sensitivity)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zofo.config import registry
from zofo.config.instantiate import make_method
from zofo.config.resolve import Config
from zofo.config.yaml_reader import dump, scalar
from zofo.data.task import find_spec
from zofo.errors import InputError, did_you_mean, printable
from zofo.study.plan import OWN, Plan
from zofo.study.plan_read import plan_of
from zofo.zo.laws import LAWS

BASE = "as-it-is"  # the row that nothing is changed in


def ablation(config: Config, vary: Sequence[str], seeds: Sequence[int], name: str) -> Plan:
    """A row for each value of each setting, all else equal, beside the configuration as it is.

    vary: "section.field=value,value"; what is usual for the method if there are none (`usual`). A departure of
    Algorithm 2 (method.p_steps, method.independent_z, ...) makes the method bilevel-ablations. Raises InputError.
    """
    values = _given(vary) if vary else usual(config)
    rows: dict[str, dict[str, Any]] = {BASE: {}}
    for key, several in values.items():
        for value in several:
            rows[_named(key, value)] = {**_departure(config, key), key: value}
    return _plan(config, rows, seeds, name)


def usual(config: Config) -> dict[str, list[Any]]:
    """Of Bilevel ZOFO lam and T (Figure 2), p's steps, z of the three terms; of every zeroth-order method the law,
    eps and q of its estimator; of the others the rate."""
    method: Any = config.method
    name, values = config.names["method"], dict[str, list[Any]]()
    if name in ("bilevel-zofo", "bilevel-ablations"):
        values["method.lam"] = [method.lam / 10, method.lam * 10]
        values["method.inner_steps"] = sorted({max(1, method.inner_steps // 2), method.inner_steps * 2})
        values |= {"method.p_steps": [max(2, method.inner_steps // 2)], "method.independent_z": [True]}
    elif hasattr(method, "lr"):
        values["method.lr"] = [method.lr / 3, method.lr * 3]
    estimator: Any = config.estimator
    if estimator is not None and make_method(config).moves == "zo":
        if hasattr(estimator, "law"):
            values["estimator.law"] = [law for law in LAWS if law != estimator.law]
        values["estimator.eps"] = [estimator.eps / 10, estimator.eps * 10]
        values["estimator.q"] = [4 * estimator.q]
    return values


def sensitivity(configs: Mapping[str, Config], templates: Sequence[str], seeds: Sequence[int], name: str) -> Plan:
    """Templates by methods (Tables 1 and 8). configs: of each method. templates: all of the task's if none is named.
    Raises InputError for one that the task does not have."""
    first = next(iter(configs.values()))
    known = templates_of(first)
    for template in templates:
        if template not in known:
            near = did_you_mean(template, known)
            raise InputError(
                f'--template: {first.task.title} has no "{printable(template, 60)}"{near}; it has {", ".join(known)}'
            )
    shared = _sections(first)
    rows = {}
    for method, config in configs.items():
        own = {section: content for section, content in _sections(config).items() if section != "train"}
        flat = {f"{section}.{key}": value for section, content in own.items() for key, value in content.items()}
        for template in templates or known:
            rows[f"{method}-{template}"] = {**flat, "task.template": template}
    content = {"train": shared["train"], "rows": rows, "seeds": list(seeds)}
    return plan_of(content, dump(content), Path(f"{name}.yaml"))


def templates_of(config: Config) -> list[str]:
    """By their names; of rows of one's own there are default and plain."""
    spec = find_spec(config.task.name)
    return ["default", "plain"] if spec is None else list(spec.templates)


def _plan(config: Config, rows: dict[str, dict[str, Any]], seeds: Sequence[int], name: str) -> Plan:
    content = {**_sections(config), "rows": rows, "seeds": list(seeds)}
    return plan_of(content, dump(content), Path(f"{name}.yaml"))


def _sections(config: Config) -> dict[str, dict[str, Any]]:
    """The configuration with the places as they are on this machine, less what a sweep sets itself."""
    whole = config.absolute().to_dict()
    return {
        section: {key: value for key, value in fields.items() if f"{section}.{key}" not in OWN}
        for section, fields in whole.items()
    }


def _given(vary: Sequence[str]) -> dict[str, list[Any]]:
    values: dict[str, list[Any]] = {}
    for text in vary:
        key, equals, raw = text.partition("=")
        if not equals or "." not in key or not raw:
            raise InputError(f"--vary {printable(text, 100)}: expected section.field=value,value")
        values.setdefault(key.strip(), []).extend(scalar(each) for each in raw.split(","))
    return values


def _departure(config: Config, key: str) -> dict[str, Any]:
    section, _, field = key.partition(".")
    if section != "method" or config.names["method"] != "bilevel-zofo" or field in vars(config.method):
        return {}
    ablations = registry.load("methods", "bilevel-ablations").Config
    known = any(each.name == field for each in dataclasses.fields(ablations))
    return {"method.name": "bilevel-ablations"} if known else {}


def _named(key: str, value: Any) -> str:
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", f"{key.partition('.')[2]}-{shown}")
