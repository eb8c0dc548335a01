"""The public Python API: signatures and docstrings of `zofo.__all__`."""

from __future__ import annotations

import inspect
import re
from typing import Any

import zofo

WIDTH = 100  # of a signature, before each argument has a line of its own
ORDER = ("finetune", "train", "resolve", "Run", "load", "evaluate", "predict", "predict_file", "generate", "export")


def names() -> list[str]:
    """Those of a run first, in the order of its life; then the rest by name."""
    return [*(n for n in ORDER if n in zofo.__all__), *(n for n in zofo.__all__ if n not in ORDER)]


def signature(name: str, thing: Any) -> str:
    """The signature as the source has it, an argument a line where it is long; annotations without their quotes."""
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", _quoted(name, thing))


def _quoted(name: str, thing: Any) -> str:
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):  # an exception's is that of the builtin
        return name
    whole = f"{name}{found}"
    if len(whole) <= WIDTH:
        return whole
    lines, star = [], False
    for each in found.parameters.values():
        if each.kind is each.KEYWORD_ONLY and not star:
            lines.append("*")
        star = star or each.kind in (each.KEYWORD_ONLY, each.VAR_POSITIONAL)
        lines.append(str(each))
    returns = whole[len(f"{name}{found.replace(return_annotation=found.empty)}") :]
    inside = "".join(f"    {line},\n" for line in lines)
    return f"{name}(\n{inside}){returns}"


def said(thing: Any) -> str:
    text = inspect.getdoc(thing) or ""
    return f"{text}\n" if text and text != inspect.getdoc(type(thing)) else ""


def members(thing: type) -> list[tuple[str, Any]]:
    """The public methods and properties that the class itself defines and describes."""
    return [
        (n, m) for n, m in vars(thing).items() if not n.startswith("_") and (callable(m) or isinstance(m, property))
    ]


def describe(name: str) -> str:
    thing = getattr(zofo, name)
    parts = [f"## {name}\n", f"```python\n{signature(name, thing)}\n```\n", said(thing)]
    if inspect.isclass(thing):
        for inner, member in members(thing):
            parts.append(f"### {name}.{inner}\n")
            if not isinstance(member, property):
                parts.append(f"```python\n{signature(inner, member)}\n```\n")
            parts.append(said(member))
    return "\n".join(part for part in parts if part)


def page() -> str:
    """The text of api.md."""
    head = """# Python

All that `import zofo` gives, from the code. A run in five lines is at the top of the [start page](index.md); the calls
side by side with their commands are in [tour.md](tour.md#6-from-python), a loop of your own in
[zo_family.md](zo_family.md#in-your-own-loop).
Wrong input raises `InputError`, a run that fails `RunError`; both are `ZofoError`.
"""
    return "\n".join([head, *(describe(name) for name in names())])
