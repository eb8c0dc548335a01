"""JSON text that every JSON reader takes: a number that is not finite is null, never a bare NaN; and its one reader."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zofo.errors import InputError


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
    if isinstance(node, str | int):  # most are, and asking whether something is a Mapping takes long
        return node
    if isinstance(node, float):
        return node if math.isfinite(node) else None
    if isinstance(node, list | tuple):
        return [_finite(value) for value in node]
    if isinstance(node, dict | Mapping):
        return {_key(key): _finite(value) for key, value in node.items()}
    return node


def _key(key: Any) -> Any:
    """A key that is not finite is its text, "nan" or "inf": a key of null would be read as a name."""
    return str(key) if isinstance(key, float) and not math.isfinite(key) else key


def read_json(path: Path, fix: str = "") -> dict[str, Any]:
    """The mapping in a JSON file. Raises InputError that names the file; fix: what else to say, such as a way out."""
    after = f"; {fix}" if fix else ""
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: missing{after}") from None
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or str(error)).lower()}{after}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no UTF-8 ({error.reason} in byte {error.start}){after}") from None
    except RecursionError:
        raise InputError(f"{path}: is nested too deep to be read{after}") from None
    except ValueError as error:
        where = f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else "a number too long"
        raise InputError(f"{path}: is no JSON ({where}){after}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected one JSON object, found a {type(content).__name__}{after}")
    return content
