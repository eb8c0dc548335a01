"""Products of thin matrices: by hand in float64, their rank and moments, any slice of them, bases, memory."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.float64_directions import (
    DTYPES,
    basis_by_hand,
    dense,
    gram_schmidt_by_hand,
    moved_by,
    random_tree,
    read,
    snapshot,
    whole,
)
from tests.tiny_models import IDS, build, logits
from zofo.zo import shift
from zofo.zo.direction import Direction
from zofo.zo.estimators import lozo, subzero
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.keys import derive
from zofo.zo.low_rank import LowRank, bytes_kept
from zofo.zo.low_rank_rows import orthonormal, product
from zofo.zo.move import Move
from zofo.zo.point import Point
from zofo.zo.rules import adam
from zofo.zo.support import Band, Chance, Indices, Support

SHAPES: dict[str, Any] = {"q": (30, 40), "k": (7, 11), "conv": (5, 3, 9), "thin": (2, 50), "norm": (50,)}
LAWS = [LowRank("lozo", 2, 7), LowRank("lozo", 5, 8), LowRank("subzero", 2, 7), LowRank("subzero", 5, 8)]


def entries(theta: Point, law: LowRank, seed: int = 5) -> dict[str, Tensor]:
    """z of every tensor, whole, as the code makes it."""
    move = Move(theta.bases)
    move.set([(seed, 1.0)], Direction(seed, law), None)
    return {n: move.dense(theta.addresses[n], 0, t.numel(), t.device).view(t.shape) for n, t in theta.items()}


# -------------------------------------------------------------------------------------------------------------- entries


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_the_rows_are_the_product_of_the_factors(law: LowRank) -> None:
    """The product is exact in double precision, so that one scaling and one rounding to fp32 are left: the float64
    product of the same factors by another order of sums agrees to 2^-23."""
    theta = Point(random_tree(**SHAPES))
    expected = whole(theta, Direction(5, law))
    for name, z in entries(theta, law).items():
        assert z.dtype == torch.float32
        assert float(z.abs().max()) > 1
        torch.testing.assert_close(z.double(), expected[name], rtol=2.0**-23, atol=1e-14)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_each_matrix_has_the_rank_and_each_other_tensor_gaussian_entries(law: LowRank) -> None:
    theta = Point(random_tree(**SHAPES))
    gaussian = whole(theta, Direction(5, "gaussian"))
    for name, z in entries(theta, law).items():
        plain = name == "norm" or (name == "thin" and law.rank >= 2)
        assert torch.equal(z.double(), gaussian[name]) == plain
        if not plain:
            sizes = torch.linalg.svdvals(z.double().view(-1, z.shape[-1]))
            assert int((sizes > 1e-5 * sizes[0]).sum()) == law.rank


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_any_slice_has_the_same_bits(law: LowRank) -> None:
    """Ragged slices, single rows in any order, rows twice, an empty choice, any chosen elements."""
    theta = Point(random_tree(**SHAPES))
    z, move, device = entries(theta, law), Move(), torch.device("cpu")
    move.set([(5, 1.0)], Direction(5, law), None)
    for name in ("q", "k", "conv"):
        at, flat = theta.addresses[name], z[name].view(-1)
        for lo, n in ((0, 1), (1, 2), (9, 37), (40, 35), (flat.numel() - 3, 3), (0, flat.numel())):
            if lo + n <= flat.numel():
                assert torch.equal(move.dense(at, lo, n, device), flat[lo : lo + n])
        rows = torch.tensor([6, 0, 6, 3])
        matrix = z[name].view(-1, z[name].shape[-1])
        assert torch.equal(product(law, 5, at, rows, device, {}), matrix[rows])
        assert product(law, 5, at, rows[:0], device, {}).shape == (0, matrix.shape[1])
        where = torch.tensor([0, 4, 41, 76])
        assert torch.equal(move.dense_chosen(Indices(where), at, slice(1, 4)), flat[where[1:]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("law", [LAWS[0], LAWS[2]], ids=str)
def test_shifted_logits_are_those_of_replaced_weights(
    law: LowRank, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Embedding lookups (rows), a tied head, also in slabs; modes layer and copy; two terms."""
    model = build("llama", dtype)
    g = ZOGrad(((0.7, Direction(1, law)), (-1.3, Direction(2, law))), 0, 2)
    shifted = []
    for mode in ("layer", "copy"):
        theta = Point(model, mode=mode)
        with theta.shifted(g, 2e-2, 99):
            shifted.append(logits(model))
            table = read(model, "model.embed_tokens.weight")
            assert torch.equal(model.get_input_embeddings()(IDS), table[IDS])
            with monkeypatch.context() as patch:
                patch.setattr(shift, "SLAB", {"cpu": 100, "cuda": 100})
                assert torch.equal(model.get_output_embeddings()(torch.eye(32, dtype=dtype)).T, table)
    Point(model).add_(g, 2e-2, 99)
    assert torch.equal(shifted[0], shifted[1])
    assert torch.equal(shifted[0], logits(model))
    assert not torch.equal(shifted[0], logits(build("llama", dtype)))


@pytest.mark.parametrize(
    "support",
    [
        None,
        Support({"q": Band(0.0, 0.05), "k": Chance(3, 2000)}, 2.0),
        Support({"q": Indices(torch.arange(3, 999, 7))}),
    ],
    ids=["all", "band", "indices"],
)
@pytest.mark.parametrize("law", [LAWS[0], LAWS[3]], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_update_is_the_dense_sum(dtype: torch.dtype, law: LowRank, support: Support | None) -> None:
    """theta + sum c_i z_i in float64, within fp32's roundings and one of the dtype's."""
    theta = Point(random_tree(dtype, **SHAPES))
    g = ZOGrad(tuple((c, Direction(seed, law, support)) for seed, c in ((3, 0.5), (4, -2.0), (9, 0.25))), 0, 6)
    start, where, step = snapshot(theta), moved_by(support, theta), dense(theta, g)
    theta.add_(g, -1e-2, None)
    unit = max(torch.finfo(dtype).eps, 2.0**-22)
    for name, value in theta.items():
        wanted = start[name].double() - 1e-2 * step[name]
        assert float((value.double() - wanted).abs().max()) <= unit * float(wanted.abs().max())
        assert torch.equal(value[~where[name]], start[name][~where[name]])


# -------------------------------------------------------------------------------------------------------------- moments


@pytest.mark.parametrize("law", ["lozo", "subzero"])
def test_over_all_draws_the_second_moment_is_the_identity(law: Any) -> None:
    """Means of products of entries of a 4 x 3 matrix over draws of seed and basis: within 5 standard errors."""
    theta = Point(random_tree(a=(4, 3)))
    draws = torch.stack([entries(theta, LowRank(law, 2, derive(k, "b")), derive(k, "z"))["a"] for k in range(2500)])
    z = draws.double().view(-1, 12)
    products = z[:, :, None] * z[:, None, :]
    error = products.std(0) / math.sqrt(len(z))
    assert float(((products.mean(0) - torch.eye(12)).abs() / error).max()) < 5
    assert float((z.mean(0).abs() / (z.std(0) / math.sqrt(len(z)))).max()) < 5
    assert float(error.max()) < 0.08


# ---------------------------------------------------------------------------------------------------------------- bases


@pytest.mark.parametrize(("m", "r"), [(4, 1), (30, 2), (257, 24), (1000, 3)])
def test_gram_and_schmidt_as_python_does_it(m: int, r: int) -> None:
    """Bit for bit, and orthonormal in double precision; columns that are nearly parallel too."""
    columns = torch.randn(m, r, generator=torch.Generator().manual_seed(m))
    if m == 30:
        columns[:, 1] = columns[:, 0] + 1e-6 * columns[:, 1]
    basis = orthonormal(columns)
    by_hand = gram_schmidt_by_hand(columns.double().T.tolist())
    assert torch.equal(basis.T, torch.tensor(by_hand, dtype=torch.float64))
    assert float((basis.T @ basis - torch.eye(r)).abs().max()) < 1e-13


@pytest.mark.parametrize("m", [7, 16, 40, 1000, 5000])
def test_subzeros_bases_are_orthonormal_to_their_rounding(m: int) -> None:
    """Entries are multiples of a unit of at most 2^-9 m^-1/2, so no column is off by more than half of 2^-9."""
    law = LowRank("subzero", 3, 11)
    theta = Point(nn.ParameterDict({"a": nn.Parameter(torch.zeros(m, 5))}))
    entries(theta, law)
    stored = theta.bases[(law, "a", "U")]
    unit = 2.0 ** -(9 + math.ceil(math.log2(m) / 2))
    assert unit <= 2.0**-9 / math.sqrt(m) < 4 * unit
    assert torch.equal(stored, stored.round())
    u = stored.double() * unit
    assert torch.equal(u, basis_by_hand(law, "a/U", m))
    bound = unit * math.sqrt(m) * (1 + 2.0**-9)
    assert float((u.T @ u - torch.eye(3)).abs().max()) <= bound <= 1.01 * 2.0**-9


@pytest.mark.parametrize("module", [lozo, subzero])
def test_a_refresh_changes_what_is_kept_and_only_that(module: Any) -> None:
    """Within `refresh` steps all z of a matrix share a factor: their rows (lozo), rows and columns (subzero) lie in the
    same r dimensions; after it in others."""
    estimate = module.Estimator(module.Config(rank=2, refresh=10), 3)
    theta = Point(random_tree(**SHAPES))

    def at(step: int, seed: int) -> Tensor:
        return entries(theta, estimate.law(step), seed)["q"].double()

    def rank_of(*parts: Tensor) -> int:
        sizes = torch.linalg.svdvals(torch.cat(parts))
        return int((sizes > 1e-5 * sizes[0]).sum())

    first, later, other = at(10, 1), at(19, 2), at(20, 1)
    assert not torch.equal(first, later)
    assert rank_of(first, later) == 2
    assert rank_of(first, other) == 4
    assert rank_of(first.T, later.T) == (4 if module is lozo else 2)
    assert rank_of(first.T, other.T) == (2 if module is lozo else 4)  # lozo: the same seed has the same U
    assert estimate.law(10) == estimate.law(19) == module.Estimator(module.Config(rank=2, refresh=10), 3).law(15)
    assert module.Estimator(module.Config(rank=2, refresh=10), 4).law(10) != estimate.law(10)
    if module is subzero:
        assert {key[0] for key in theta.bases} == {estimate.law(20)}  # the old one is gone


# --------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("module", [lozo, subzero])
def test_what_is_kept_is_small(module: Any) -> None:
    model = build("llama")
    theta = Point(model)
    estimate = module.Estimator(module.Config(rank=2), 3)
    estimate(lambda: float(logits(model).square().mean()), theta, 0, 5)
    nbytes = sum(t.numel() * t.element_size() for t in theta.bases.values())
    shapes = {name: tuple(t.shape) for name, t in theta.items()}
    matrices = [s for s in shapes.values() if len(s) == 2]
    assert nbytes == bytes_kept(estimate.law(0), shapes) == estimate.host_bytes(theta)
    assert nbytes == (0 if module is lozo else sum(4 * 2 * (m + n) for m, n in matrices))
    assert theta.scratch_bytes <= 4 * max(t.numel() for t in theta.values())


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that is made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in given:
                self.bytes = max(self.bytes, x.untyped_storage().nbytes())
        return out


BIG = (4096, 768)
SPARSE = Indices(torch.arange(0, math.prod(BIG), 1000, dtype=torch.int32))


@pytest.mark.parametrize("how", ["add", "adam", "copy"])
@pytest.mark.parametrize(
    ("law", "support"),
    [
        (LAWS[0], None),
        (LAWS[2], None),
        ("rademacher", Support({"a": Chance(3, 1024)})),
        ("gaussian", Support({"a": SPARSE})),
        (LAWS[2], Support({"a": Chance(3, 1024)})),
        (LAWS[0], Support({"a": SPARSE})),
    ],
    ids=["lozo", "subzero", "random", "indices", "subzero-random", "lozo-indices"],
)
def test_no_temporary_has_a_whole_tensors_size(law: Any, support: Support | None, how: str) -> None:
    """At most 8 bytes for each weight of a slice of 2^20, and of the rows that it begins and ends in."""
    theta = Point(nn.ParameterDict({"a": nn.Parameter(torch.full(BIG, 0.5, dtype=torch.bfloat16))}), mode="copy")
    g = ZOGrad(((1.0, Direction(5, law, support)),), 0, 2)
    with theta.shifted(g, 0.0):  # what stays: the copy, and subzero's bases
        pass
    rule = adam.Rule(adam.Config(state="8bit"), 3)
    rule.update_(theta, g, 0.0, 0)
    with Largest() as largest:
        if how == "add":
            theta.add_(g, float32(1e-3), 4)
        elif how == "adam":
            rule.update_(theta, g, 1e-3, 1)
        else:
            with theta.shifted(g, 1e-3):
                pass
    assert largest.bytes <= 8 * (2**20 + 2 * BIG[1])
