"""Every way a module may read a weight meets the shifted one; what cannot be reached is refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.tiny_models import build, logits, replaced
from zofo.zo import shift
from zofo.zo.direction import Direction
from zofo.zo.point import Point, UnshiftableError

EPS, Z = 2e-2, Direction(0xFEDCBA9876543210)

# --------------------------------------------------------------------------------------------- large weights, lookups


def test_large_linear_in_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slabs change which rows one matrix product computes, so only the last bits may differ."""
    model = build("opt")
    expected = logits(replaced(model, Z, EPS))
    point, sizes = Point(model), []
    slab = shift.Shifted.slab

    def counting(self: shift.Shifted, start: int, stop: int) -> Tensor:
        out = slab(self, start, stop)
        sizes.append(out.numel())
        whole = self.values()
        assert torch.equal(out, whole[start:stop])
        return out

    monkeypatch.setitem(shift.SLAB, "cpu", 300)
    monkeypatch.setattr(shift.Shifted, "slab", counting)
    with point.shifted(Z, EPS):
        shifted = logits(model)
    assert max(sizes) <= 300
    torch.testing.assert_close(shifted, expected, rtol=1e-4, atol=1e-5)


def test_an_embedding_shifts_only_the_rows_it_reads() -> None:
    table = nn.Embedding(50_000, 8)
    point = Point(table)
    ids = torch.tensor([[3, 49_999, 3], [0, 7, 7]])
    expected = replaced(table, Z, EPS)(ids)
    with point.shifted(Z, EPS):
        assert torch.equal(table(ids), expected)
    assert point.scratch_bytes < 50_000


class Reader(nn.Module):
    """Reads its weight by a function of the caller's choice."""

    def __init__(self, read: Callable[[Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.read = read
        self.weight = nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(2)))

    def forward(self) -> Tensor:
        return self.read(self.weight)


READERS = {
    "view": lambda w: w.view(-1) + 0,
    "transpose": lambda w: w.T @ torch.ones(6, 2),
    "slice": lambda w: w[1:3].sum(0),
    "to": lambda w: w.to(torch.float64).exp(),
    "float": lambda w: w.float() * 2,
    "data": lambda w: w.data * 2,
    "detach": lambda w: w.detach().clone(),
    "negate": lambda w: -w,
    "reflected": lambda w: 1 - w,
    "einsum": lambda w: torch.einsum("ij,ij->i", w, w),
    "cat": lambda w: torch.cat([w, w]),
    "twice": lambda w: torch.matmul(w, w.T),
    "both sides": lambda w: w + w,
    "keyword": lambda w: F.linear(torch.ones(2, 4), weight=w),
    "kept": lambda w: torch.stack([row.clone() for row in w.unbind(0)]),
    "in place on a copy": lambda w: w.clone().mul_(3),
    "unsqueezed conv": lambda w: F.conv1d(torch.ones(1, 6, 9), w.unsqueeze(1), groups=6),
    "expand": lambda w: w.expand(3, 6, 4).sum(0),
    "layer norm": lambda w: F.layer_norm(torch.arange(24.0).view(6, 4), (4,), w[0], w[1]),
    "numpy": lambda w: torch.from_numpy(w.cpu().numpy() * 2.0),
    "list": lambda w: torch.tensor(w.tolist()),
}


@pytest.mark.parametrize("name", READERS)
def test_any_way_of_reading_meets_the_shifted_weight(name: str) -> None:
    module = Reader(READERS[name], 6, 4)
    point = Point(module)
    with torch.no_grad():
        expected, plain = replaced(module, Z, EPS)(), module()
    with point.shifted(Z, EPS):
        shifted = module()
    assert torch.equal(shifted, expected)
    assert not torch.equal(shifted, plain)


def test_results_outlive_the_scratch() -> None:
    """Views that one call takes from a weight must not change when the next weight is made."""
    one, two = Reader(lambda w: w.view(4, 6), 6, 4), Reader(lambda w: w.mul(1.0), 6, 4)
    model = nn.ModuleList([one, two])
    point = Point(model)
    with point.shifted(Z, EPS):
        view = one()
        before = view.clone()
        two()
        assert torch.equal(view, before)


# -------------------------------------------------------------------------------------------------- refusals and ends


class Hoarder(nn.Module):
    """Keeps a second reference to one weight in a list, where no stand-in can reach it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.spare = [self.second.weight]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.first(x), self.spare[0], self.second.bias)


def test_a_weight_read_past_its_module_is_refused_by_name() -> None:
    point = Point(module := Hoarder())
    with pytest.raises(UnshiftableError, match=r"second\.weight") as error:
        point.audit(lambda: module(torch.ones(2, 4)))
    assert "first.weight" not in str(error.value)
    assert "bias" not in str(error.value)


def test_the_audit_names_what_is_never_read() -> None:
    module = nn.ModuleDict({"used": nn.Linear(3, 3), "idle": nn.Linear(3, 3)})
    assert Point(module).audit(lambda: module["used"](torch.ones(1, 3))) == {"idle.weight", "idle.bias"}
