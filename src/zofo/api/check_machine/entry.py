"""A block of `zofo check` as somebody sent it: results/machines/NAME.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zofo.api.check_machine.run import FORMAT
from zofo.config.json_text import read_json
from zofo.errors import InputError

TEXT, NUMBER = (str,), (int, float)
FIELDS: dict[str, tuple[type, ...]] = {
    "format": TEXT,
    "device": TEXT,
    "processor": TEXT,
    "cpu_capability": TEXT,
    "seconds": NUMBER,
    "environment": (dict,),
    "checks": (list,),
    "device_name": (str, type(None)),
}
OF_A_CHECK: dict[str, tuple[type, ...]] = {"name": TEXT, "words": TEXT, "good": (bool, type(None))}


def read_entry(path: Path) -> dict[str, Any]:
    """Raises InputError naming each field that is not what `zofo check` writes."""
    content = read_json(path)
    faults = _faults("", content, FIELDS)
    if content.get("format") not in (None, FORMAT):
        faults.append(f'format: expected "{FORMAT}", got {content["format"]!r:.40}')
    for number, one in enumerate(content["checks"] if isinstance(content.get("checks"), list) else ()):
        faults += _faults(f"checks[{number}].", one, OF_A_CHECK)
    if faults:
        raise InputError("\n".join(f"{path}: {fault}" for fault in faults))
    return content


def _faults(place: str, content: Any, fields: dict[str, tuple[type, ...]]) -> list[str]:
    if not isinstance(content, dict):
        return [f"{place.rstrip('.')}: expected an object"]
    found = [f"{place}{name}: is missing" for name in fields if name not in content]
    wrong = [name for name, kinds in fields.items() if name in content and not isinstance(content[name], kinds)]
    return found + [f"{place}{name}: of another type than `zofo check` writes" for name in wrong]
