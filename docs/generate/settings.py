"""Every setting: the fields of the sections and of the registry's entries, from their dataclasses."""

from __future__ import annotations

import dataclasses
import html
import re
import typing
from typing import Any

from docs.generate.tables import cell, code, table
from zofo.config import registry
from zofo.config.layers import MODULE_SECTIONS
from zofo.config.resolve import CORE
from zofo.config.typed import BOUNDS, show, type_name
from zofo.federated.sections import Federation, Simulation


def default_of(spec: dataclasses.Field[Any]) -> str:
    if spec.default_factory is not dataclasses.MISSING:
        return show(spec.default_factory())
    if spec.default is dataclasses.MISSING:
        return "required"
    if isinstance(spec.default, float):  # 1e-06 -> 1e-6, as one would type it
        return re.sub(r"e([+-]?)0+(\d)", r"e\1\2", repr(spec.default))
    return show(spec.default)


def fields(section: str, config: type) -> str:
    """The table of a section's fields, or the sentence that there are none."""
    hints, rows = typing.get_type_hints(config), []
    for spec in dataclasses.fields(config):
        meta = spec.metadata
        bounds = [f"{sign} {meta[key]}" for key, (sign, _) in BOUNDS.items() if key in meta]
        kind = type_name(hints[spec.name]) + (f", {' and '.join(bounds)}" if bounds else "")
        row = code(f"{section}.{spec.name}"), cell(kind), code(default_of(spec)), cell(meta.get("help", ""))
        rows.append((*row, cell(meta.get("paper", ""))))
    return table(("field", "type", "default", "what it does", "in the paper"), rows) if rows else "No settings.\n"


def entry(kind: str, name: str) -> str:
    """One entry of the registry: its docstring, and its fields."""
    config = getattr(registry.load(kind, name), "Config", None)
    said = registry.docstring(kind, name)
    first, _, more = said.partition("\n")
    parts = [f"### {name}\n", f"{html.escape(first, quote=False)}\n"]
    if more.strip():
        parts.append(f"{html.escape(more.strip(), quote=False)}\n")
    return "\n".join([*parts, *([fields(registry.singular(kind), config)] if config else [])])


def page() -> str:
    """The text of settings.md."""
    parts = [
        """# Settings

Every field of every section: in a YAML file, as `section.key=value` on a command line, or in `overrides=[...]` of
Python. `zofo show NAME` prints the same of one entry, `zofo validate` a whole configuration with the reason of each
value. How they are put together: [tour.md](tour.md#4-settings).
"""
    ]
    for section, config in CORE.items():
        parts += [f"## {section}\n", f"{(config.__doc__ or '').strip()}\n", fields(section, config)]
    for section in MODULE_SECTIONS:
        kind = f"{section}s"
        parts.append(f"## {section}\n")
        parts.append(f"`{section}.name` is one of {', '.join(f'`{name}`' for name in registry.names(kind))}.\n")
        parts += [entry(kind, name) for name in registry.names(kind)]
    parts.append("## fed.yaml\n\nWhat a federation's file has beside these sections ([federated.md](federated.md)).\n")
    for section, config in (("federation", Federation), ("simulate", Simulation)):
        parts += [f"### {section}\n", fields(section, config)]
    return "\n".join(parts)
