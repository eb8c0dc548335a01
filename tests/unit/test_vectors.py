"""The test vectors of docs/journal.md, against the reference, the compiled kernel and Python's ints."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.by_hand import field_by_hand, philox_by_hand
from zofo.rules import sgd
from zofo.zo.direction import Direction
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.journal import Outcome, Record
from zofo.zo.kernels import cpu, reference
from zofo.zo.keys import derive, tensor_key
from zofo.zo.point import Point

PAGE = Path(__file__).resolve().parents[2] / "docs" / "journal.md"


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


def fp32(pattern: str) -> float:
    return struct.unpack("<f", struct.pack("<I", int(pattern, 16)))[0]


def test_all_kinds_are_there(vectors: dict[str, Any]) -> None:
    assert {name: len(values) for name, values in vectors.items() if isinstance(values, list)} == {
        "philox": 3, "keys": 5, "signs": 5, "noise": 3, "rounding": 2,
    }  # fmt: skip
    assert {"update", "record"} < set(vectors)


def test_philox(vectors: dict[str, Any]) -> None:
    for v in vectors["philox"]:
        c, k, out = numbers(v["counter"]), numbers(v["key"]), numbers(v["out"])
        c0, c1, c2, c3 = (torch.tensor([word]) for word in c)
        assert [int(word) for word in reference.philox((c0, c1, c2, c3), k[0] | k[1] << 32)] == out
        assert philox_by_hand(c, k) == out


def test_keys(vectors: dict[str, Any]) -> None:
    found = {v["text"]: int(v["key"], 16) for v in vectors["keys"]}
    for text, key in found.items():
        assert tensor_key(text) == key
    assert derive(42, "z", 17) == found["42/z/17"]
    assert derive(42, "round/update", 17) == found["42/round/update/17"]
    z = found["0/z/0"]
    assert Direction(z).rounding_seed == found[f"{z}/round/shift"]


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
        backend.add(theta, theta, terms, key, 0, rounding)
        assert torch.equal(theta, tensor(result["after"], dtype))


def test_update_by_the_rule(vectors: dict[str, Any]) -> None:
    """The whole way: a parameter of that name, an estimate with two terms, the rule of a run with that seed."""
    v = vectors["update"]
    for result in v["results"]:
        dtype = getattr(torch, result["dtype"])
        root = nn.Module()
        root.model = nn.Module()
        root.model.norm = nn.Module()
        root.model.norm.weight = nn.Parameter(tensor(result["theta"], dtype))
        point = Point(root)
        assert list(point) == [v["tensor"]]
        g = ZOGrad(tuple((fp32(c), Direction(int(seed, 16))) for seed, c in v["terms"]), 0.0, 0)
        outcome = sgd.Rule(sgd.Config(), v["seed"]).update_(point, g, v["rate"], v["step"])
        assert outcome is Outcome.APPLIED
        assert torch.equal(point[v["tensor"]], tensor(result["after"], dtype))


def test_record(vectors: dict[str, Any]) -> None:
    v = vectors["record"]
    terms = tuple((int(seed, 16), fp32(c)) for seed, c in v["terms"])
    record = Record(v["step"], terms, v["rate"], Outcome(v["outcome"]))
    assert record.pack().hex() == v["bytes"]
    assert Record.unpack(bytes.fromhex(v["bytes"])[4:-4]) == record
