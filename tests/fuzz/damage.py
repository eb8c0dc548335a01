"""Ways to spoil bytes, and values in a tree of JSON. Everything is drawn from the generator that is handed in."""

from __future__ import annotations

import copy
import gzip
import json
import random
from typing import Any

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 538090408\n"
PAGE = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>nginx</body></html>\n"

RAW = {  # texts that json.dumps cannot write, by what stands for them in a tree
    "@deep list@": "[" * 10_000 + "]" * 10_000,
    "@deep mapping@": '{"a":' * 10_000 + "1" + "}" * 10_000,
    "@digits@": "9" * 5_000,
    "@minus digits@": "-" + "9" * 5_000,
    "@surrogate@": '"a\\ud800b"',
    "@nan@": "NaN",
    "@infinity@": "-Infinity",
    "@exponent@": "1e999",
    "@bare@": "undefined",
}
HOSTILE: list[Any] = [
    None,
    True,
    False,
    -1,
    0,
    1.0,
    0.5,
    2**63,
    10**30,
    1e308,
    "",
    " ",
    "\n",
    "\x00",
    "\x1b[31mred\x1b[0m",
    "a" * 200_000,
    "../../../etc/passwd",
    "\u202egnp.exe",
    "{{ 7 * 7 }}",
    "%s%n",
    [],
    {},
    [[]],
    [None],
    {"": None},
    [1, "two", 3.0],
    {"a": {"b": {"c": []}}},
    *RAW,
]


def dumps(tree: Any) -> str:
    """JSON, with RAW's texts for their stand-ins."""
    text = json.dumps(tree)
    for stand_in, raw in RAW.items():
        text = text.replace(json.dumps(stand_in), raw)
    return text


def places_of(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value in a tree, the tree itself left out."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, value in items for place in ((*at, key), *places_of(value, (*at, key)))]


def spoil_value(rng: random.Random, tree: Any) -> tuple[str, Any]:
    """(what was done, a copy of the tree with one value replaced, left out, renamed, doubled or added)."""
    tree = copy.deepcopy(tree)
    *way, key = rng.choice(places_of(tree))
    inner = tree
    for step in way:
        inner = inner[step]
    where = ".".join(map(str, [*way, key]))
    kind = rng.choice(["replaced"] * 6 + ["left out", "renamed", "added", "wrapped"])
    if kind == "replaced":
        inner[key] = value = rng.choice(HOSTILE)
        return f"{where} = {str(value)[:30]!r}", tree
    if kind == "left out":
        del inner[key]
    elif kind == "wrapped":
        inner[key] = [inner[key]]
    elif isinstance(inner, dict):
        value = inner.pop(key) if kind == "renamed" else rng.choice(HOSTILE)
        inner[str(key) + rng.choice(["x", "_", " ", ""]) if kind == "renamed" else "extra"] = value
    else:
        inner.append(rng.choice(HOSTILE))
    return f"{where} {kind}", tree


def spoil_bytes(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """(what was done, other bytes)."""
    at = rng.randrange(max(1, len(content)))
    lines = content.splitlines(keepends=True) or [b""]
    line = rng.randrange(len(lines))
    return rng.choice(
        [
            (f"cut at byte {at}", content[:at]),
            ("cut by one byte", content[:-1]),
            ("empty", b""),
            ("white space", b" \n\n\t\n"),
            ("a git-lfs pointer", LFS),
            ("a web page", PAGE),
            ("a byte order mark", b"\xef\xbb\xbf" + content),
            ("UTF-16", content.decode("utf-8", "replace").encode("utf-16")),
            (f"NUL at byte {at}", content[:at] + b"\x00" + content[at:]),
            (f"no UTF-8 at byte {at}", content[:at] + b"\xff\xfe" + content[at:]),
            (f"a bracket at byte {at}", content[:at] + rng.choice([b"[", b"}", b'"', b"'", b":", b"&", b"*", b"%"])
             + content[at:]),
            (f"a control character at byte {at}", content[:at] + b"\x1b[2J" + content[at:]),
            (f"line {line} left out", b"".join(lines[:line] + lines[line + 1 :])),
            (f"line {line} twice", b"".join([*lines[: line + 1], *lines[line:]])),
            ("lines reversed", b"".join(reversed(lines))),
            ("carriage returns", content.replace(b"\n", b"\r")),
            ("compressed", gzip.compress(content, mtime=0)),
            ("deep", b"[" * 20_000),
            ("random bytes", rng.randbytes(300)),
        ]
    )  # fmt: skip
