"""One move of theta: theta -> round(theta + sum_i factor_i z_i) on the weights of a support; a shift, or an update.

Where z has elementwise entries and all of a tensor moves, or a band of magnitudes, that is one pass of a kernel. What
else there is (products of thin matrices, random and stored supports, a rule's own step) is made densely for the slice
at hand and added by the same kernels, with the same rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from zofo.zo import kernels
from zofo.zo.direction import Direction
from zofo.zo.kernels.reference import Terms
from zofo.zo.keys import Address
from zofo.zo.laws import GAUSSIAN, RADEMACHER
from zofo.zo.low_rank import LowRank
from zofo.zo.low_rank_rows import Store, product, product_at
from zofo.zo.support import Band, Chance, Indices, Part, Support, inside
from zofo.zo.window import Where, Window

Planes = Mapping[str, Tensor]
RESTS = "rests"  # beside a support's parts: a tensor of which nothing moves
SLICE = 1 << 20  # elements that are made densely at a time, so that temporaries stay small
STILL = -0.0  # added to any number it leaves the bits as they are, which +0 does not do to -0


class Move:
    """terms: (seed of z_i, fp32 factor), none while nothing is moved. round_seed: None rounds to nearest.

    low: residual planes of bf16 tensors (`Point.planes`): moved themselves by an update, read by a shift.
    """

    def __init__(self, store: Store | None = None) -> None:
        """store: where the bases of low-rank laws are kept."""
        self.terms: Terms = ()
        self.law: str | LowRank = RADEMACHER
        self.support: Support | None = None
        self.round_seed: int | None = None
        self.low: Planes | None = None
        self.store: Store = {} if store is None else store

    def set(self, terms: Terms, z: Direction, round_seed: int | None, low: Planes | None = None) -> None:
        """terms: of directions with z's law and support."""
        self.terms, self.support, self.round_seed, self.low = terms, z.support, round_seed, low
        self.law = z.law if isinstance(z.law, LowRank) else z.entries

    def part(self, name: str) -> Part | str:
        """What moves of a tensor, or RESTS."""
        if not self.terms:
            return RESTS
        return None if self.support is None else self.support.parts.get(name, RESTS)

    def entries(self, shape: tuple[int, ...]) -> str | None:
        """The kernels' law of a tensor; None where its direction is a product."""
        if not isinstance(self.law, LowRank):
            return self.law
        return None if self.law.applies(shape) else GAUSSIAN

    def add(self, dst: Tensor, src: Tensor, at: Address, lo: int = 0, gauge: Tensor | None = None) -> None:
        """dst <- src moved: elements lo ... of what is here of the tensor; dst may be src.

        gauge: theta's values there, by which bands go, where src holds others (an anchor's).
        """
        low = self._residuals(at.name, lo, src.numel(), dst is src)
        if not (dst.is_contiguous() and src.is_contiguous()):
            packed = src.detach().contiguous().clone().view(-1)
            self._add_flat(packed, packed, low, at, lo, None if gauge is None else gauge.contiguous().view(-1))
            dst.copy_(packed.view(src.shape))
            return
        flat = None if gauge is None else gauge.detach().contiguous().view(-1)
        self._add_flat(dst.detach().view(-1), src.detach().view(-1), low, at, lo, flat)

    def _residuals(self, name: str, lo: int, n: int, written: bool) -> Tensor | None:
        plane = None if self.low is None else self.low.get(name)
        low = None if plane is None else plane.view(-1)[lo : lo + n]
        return low.clone() if low is not None and not written else low  # a shift leaves the planes alone

    def _add_flat(
        self, out: Tensor, given: Tensor, low: Tensor | None, at: Address, lo: int, gauge: Tensor | None
    ) -> None:
        part, law = self.part(at.name), self.entries(at.shape)
        if part is RESTS:
            _copy(out, given)
        elif law is not None and (part is None or (isinstance(part, Band) and gauge is None)):
            band = (part.least, part.most) if isinstance(part, Band) else None
            where = at.where(lo, given.numel())
            _add(out, given, low, self.terms, at.key, where, self.round_seed, law, band)
        else:
            for start in range(0, given.numel(), SLICE):  # of what is made densely, little at a time
                here = slice(start, min(start + SLICE, given.numel()))
                step = self._add_chosen if isinstance(part, Indices) else self._add_dense
                step(
                    out[here],
                    given[here],
                    None if low is None else low[here],
                    at,
                    lo + start,
                    None if gauge is None else gauge[here],
                )

    def _add_dense(
        self,
        out: Tensor,
        given: Tensor,
        low: Tensor | None,
        at: Address,
        lo: int,
        gauge: Tensor | None,
        delta: Tensor | None = None,
    ) -> None:
        delta, part = self.dense(at, lo, given.numel(), given.device) if delta is None else delta, self.part(at.name)
        where = at.where(lo, given.numel())
        if isinstance(part, (Band, Chance)):
            delta = torch.where(inside(part, given if gauge is None else gauge, at.key, where), delta, STILL)
        add_step(out, given, low, delta, at.key, where, self.round_seed)

    def _add_chosen(
        self, out: Tensor, given: Tensor, low: Tensor | None, at: Address, lo: int, _: Tensor | None
    ) -> None:
        part, law = self.part(at.name), self.entries(at.shape)
        assert isinstance(part, Indices)
        first, last = chosen(part, lo, given.numel())
        here = (part.at[first:last] - lo).to(torch.int64)
        moved, plane = given[here], None if low is None else low[here]
        _copy(out, given)
        if law is not None:
            _add(moved, moved, plane, self.terms, at.key, first, self.round_seed, law, None)
        else:
            delta = self.dense_chosen(part, at, slice(first, last))
            add_step(moved, moved, plane, delta, at.key, first, self.round_seed)
        out[here] = moved
        if low is not None and plane is not None:
            low[here] = plane

    def add_rows(self, dst: Tensor, src: Tensor, rows: Tensor, at: Address, gauge: Tensor | None = None) -> None:
        """dst[i] <- src[rows[i]] moved, for a table src [V, D], rows int64 [n] and dst [n, D].

        src may be on another device than dst.
        """
        part, law = self.part(at.name), self.entries(at.shape)
        plain = gauge is None and law is not None and (self.low is None or at.name not in self.low)
        if part is RESTS:
            dst.copy_(src.detach()[rows.to(src.device)])
        elif plain and (part is None or isinstance(part, Band)):
            band = (part.least, part.most) if isinstance(part, Band) else None
            kernels.add_rows(dst, src, rows, self.terms, at.key, self.round_seed, law or GAUSSIAN, band, at.window)
        else:
            thin = law is None and not isinstance(part, Indices)
            products = self._products(at, *_in_tensor(at, rows, src), dst.device) if thin else None
            for i, row in enumerate(rows.tolist()):
                values, lo = src[row].to(dst.device), row * src.shape[1]
                here = None if gauge is None else gauge[row]
                if products is None:
                    self.add(dst[i], values, at, lo, here)
                else:  # all rows' products at once: each alone would make the thin matrices again
                    low = self._residuals(at.name, lo, len(values), False)
                    self._add_dense(dst[i], values, low, at, lo, here, products[i])

    def add_all(self, items: Iterable[tuple[Tensor, Tensor, Address]]) -> None:
        """`add` for whole tensors (dst, src, address); on CUDA in one launch per dtype where kernels do it all."""
        fused: list[kernels.Item] = []
        law = self.law if isinstance(self.law, str) else GAUSSIAN
        for dst, src, at in items:
            part = self.part(at.name)
            plain = self.entries(at.shape) is not None and (self.low is None or at.name not in self.low)
            if plain and at.window is None and (part is None or isinstance(part, Band)):
                fused.append((dst, src, at.key, None if part is None else (part.least, part.most)))
            else:
                self.add(dst, src, at)
        kernels.add_many(fused, self.terms, self.round_seed, law)

    def dense(self, at: Address, lo: int, n: int, device: torch.device) -> Tensor:
        """The sum of the terms for elements lo ... lo + n - 1 of what is here, wherever the support lies: fp32 [n],
        from +0 on."""
        total = torch.zeros(n, dtype=torch.float32, device=device)
        law, where = self.entries(at.shape), at.where(lo, n)
        if law is not None:
            kernels.add(total, total, self.terms, at.key, where, law=law)
            return total
        width = at.shape[-1]
        if isinstance(where, Window) and where.run < width:  # some columns: all the rows' products at once
            first, last = where.lo // width, (where.lo + (where.skip + n - 1) // where.run * where.pitch) // width
            columns = slice(where.lo % width, where.lo % width + where.run)
            rows = slice(first, last + 1, where.pitch // width)
            return self._products(at, rows, columns, device).reshape(-1)[where.skip : where.skip + n]
        for here, at_lo in [(slice(0, n), where)] if isinstance(where, int) else where.spans(n):
            first, last = at_lo // width, -(-(at_lo + here.stop - here.start) // width)
            made = self._products(at, slice(first, last), slice(None), device).view(-1)
            total[here] = made[at_lo - first * width : at_lo - first * width + here.stop - here.start]
        return total

    def _products(self, at: Address, rows: Tensor | slice, columns: slice, device: torch.device) -> Tensor:
        """The sum of the terms for rows of a matrix whose direction is a product: fp32 [rows, columns], from +0 on."""
        assert isinstance(self.law, LowRank)
        total: Tensor | None = None
        for seed, factor in self.terms:
            z = product(self.law, seed, at, rows, device, self.store, columns) * factor
            total = z if total is None else total + z
        assert total is not None
        return total + 0.0  # no -0

    def dense_chosen(self, part: Indices, at: Address, here: slice) -> Tensor:
        """The same for some of the weights that `part` lists, in its numbering: fp32 [here]."""
        law = self.entries(at.shape)
        if law is not None:
            total = torch.zeros(here.stop - here.start, dtype=torch.float32, device=part.at.device)
            kernels.add(total, total, self.terms, at.key, here.start, law=law)
            return total
        assert isinstance(self.law, LowRank)
        total = torch.zeros(here.stop - here.start, dtype=torch.float32, device=part.at.device)
        terms: Tensor | None = None
        for seed, factor in self.terms:
            z = product_at(self.law, seed, at, part.at[here].to(torch.int64), self.store) * factor
            terms = z if terms is None else terms + z
        return total if terms is None else total.add_(terms)


def planes_of(params: Mapping[str, Tensor], kept: Planes | None = None) -> Planes:
    """See `Point.planes`."""
    if kept is not None:
        there = all(plane.device == params[name].device for name, plane in kept.items())
        return kept if there else {name: plane.to(params[name].device) for name, plane in kept.items()}
    return {
        name: torch.zeros(param.shape, dtype=torch.int16, device=param.device)
        for name, param in params.items()
        if param.dtype == torch.bfloat16
    }


def _in_tensor(at: Address, rows: Tensor, table: Tensor) -> tuple[Tensor, slice]:
    """The rows of the tensor that these of a table are, and the columns of them that are here."""
    if at.window is None:
        return rows, slice(None)
    width, first = at.shape[-1], at.window.lo % at.shape[-1]
    return rows + at.window.lo // width, slice(first, first + table.shape[1])


def chosen(part: Indices, lo: int, n: int) -> tuple[int, int]:
    """Which of the indices lie in lo ... lo + n - 1: the numbers of the first and of the first behind the last."""
    most = torch.iinfo(part.at.dtype).max
    ends = torch.tensor([min(lo, most), min(lo + n, most)], dtype=part.at.dtype, device=part.at.device)
    first, last = torch.searchsorted(part.at, ends).tolist()
    return first if lo <= most else len(part.at), last if lo + n <= most else len(part.at)


def _copy(dst: Tensor, src: Tensor) -> None:
    if dst.data_ptr() != src.data_ptr():
        dst.copy_(src)


def _add(
    dst: Tensor,
    src: Tensor,
    low: Tensor | None,
    terms: Sequence[tuple[int, float]],
    key: int,
    lo: Where,
    round_seed: int | None,
    law: str,
    band: kernels.Band | None,
) -> None:
    if low is None:
        kernels.add(dst, src, terms, key, lo, round_seed, law, band)
        return
    _copy(dst, src)
    kernels.add_split(dst, low, terms, key, lo, law, band)


def add_step(
    dst: Tensor, src: Tensor, low: Tensor | None, delta: Tensor, key: int, lo: Where, round_seed: int | None
) -> None:
    """dst <- round(src + delta), or the planes (dst, low) moved, for contiguous 1-D tensors; delta fp32."""
    if low is None:
        kernels.add_dense(dst, src, delta, key, lo, round_seed)
        return
    _copy(dst, src)
    kernels.add_dense_split(dst, low, delta)
