"""The test vectors of docs/journal.md, against the reference, the compiled kernel and Python's ints."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import ROOT
from tests.python_ints import field_by_hand, philox_by_hand
from zofo.zo.direction import Direction
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.journal import Outcome, Record
from zofo.zo.kernels import cpu, reference
from zofo.zo.keys import derive, tensor_key
from zofo.zo.laws import gaussian_table
from zofo.zo.point import Point
from zofo.zo.rules import adam, sgd

PAGE = ROOT / "docs" / "journal.md"


@pytest.fixture(scope="module")
def vectors() -> dict[str, Any]:
    return json.loads(PAGE.read_text().split("```json\n")[1].split("```")[0])


def numbers(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def tensor(text: str, dtype: torch.dtype) -> Tensor:
    """Of bit patterns."""
    half = dtype.itemsize == 2
    raw = struct.pack(f"<{len(text.split())}{'H' if half else 'I'}", *numbers(text))
    return torch.frombuffer(bytearray(raw), dtype=dtype)


def place(root: nn.Module, name: str, value: Tensor) -> nn.Module:
    """root with a parameter of that dotted name."""
    module, path = root, name.split(".")
    for part in path[:-1]:
        if not hasattr(module, part):
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    module.register_parameter(path[-1], nn.Parameter(value))
    return root


def fp32(pattern: str) -> float:
    return struct.unpack("<f", struct.pack("<I", int(pattern, 16)))[0]


def test_all_kinds_are_there(vectors: dict[str, Any]) -> None:
    assert {name: len(values) for name, values in vectors.items() if isinstance(values, list)} == {
        "philox": 3,
        "keys": 5,
        "signs": 5,
        "noise": 3,
        "rounding": 2,
        "gaussian": 5,
    }
    assert {"update", "record", "table", "sphere", "adam"} < set(vectors)


def test_philox(vectors: dict[str, Any]) -> None:
    for v in vectors["philox"]:
        c, k, out = numbers(v["counter"]), numbers(v["key"]), numbers(v["out"])
        c0, c1, c2, c3 = (torch.tensor([word]) for word in c)
        assert [int(word) for word in reference.philox((c0, c1, c2, c3), k[0] | k[1] << 32)] == out
        assert philox_by_hand(c, k) == out


def test_keys(vectors: dict[str, Any]) -> None:
    keys = {v["text"]: int(v["key"], 16) for v in vectors["keys"]}
    for text, key in keys.items():
        assert tensor_key(text) == key
    assert derive(42, "z", 17) == keys["42/z/17"]
    assert derive(42, "round/update", 17) == keys["42/round/update/17"]
    z = keys["0/z/0"]
    assert Direction(z).rounding_seed == keys[f"{z}/round/shift"]


def test_signs(vectors: dict[str, Any]) -> None:
    for v in vectors["signs"]:
        key, seed, lo = tensor_key(v["tensor"]), int(v["seed"], 16), v["first"]
        expected = [1.0 if sign == "+" else -1.0 for sign in v["z"]]
        assert reference.signs(seed, key, lo, lo + 64).tolist() == expected
        assert [2.0 * field_by_hand(seed, key, lo + i, 1) - 1 for i in range(64)] == expected
        out = torch.empty(64)
        cpu.add(out, torch.zeros(64), [(seed, 1.0)], key, lo)
        assert out.tolist() == expected


def test_noise(vectors: dict[str, Any]) -> None:
    for v in vectors["noise"]:
        key, seed, lo, bits = tensor_key(v["tensor"]), int(v["seed"], 16), v["first"], numbers(v["bits"])
        assert reference.bits(seed, key, lo, lo + 8, 16).tolist() == bits
        assert [field_by_hand(seed, key, lo + i, 16) for i in range(8)] == bits


def test_table(vectors: dict[str, Any]) -> None:
    table, v = gaussian_table(), vectors["table"]
    assert [*table[:4], *table[2046:2050], *table[-4:]] == v["first"] + v["middle"] + v["last"]
    digest = hashlib.sha256(struct.pack("<4096h", *table)).hexdigest()
    assert digest in PAGE.read_text().split("## Directions")[1]


def test_gaussian(vectors: dict[str, Any]) -> None:
    for v in vectors["gaussian"]:
        key, seed, lo, q = tensor_key(v["tensor"]), int(v["seed"], 16), v["first"], v["q"]
        assert reference.quantiles(seed, key, lo, lo + len(q)).tolist() == q
        assert [gaussian_table()[field_by_hand(seed, key, lo + i, 16) >> 4] for i in range(len(q))] == q
        out = torch.empty(len(q))
        cpu.add(out, torch.zeros(len(q)), [(seed, 1.0)], key, lo, law="gaussian")
        assert (out * 4096).tolist() == q


def test_sphere(vectors: dict[str, Any]) -> None:
    v = vectors["sphere"]
    seed, root = int(v["seed"], 16), nn.Module()
    for name, size, squares in v["tensors"]:
        q = [gaussian_table()[field_by_hand(seed, tensor_key(name), e, 16) >> 4] for e in range(size)]
        assert sum(x * x for x in q) == squares
        place(root, name, torch.zeros(size))
    point, z = Point(root), Direction(seed, "sphere")
    assert struct.pack(">d", point.stretch(z)).hex() == v["stretch"]
    assert point.terms(z, v["scale"]) == [(seed, fp32(v["factor"]))]


def test_rounding(vectors: dict[str, Any]) -> None:
    for v in vectors["rounding"]:
        dtype = getattr(torch, v["dtype"])
        x, noise = tensor(v["x"], torch.float32), torch.tensor(numbers(v["noise"]))
        assert torch.equal(reference.round_stochastically(x, dtype, noise), tensor(v["stochastic"], dtype))
        assert torch.equal(x.to(dtype), tensor(v["nearest"], dtype))


@pytest.mark.parametrize("backend", [cpu, reference])
def test_update(vectors: dict[str, Any], backend: Any) -> None:
    v = vectors["update"]
    key, rounding = tensor_key(v["tensor"]), derive(v["seed"], "round/update", v["step"])
    terms = [(int(seed, 16), float32(-v["rate"] * fp32(c))) for seed, c in v["terms"]]
    for result in v["results"]:
        dtype = getattr(torch, result["dtype"])
        theta = tensor(result["theta"], dtype)
        backend.add(theta, theta, terms, key, 0, rounding, result.get("law", "rademacher"))
        assert torch.equal(theta, tensor(result["after"], dtype))


def test_update_by_the_rule(vectors: dict[str, Any]) -> None:
    """The whole way: a parameter of that name, an estimate with two terms, the rule of a run with that seed."""
    v = vectors["update"]
    for result in v["results"]:
        dtype = getattr(torch, result["dtype"])
        point = Point(place(nn.Module(), v["tensor"], tensor(result["theta"], dtype)))
        assert list(point) == [v["tensor"]]
        law = result.get("law", "rademacher")
        g = ZOGrad(tuple((fp32(c), Direction(int(seed, 16), law)) for seed, c in v["terms"]), 0.0, 0)
        outcome = sgd.Rule(sgd.Config(), v["seed"]).update_(point, g, v["rate"], v["step"])
        assert outcome is Outcome.APPLIED
        assert torch.equal(point[v["tensor"]], tensor(result["after"], dtype))


def adam_by_hand(v: dict[str, Any], law: str, e: int, size: int) -> Iterator[tuple[float, float, float]]:
    """Element e's (m, v, delta) after each update, from the page's text with Python's doubles and one rounding each."""
    f, key, m, square, power1, power2 = float32, tensor_key(v["tensor"]), 0.0, 0.0, 1.0, 1.0
    for update in v["updates"]:
        power1, power2 = power1 * v["beta1"], power2 * v["beta2"]
        rate, root = f(-v["rate"] / (1 - power1)), f(1 / math.sqrt(1 - power2))
        total = None
        for seed, c in ((int(seed, 16), fp32(c)) for seed, c in update["terms"]):
            entries = [gaussian_table()[field_by_hand(seed, key, i, 16) >> 4] for i in range(size)]
            stretch = math.sqrt(size * 2**24 / sum(q * q for q in entries)) if law == "sphere" else 1.0
            z = 2.0 * field_by_hand(seed, key, e, 1) - 1 if law == "rademacher" else entries[e] / 4096
            term = f(f(c * stretch) * z)
            total = term if total is None else f(total + term)
        assert total is not None
        g = 0 + total
        m = f(f(f(v["beta1"]) * m) + f(f(1 - v["beta1"]) * g))
        square = f(f(f(v["beta2"]) * square) + f(f(1 - v["beta2"]) * f(g * g)))
        yield m, square, f(f(m * rate) / f(f(f(math.sqrt(square)) * root) + f(v["adam_eps"])))


def test_adam(vectors: dict[str, Any]) -> None:
    """By the rule, and element by element from the text."""
    v = vectors["adam"]
    for result in v["results"]:
        dtype, law, updates = getattr(torch, result["dtype"]), result["law"], v["updates"]
        rule = adam.Rule(adam.Config(beta1=v["beta1"], beta2=v["beta2"], adam_eps=v["adam_eps"]), v["seed"])
        start = tensor(result["theta"], dtype)
        point = Point(place(nn.Module(), v["tensor"], start.clone()))
        for update in updates:
            terms = tuple((fp32(c), Direction(int(seed, 16), law)) for seed, c in update["terms"])
            rule.update_(point, ZOGrad(terms, 0.0, 0), v["rate"], update["step"])
        hand = [list(adam_by_hand(v, law, e, len(start))) for e in range(len(start))]
        for part, held in enumerate((rule.states["m"].values, rule.states["v"].values)):
            expected = tensor(result["mv"[part]], torch.float32)
            assert torch.equal(held[v["tensor"]], expected)
            assert [steps[-1][part] for steps in hand] == expected.tolist()
        for k, update in enumerate(updates):
            delta = torch.tensor([steps[k][2] for steps in hand])
            key, rounding = tensor_key(v["tensor"]), derive(v["seed"], "round/update", update["step"])
            reference.add_dense(start, start, delta, key, 0, rounding)
        assert torch.equal(point[v["tensor"]], tensor(result["after"], dtype))
        assert torch.equal(start, tensor(result["after"], dtype))


def test_record(vectors: dict[str, Any]) -> None:
    v = vectors["record"]
    terms = tuple((int(seed, 16), fp32(c)) for seed, c in v["terms"])
    record = Record(v["step"], terms, v["rate"], Outcome(v["outcome"]))
    assert record.pack(int(v["before"], 16)).hex() == v["bytes"]
    assert Record.unpack(bytes.fromhex(v["bytes"])[4:-4]) == record
