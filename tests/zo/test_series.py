"""Many updates in one pass over each tensor: the bits of one after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.python_ints import assert_same_bits, patterns
from tests.tiny_models import build
from zofo.zo import kernels, series
from zofo.zo.direction import Direction
from zofo.zo.estimators import lozo, spsa
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.journal import Outcome, Record
from zofo.zo.keys import derive
from zofo.zo.laws import GAUSSIAN, LAWS, RADEMACHER
from zofo.zo.masks import random
from zofo.zo.point import Point
from zofo.zo.replay import replay
from zofo.zo.rules import adam, conservative, momentum, sgd
from zofo.zo.support import Band, Chance, Indices, Support

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
KEY = 0x0123456789ABCDEF
SIZES = (1, 4095, 4096, 3 * 4096 + 17, 41 * 4096 - 1)  # less than a group, whole ones, several threads' parts


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def updates(count: int, terms: int, seeded: bool) -> list[tuple[list[tuple[int, float]], int | None]]:
    """So many of 1 to `terms` terms each; their factors would be other sums in another order."""
    made = []
    for i in range(count):
        part = [(derive(7, "z", i, j), float32((-1) ** (i + j) * 0.37 ** (i % 5 + j))) for j in range(1 + i % terms)]
        made.append((part, derive(7, "round", i) if seeded else None))
    return made


def one_by_one(dst: Tensor, low: Tensor | None, many: Any, law: str, band: kernels.Band | None) -> None:
    for terms, round_seed in many:
        if low is None:
            kernels.add(dst, dst, terms, KEY, 0, round_seed, law, band)
        else:
            kernels.add_split(dst, low, terms, KEY, 0, law, band)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("law", [RADEMACHER, GAUSSIAN])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_series_has_the_bits_of_one_after_the_other(dtype: torch.dtype, law: str) -> None:
    """Of any numbers, NaN, infinities and subnormals among them; whole fours of single signs, and what is left."""
    kinds = product(SIZES, ((1, 1), (4, 1), (11, 1), (6, 3)), (True, False), (None, (0.01, 0.6)))
    for i, (size, (count, terms), seeded, band) in enumerate(kinds):
        many = updates(count, terms, seeded)
        one = patterns(size, dtype, torch.Generator().manual_seed(i))
        two = one.clone()
        one_by_one(one, None, many, law, band)
        kernels.add_series(two, None, many, KEY, law, band)
        assert_same_bits(two, one)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("law", [RADEMACHER, GAUSSIAN])
def test_a_series_of_residual_planes(law: str) -> None:
    for size, (count, terms), band in product(SIZES, ((1, 1), (11, 1), (6, 3)), (None, (0.01, 0.6))):
        high = torch.randn(size, generator=torch.Generator().manual_seed(size)).to(torch.bfloat16)
        planes = [(high.clone(), torch.zeros(size, dtype=torch.int16)) for _ in range(2)]
        many = updates(count, terms, False)
        one_by_one(*planes[0], many, law, band)
        kernels.add_series(*planes[1], many, KEY, law, band)
        for one, two in zip(*planes, strict=True):
            assert torch.equal(one.view(torch.int16), two.view(torch.int16))


def test_the_order_of_a_series_decides() -> None:
    """Single signs in fp32: backwards the sums round otherwise, so the tests above can fail."""
    one = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    two, many = one.clone(), updates(8, 1, False)
    kernels.add_series(one, None, many, KEY)
    kernels.add_series(two, None, many[::-1], KEY)
    assert not torch.equal(one, two)
    assert torch.allclose(one, two, atol=1e-5)


def test_what_the_kernels_do_not_take_goes_one_by_one() -> None:
    many = updates(5, 2, True)
    for tensor in (torch.randn(30, dtype=torch.float64), torch.randn(20, 30)[:, ::2]):
        one, two = tensor, tensor.clone()
        one_by_one(one, None, many, GAUSSIAN, None)
        kernels.add_series(two, None, many, KEY, GAUSSIAN)
        assert torch.equal(one, two)


# --------------------------------------------------------------------------------------------------------------- theta


def supports(theta: Point) -> dict[str, Support | None]:
    name = "model.layers.0.mlp.up_proj.weight"
    at = torch.arange(3, theta[name].numel(), 7, dtype=torch.int32)
    others = dict.fromkeys(theta)
    return {
        "dense": None,
        "band": Support(dict.fromkeys(theta, Band(0.005, 0.05)), 1.25),
        "chance": Support(dict.fromkeys(theta, Chance(5, 2000))),
        "indices": Support({name: Indices(at)}),
        "mixed": Support({**others, name: Band(0.0, 0.03)}),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("law", LAWS)
def test_updates_that_wait_move_theta_as_others_do(law: str, dtype: torch.dtype) -> None:
    for kind in supports(Point(build("llama", dtype))):
        digests = []
        for waits in (False, True):
            theta = Point(build("llama", dtype))
            support = supports(theta)[kind]
            with theta.waiting() if waits else contextlib.nullcontext():
                for step in range(7):
                    z = [Direction(derive(3, "z", step, j), law, support) for j in range(1 + step % 2)]
                    g = ZOGrad(tuple((float32(0.3 - step), one) for one in z), 0.0, 0)
                    theta.add_(g, -1e-2, derive(3, "round", step))
            digests.append(theta.sha256())
        assert digests[0] == digests[1], kind


def test_who_reads_theta_finds_its_updates_made() -> None:
    theta, beside = (Point(build("llama")) for _ in range(2))
    g = ZOGrad(((1.0, Direction(5)),), 0.0, 0)
    before = theta.sha256()
    beside.add_(g, 0.1, None)
    with theta.waiting():
        raw = next(iter(theta._params.values())).clone()
        theta.add_(g, 0.1, None)
        assert torch.equal(next(iter(theta._params.values())), raw)  # it waits
        assert theta.sha256() == beside.sha256() != before
        theta.add_(g, -0.1, None)
    beside.add_(g, -0.1, None)
    assert {name: param.sum() for name, param in theta._params.items()} == {
        name: param.sum() for name, param in beside._params.items()
    }


RULES = {
    "sgd": lambda: sgd.Rule(sgd.Config(), 4),
    "normalize": lambda: sgd.Rule(sgd.Config(normalize=True, clip=1.5), 4),
    "nearest": lambda: sgd.Rule(sgd.Config(rounding="nearest"), 4),
    "split": lambda: sgd.Rule(sgd.Config(rounding="split"), 4),
    "conservative": lambda: conservative.Rule(conservative.Config(), 4),
    "momentum": lambda: momentum.Rule(momentum.Config(), 4),
    "adam": lambda: adam.Rule(adam.Config(), 4),
}
ESTIMATORS = {
    "signs": lambda: spsa.Estimator(spsa.Config(), 4),
    "two": lambda: spsa.Estimator(spsa.Config(q=2, law="gaussian"), 4),
    "sphere": lambda: spsa.Estimator(spsa.Config(law="sphere"), 4),
    "inplace": lambda: spsa.Estimator(spsa.Config(shift="inplace"), 4),
    "random mask": lambda: spsa.Estimator(spsa.Config(), 4, random.Mask(random.Config(refresh=3), 4)),
    "lozo": lambda: lozo.Estimator(lozo.Config(rank=1), 4),
}


def records(count: int, q: int) -> list[Record]:
    """A journal's: now and then none was made, or (of conservative's) it was reversed or stayed."""
    outcomes = [Outcome.APPLIED] * 5 + [Outcome.SKIPPED, Outcome.REVERSED, Outcome.STAYED]
    return [
        Record(
            step,
            tuple((derive(9, "z", step, j), float32(1.5 - step % 4 + j)) for j in range(q)),
            1e-3 / (1 + step),
            outcomes[step % 8],
        )
        for step in range(count)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rule", RULES)
def test_a_replay_is_the_updates_one_after_the_other(
    rule: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every rule and estimator, more updates than wait at once, and the rule's state after it too."""
    monkeypatch.setattr(series, "WAITING", 6)
    for name, estimator in ESTIMATORS.items():
        if name == "inplace" and rule == "conservative":  # refused
            continue
        done = records(17, 2 if name == "two" else 1)
        if rule != "conservative":
            done = [r for r in done if r.outcome in (Outcome.APPLIED, Outcome.SKIPPED)]
        ends = []
        for waits in (True, False):
            theta = Point(build("llama", dtype), mode="inplace" if name == "inplace" else "layer")
            made = RULES[rule]()
            with monkeypatch.context() as patch:
                if not waits:
                    patch.setattr(Point, "waiting", lambda self: contextlib.nullcontext())
                assert replay(theta, estimator(), made, done) == len(done)
            state = made.state_dict()
            planes = {key: value.tolist() for key, value in state.pop("low", {}).items()}
            numbers = {k: v for k, v in state.items() if not isinstance(v, dict)}
            ends.append((theta.sha256(), planes, numbers))
        assert ends[0] == ends[1], name
