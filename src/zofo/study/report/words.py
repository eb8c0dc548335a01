"""Numbers and texts as the page has them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from zofo.config.paths import bare_metric
from zofo.errors import printable

NOT_FINITE, NOT_MEASURED = "not finite", "not measured"
PLACES = ("model.name", "task.name", "task.data", "task.train_file", "task.dev_file", "task.test_file", "adapter.start")


def number(value: float | None) -> str:
    """Four digits; a number that is not finite stands as null in zofo's files."""
    if value is None or not math.isfinite(value):
        return NOT_FINITE
    if isinstance(value, int):
        return f"{value:,}"
    if value and not 1e-3 <= abs(value) < 1e5:
        return re.sub(r"e([+-])0*(\d)", lambda e: f"e{e.group(1).replace('+', '')}{e.group(2)}", f"{value:.3e}")
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"


def held(values: Mapping[str, Any], key: str) -> str:
    """A number of a mapping, which may not have it."""
    return number(values[key]) if key in values else NOT_MEASURED


def memory(size: float | None) -> str:
    """Bytes in MiB or GiB."""
    if size is None:
        return NOT_MEASURED
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def seconds(value: float | None) -> str:
    if value is None:
        return NOT_MEASURED
    if value < 120:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def bare(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings for somebody else: of places on a machine the last part, with a dot, so that it is no hub id."""
    found = dict(settings)
    for key in PLACES:
        value = settings.get(key)
        if isinstance(value, str) and (_is_place(value) or (key != "model.name" and "/" in value)):
            found[key] = f"./{_last(value)}"
    if isinstance(metric := found.get("task.metric"), str):
        found["task.metric"] = bare_metric(metric)
    return found


def model_name(name: str) -> str:
    """A hub id as it is, of a directory the last part."""
    return _last(name) if _is_place(name) else name


def _is_place(value: object) -> bool:
    return isinstance(value, str) and (value.startswith((".", "/", "~")) or value.count("/") > 1 or "\\" in value)


def _last(path: str) -> str:
    return next((part for part in reversed(re.split(r"[/\\]", path)) if part not in ("", ".")), path)


def clipped(text: object, most: int) -> str:
    """What of a long text is shown: its beginning and end."""
    text = text if isinstance(text, str) else str(text)
    if len(text) <= most:
        return printable(text, plain="\n\t")
    half = most // 2
    left = f"[... {len(text) - 2 * half:,} characters left out ...]"
    return printable(f"{text[:half]} {left} {text[-half:]}", plain="\n\t")
