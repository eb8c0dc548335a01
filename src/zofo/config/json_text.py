"""JSON text that every JSON reader takes: a number that is not finite is null, never a bare NaN."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any


def dumps(
    data: Any,
    indent: int | None = None,
    *,
    sort_keys: bool = False,
    ensure_ascii: bool = True,
    default: Callable[[Any], Any] | None = None,
) -> str:
    """`json.dumps` of `data` without a line's end; NaN and the infinities, which JSON does not have, become null.

    default: what to write for an object that JSON does not know, as in the standard library; without it TypeError.
    """
    return json.dumps(
        _finite(data),
        indent=indent,
        sort_keys=sort_keys,
        ensure_ascii=ensure_ascii,
        default=None if default is None else lambda value: _finite(default(value)),
        allow_nan=False,
    )


def _finite(node: Any) -> Any:
    if isinstance(node, float):
        return node if math.isfinite(node) else None
    if isinstance(node, Mapping):
        return {_key(key): _finite(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_finite(value) for value in node]
    return node


def _key(key: Any) -> Any:
    """A key that is not finite is its text, "nan" or "inf": a key of null would be read as a name."""
    return str(key) if isinstance(key, float) and not math.isfinite(key) else key
