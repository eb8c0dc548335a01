"""A journal replayed by a reader that was written from docs/journal.md alone: nothing of zofo is imported here.

It knows elementwise laws, the masks `random` and `blocks`, and all rules; nothing of low-rank directions and of
recorded supports. theta is {name: fp32 numbers}, the dtype beside it: 16-bit numbers are fp32 numbers, too.
"""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.journal_numbers import Array, Kept, draw, f, key, nearest, number, pattern, quantiles, stochastically

SKIPPED, REVERSED, STAYED = 2, -1, 0
DENSE = (
    "momentum",
    "sign",
    "adam",
    "adamw",
    "r-adazo",
    "adamezo",
    "seed-momentum",
)  # rules whose step is no multiple of z


@dataclass
class Record:
    step: int
    rate: float
    outcome: int
    terms: list[tuple[int, float]]


def read(raw: bytes) -> tuple[dict[str, Any], list[Record]]:
    """(the header, the records) of a whole file."""
    assert raw[:8] == b"ZOFOJ\x00\r\n"
    (size,) = struct.unpack_from("<I", raw, 8)
    text, at = raw[12 : 12 + size], 12 + size
    assert struct.unpack_from("<I", raw, at)[0] == zlib.crc32(text)
    at, records, before = at + 4, [], zlib.crc32(text)
    while at < len(raw):
        length, step, rate, outcome, count = struct.unpack_from("<IIdbH", raw, at)
        body = raw[at + 4 : at + 4 + length]
        assert length == 15 + 12 * count
        before = zlib.crc32(raw[at : at + 4 + length], before)
        assert struct.unpack_from("<I", raw, at + 4 + length)[0] == before
        terms = [struct.unpack_from("<Qf", body, 15 + 12 * i) for i in range(count)]
        records.append(Record(step, rate, outcome, terms))
        at += length + 8
    return json.loads(text), records


class Reader:
    """theta, moved by records. passes_apart: which rules do the last restoring pass by itself, as the page has it."""

    def __init__(self, header: dict[str, Any], theta: dict[str, Array], passes_apart: tuple[str, ...] = DENSE) -> None:
        self.estimator, self.rule, self.mask = header["estimator"], header["rule"], header["mask"]
        self.seed, self.apart = header["seed"], passes_apart
        self.dtype = {t["name"]: t["dtype"] for t in header["tensors"]}
        self.shape = {t["name"]: t["shape"] for t in header["tensors"]}
        self.theta = {name: theta[name].astype(np.float32).reshape(-1) for name in self.shape}
        split = self.rule["rounding"] == "split"
        self.low = {
            n: np.zeros(len(w), np.int64) for n, w in self.theta.items() if split and self.dtype[n] == "bfloat16"
        }
        self.kept: dict[tuple[str, str], Kept] = {}
        self.v = self.w = 0.0
        self.powers = [1.0, 1.0]
        self.windows: dict[str, list[tuple[Array, Array]]] = {}  # of a tensor, g and what moved

    def replay(self, records: list[Record]) -> dict[str, Array]:
        for record in records:
            self.moves, self.scale = self._support(record.step)
            left = self._passes(record) if self.estimator["shift"] == "inplace" else None
            if record.outcome not in (SKIPPED, STAYED):
                self._update(record, left)
        return self.theta

    def _support(self, step: int) -> tuple[dict[str, Array], float]:
        """({name: which of its weights move}, the support's scale)"""
        if self.mask is None:
            return {name: np.ones(len(w), bool) for name, w in self.theta.items()}, 1.0
        start = step - step % self.mask["refresh"] if self.mask["refresh"] else 0
        moves = {}
        if self.mask["name"] == "random":
            n = round(4096 * self.mask["density"])
            seed, density = key(f"{self.seed}/mask/random/{start}"), n / 4096
            for name, w in self.theta.items():
                if len(self.shape[name]) > 1:
                    moves[name] = draw(seed, key(name), len(w), 16) >> 4 < n
        else:
            chosen, density = self._blocks(step // self.mask["refresh"])
            moves = {name: np.ones(len(self.theta[name]), bool) for name in chosen}
        return moves, 1 / math.sqrt(density) if self.mask["rescale"] else 1.0

    def _blocks(self, turn: int) -> tuple[list[str], float]:
        blocks: dict[str, list[str]] = {}
        for name in self.theta:
            layer = re.match(r".*?\.\d+(?=\.)", name)
            blocks.setdefault(layer[0] if layer else name, []).append(name)
        each, count = self.mask["per_step"], len(blocks)
        if self.mask["order"] == "random":
            numbers = sorted(range(count), key=lambda i: key(f"{self.seed}/mask/blocks/{turn}/{i}"))[:each]
        else:
            numbers = [(turn * each + i) % count for i in range(each)]
        return [name for i in numbers for name in list(blocks.values())[i]], each / count

    # ---------------------------------------------------------------------------------------------------- directions

    def _z(self, seed: int, name: str) -> Array:
        n = len(self.theta[name])
        if self.estimator.get("law", "rademacher") == "rademacher":
            return np.where(draw(seed, key(name), n, 1) == 1, f(1), f(-1))
        return (quantiles(seed, key(name), n) / 4096).astype(np.float32)

    def _r(self, seed: int) -> float:
        if self.estimator.get("law", "rademacher") != "sphere":
            return self.scale
        q = np.concatenate([quantiles(seed, key(name), len(moves))[moves] for name, moves in self.moves.items()])
        return self.scale * math.sqrt(len(q) * 2**24 / int((q.astype(np.int64) ** 2).sum()))

    def _sum(self, terms: list[tuple[int, np.float32]], name: str) -> Array:
        total = None
        for seed, factor in terms:
            product = factor * self._z(seed, name)
            total = product if total is None else total + product
        assert total is not None
        return total

    def _add(self, name: str, delta: Array, noise: int | None) -> None:
        """theta + delta, rounded once; noise: the seed of a stochastic rounding."""
        before, dtype = self.theta[name], self.dtype[name]
        total = before + delta
        bits = None if noise is None else draw(noise, key(name), len(before), 16)
        after = nearest(total, dtype) if bits is None else stochastically(total, dtype, bits)
        self.theta[name] = np.where(self.moves[name], after, before)

    # ---------------------------------------------------------------------------------------- the passes of `inplace`

    def _passes(self, record: Record) -> tuple[int, np.float32] | None:
        """What an estimate wrote. Returns the term that is left to the update's own pass."""
        eps, one_sided = self.estimator["eps"], self.estimator["name"] in ("one-sided", "fzoo")
        joins = self.rule["name"] not in self.apart and self.rule["rounding"] != "split"
        for number_of, (seed, _) in enumerate(record.terms):
            r = self._r(seed)
            sides = [f(eps * r), -f(eps * r)] if one_sided else [f(eps * r), f(-2 * eps * r), f(eps * r)]
            last = number_of == len(record.terms) - 1 and record.outcome != SKIPPED
            left = (seed, sides.pop()) if not one_sided and last and joins else None
            for factor in sides:
                for name in self.moves:
                    self._add(name, self._sum([(seed, factor)], name), None)
            if left:
                return left
        return None

    # ----------------------------------------------------------------------------------------------------- the rules

    def _update(self, record: Record, left: tuple[int, np.float32] | None) -> None:
        if self.rule["name"] in DENSE:
            steps = self._dense(record, left)
        else:
            steps = self._linear(record, left)
        rounding = self.rule["rounding"]
        noise = key(f"{self.seed}/round/update/{record.step}") if rounding == "stochastic" else None
        for name, delta in steps:
            if name in self.low:
                total = pattern(self._widened(name) + delta)
                moves, weight = self.moves[name], number(total + 0x8000 & ~0xFFFF)
                self.theta[name] = np.where(moves, weight, self.theta[name])
                self.low[name] = np.where(moves, total - pattern(weight), self.low[name])
            else:
                self._add(name, delta, noise)

    def _widened(self, name: str) -> Array:
        """The weights as fp32 numbers, with `split` the whole ones."""
        return number(pattern(self.theta[name]) + self.low[name]) if name in self.low else self.theta[name]

    def _linear(self, record: Record, left: tuple[int, np.float32] | None) -> Iterator[tuple[str, Array]]:
        rate = -record.rate if record.outcome == REVERSED else record.rate
        below = self._below(record) if self.rule["name"] == "meazo" else None
        scaled = [(seed, c if self.rule["name"] == "conservative" else self._c(c, below)) for seed, c in record.terms]
        terms = [(seed, f(-rate * c * self._r(seed))) for seed, c in scaled]
        for name in self.moves:
            yield name, self._sum([left, *terms] if left else terms, name)

    def _below(self, record: Record) -> float:
        beta, mean = self.rule["beta"], sum(c for _, c in record.terms)
        self.v, self.w = beta * self.v + (1 - beta) * (mean * mean), beta * self.w + (1 - beta)
        return math.sqrt(self.v / self.w) + self.rule["zeta"]

    def _c(self, c: float, below: float | None) -> float:
        return float(f(self._scaled(c) if below is None else c / below))

    def _scaled(self, c: float) -> float:
        rule = self.rule
        if rule["scalar_sign"]:
            return float(np.sign(c))
        if rule["normalize"]:
            m = rule["memory"]
            self.v, self.w = m * self.v + (1 - m) * (c * c), m * self.w + (1 - m)
            c = c / math.sqrt(self.v / self.w)
        return c if rule["clip"] is None else max(-rule["clip"], min(rule["clip"], c))

    def _dense(self, record: Record, left: tuple[int, np.float32] | None) -> Iterator[tuple[str, Array]]:
        for name, delta in self._formulas(record):
            yield name, self._sum([left], name) + delta if left else delta

    def _formulas(self, record: Record) -> Iterator[tuple[str, Array]]:
        rule, name_of = self.rule, self.rule["name"]
        if name_of in ("adam", "adamw"):
            self.powers = [self.powers[0] * rule["beta1"], self.powers[1] * rule["beta2"]]
        terms = [(seed, f(c * self._r(seed))) for seed, c in record.terms]
        for name in self.moves:
            g = f(0) + self._sum(terms, name)
            if name_of == "sign":
                yield name, np.sign(g) * f(-record.rate)
            elif name_of == "momentum":
                m = f(rule["momentum"]) * self._state(name, "m").values + g
                yield name, m * f(-record.rate)
                self._keep(name, "m", m, record.step)
            elif name_of in ("adamezo", "seed-momentum"):
                self.windows.setdefault(name, []).append((g, self.moves[name]))
                yield name, self._rebuilt(self.windows[name][-rule["h"] :], record)
            elif name_of == "r-adazo":
                yield name, self._r_adazo(name, g, record)
            else:
                yield name, self._adam(name, g, record)

    def _rebuilt(self, window: list[tuple[Array, Array]], record: Record) -> Array:
        rule, m, v = self.rule, np.zeros_like(window[0][0]), np.zeros_like(window[0][0])
        for g, moved in window:
            if rule["name"] == "seed-momentum":
                m = np.where(moved, f(rule["momentum"]) * m + g, m)
            else:
                m = np.where(moved, f(rule["beta1"]) * m + f(1 - rule["beta1"]) * g, m)
                v = np.where(moved, f(rule["beta2"]) * v + f(1 - rule["beta2"]) * (g * g), v)
        if rule["name"] == "seed-momentum":
            return m * f(-record.rate)
        return (m * f(-record.rate)) / np.sqrt((v + f(rule["adam_eps"])).astype(np.float64)).astype(np.float32)

    def _r_adazo(self, name: str, g: Array, record: Record) -> Array:
        rule = self.rule
        m = f(rule["beta1"]) * self._state(name, "m").values + f(1 - rule["beta1"]) * g
        v = f(rule["beta2"]) * self._state(name, "v").values + f(1 - rule["beta2"]) * (m * m)
        below = np.sqrt((v + f(rule["zeta"])).astype(np.float64)).astype(np.float32)
        self._keep(name, "m", m, record.step)
        self._keep(name, "v", v, record.step)
        return (m * f(-record.rate)) / below

    def _adam(self, name: str, g: Array, record: Record) -> Array:
        rule, (one, two) = self.rule, self.powers
        rate, root = f(-record.rate / (1 - one)), f(1 / math.sqrt(1 - two))
        m = f(rule["beta1"]) * self._state(name, "m").values + f(1 - rule["beta1"]) * g
        v = f(rule["beta2"]) * self._state(name, "v").values + f(1 - rule["beta2"]) * (g * g)
        below = np.sqrt(v.astype(np.float64)).astype(np.float32)
        delta = (m * rate) / (below * root + f(rule["adam_eps"]))
        if rule["name"] == "adamw":
            delta = delta + f(-record.rate * rule["weight_decay"]) * self._widened(name)
        self._keep(name, "m", m, record.step)
        self._keep(name, "v", v, record.step)
        return delta

    def _state(self, name: str, kind: str) -> Kept:
        return self.kept.setdefault((name, kind), Kept(self.rule["state"], len(self.theta[name]), kind == "m"))

    def _keep(self, name: str, kind: str, values: Array, step: int) -> None:
        noise = draw(key(f"{self.seed}/round/{kind}/{step}"), key(name), len(values), 16)
        self._state(name, kind).write(values, self.moves[name], noise)
