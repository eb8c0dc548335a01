"""F(theta, p; B): from a batch to one fp32 number, normalised over the whole batch before any micro-batching."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zofo.data.batch import Batch, concat
from zofo.data.stream import FORWARD_TOKENS
from zofo.errors import NonFiniteError
from zofo.models.scorer import Scorer
from zofo.objectives._base import Objective
from zofo.zo.ranks import ALONE, Axis, Ranks

if TYPE_CHECKING:
    from zofo.models.adapters._set import AdapterSet


SHARED_TOKENS = {"cpu": 1152, "cuda": 8192}  # cuda: not measured; there a forward of few tokens is launches
EMPTY = torch.empty(0, 2, dtype=torch.float64)
LEFT_ALONE = 4  # examples from which a row's fp32 numbers on a CPU depend on the padding, not on the rows beside it


def shares(shapes: Sequence[tuple[int, ...]], device: str) -> bool:
    """Whether batches of these (rows, padded length) are faster in one forward than in one each.

    Measured (docs/log.md): a forward costs what FORWARD_TOKENS more tokens would, so sharing pays until the shorter
    batches' padding costs as much; and beyond SHARED_TOKENS the larger activations undo what is left of it.
    """
    padded = sum(rows for rows, _ in shapes) * max(length for _, length in shapes)
    extra = padded - sum(rows * length for rows, length in shapes)
    return padded <= SHARED_TOKENS.get(device, SHARED_TOKENS["cuda"]) and extra < FORWARD_TOKENS * (len(shapes) - 1)


@dataclass
class Meter:
    """What a run has cost so far: model calls, examples and tokens that went through them."""

    forwards: int = 0
    backward_passes: int = 0
    examples_seen: int = 0
    tokens: int = 0

    def state_dict(self) -> dict[str, int]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


class Loss:
    """Evaluates F on batches with the model as it stands, in micro-batches, and counts what that costs.

    A `forward` here is one pass over one batch, however many micro-batches it is cut into.
    """

    def __init__(
        self,
        scorer: Scorer,
        objective: Objective,
        adapters: AdapterSet | None = None,
        micro_batch_size: int | None = None,
        ranks: Ranks = ALONE,
        meter: Meter | None = None,
        checkpointed: bool = False,
    ) -> None:
        """micro_batch_size: the most examples that one model call is given; None: the whole batch.

        checkpointed: layers are computed again for the gradient (activation checkpointing), when nothing says any more
        which row has which adapter.
        ranks: those that compute a batch's slices; a value is of the whole batch, and the same number on each of them.
        meter: what several losses of one run count with together.
        """
        self.ranks = ranks
        self.scorer, self.objective = scorer, objective
        self.adapters, self.micro_batch_size = adapters, micro_batch_size
        self.meter, self.checkpointed = meter or Meter(), checkpointed
        ranks.counts(vars(self.meter))
        self.nonfinite = ""  # the last value that was not finite, in words; whoever asks clears it before

    def of(self, objective: Objective) -> Loss:
        """The same with another objective; both count with one meter."""
        return Loss(
            self.scorer, objective, self.adapters, self.micro_batch_size, self.ranks, self.meter, self.checkpointed
        )

    def _micro(
        self, batch: Batch, members: Sequence[str | None], one: bool = False
    ) -> list[tuple[Batch, Sequence[str | None]]]:
        """The batch's micro-batches, each with its examples' adapters.

        one: each has one adapter alone, as where adapters do not mix.
        """
        size = self.micro_batch_size or batch.examples
        starts = list(range(0, batch.examples, size))
        if one or not (self.adapters and self.adapters.mixes and self.objective.mixes):
            changes = (i for i in range(1, batch.examples) if members[i] != members[i - 1])
            starts = sorted({*starts, *changes})
        slices = [slice(i, j) for i, j in zip(starts, [*starts[1:], batch.examples])]
        return [(batch if len(slices) == 1 else batch.select(s), members[s]) for s in slices]

    @torch.no_grad()
    def first(self, parts: Sequence[tuple[Batch, str | None]]) -> float:
        """F of the first part, to the bit as `each` gives it beside the others, which are left out.

        Where all share a forward, its rows alone keep the padding of all, if that is known to give the same numbers;
        else the forward stays whole.
        """
        group = self._groups([batch for batch, _ in parts])[0]
        mine = self._tables(parts[:1])[0] if len(group) == 1 else self._beside([parts[i] for i in group])
        (value,) = self._means([mine], parts[:1])
        return value

    def _beside(self, parts: Sequence[tuple[Batch, str | None]]) -> Tensor:
        """As `_tables`, of the first of several parts that share a forward."""
        whole, members, counts = self._joined(parts)
        mine = counts[0]
        if alone := self._left_alone(members[:mine]):
            whole, members = whole.select(slice(mine), trimmed=False), members[:mine]
        self._count(*(batch for batch, _ in (parts[:1] if alone else parts)))
        return self._table(whole, members)[:mine] if mine else EMPTY

    def cuts(self, parts: Sequence[tuple[Batch, str | None]]) -> bool:
        """Whether micro-batches cut a forward that several parts share: the same example then has other neighbours and
        other padding in each, and other last bits."""
        batches, size = [batch for batch, _ in parts], self.micro_batch_size
        shared = (group for group in self._groups(batches) if len(group) > 1)
        most = [self.ranks.cut(batch.examples)[0].stop for batch in batches]
        return size is not None and any(sum(most[i] for i in group) > size for group in shared)

    def _left_alone(self, members: Sequence[str | None]) -> bool:
        """Whether examples with these adapters have the same bits without those beside them. In bf16 and fp16 mixed
        rows round elsewhere; of a GPU nothing is known."""
        dtype = next(self.scorer.model.parameters()).dtype
        alike = len(members) >= LEFT_ALONE and len(set(members)) == 1
        return alike and self.scorer.device.type == "cpu" and dtype == torch.float32

    def _count(self, *batches: Batch, backward: bool = False) -> None:
        """One pass over these batches, over all ranks."""
        self.meter.forwards += 1
        self.meter.backward_passes += backward
        self.meter.examples_seen += sum(batch.examples for batch in batches)
        self.meter.tokens += sum(batch.tokens for batch in batches)

    def _sums(self, batch: Batch, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return self.objective.sums(self.scorer, batch.to(self.scorer.device), **kwargs)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> float:
        """F of the batch with the active adapter, without gradients."""
        return self.each([(batch, None)])[0]

    @torch.no_grad()
    def each(self, parts: Sequence[tuple[Batch, str | None]]) -> list[float]:
        """F of several (batch, adapter name) parts. Parts whose adapters can sit on rows of one batch share a forward
        where that is faster, which `shares` says. None stands for the active adapter."""
        tables: dict[int, Tensor] = {}
        for group in self._groups([batch for batch, _ in parts]):
            tables |= zip(group, self._tables([parts[i] for i in group]))
        return self._means([tables[i] for i in range(len(parts))], parts)

    @torch.no_grad()
    def rows(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(sums, weights), float64 [E] on the CPU: what each example of the batch adds to F with the active adapter."""
        self._count(batch)
        sums, weights = self._each_sum(batch, self._members(batch, None))
        return sums.cpu(), weights.cpu()

    def _groups(self, batches: Sequence[Batch]) -> list[list[int]]:
        """Which parts go through one forward: all; else those on the same batch; else each alone."""
        every = list(range(len(batches)))
        if self.adapters is None or not (self.adapters.mixes and self.objective.mixes):
            return [[i] for i in every]

        def fits(group: list[int]) -> bool:
            shapes = [tuple(batches[i].input_ids.shape) for i in group]
            return shares([(math.ceil(rows / self.ranks.data), n) for rows, n in shapes], self.scorer.device.type)

        if fits(every):
            return [every]
        same: dict[int, list[int]] = {}
        for i, batch in enumerate(batches):
            same.setdefault(id(batch), []).append(i)
        return [part for group in same.values() for part in ([group] if fits(group) else [[i] for i in group])]

    def _tables(self, parts: Sequence[tuple[Batch, str | None]]) -> list[Tensor]:
        """float64 [examples of this rank, 2] of each part, on the CPU: what an example adds to F's sum and weight. All
        in one forward."""
        self._count(*(batch for batch, _ in parts))
        whole, members, counts = self._joined(parts)
        return list(self._table(whole, members).split(counts)) if members else [EMPTY for _ in parts]

    def _table(self, batch: Batch, members: Sequence[str | None]) -> Tensor:
        return torch.stack(self._each_sum(batch, members), 1).cpu()

    def _joined(self, parts: Sequence[tuple[Batch, str | None]]) -> tuple[Batch, list[str | None], list[int]]:
        """This rank's slices of several parts as one batch, the adapter of each of its examples, and how many are of
        which part. Without any the batch is a whole one, which nobody reads."""
        mine = [(self._slice(batch), name) for batch, name in parts]
        counts = [0 if batch is None else batch.examples for batch, _ in mine]
        there = [(batch, name) for batch, name in mine if batch is not None]
        members = [m for batch, name in there for m in self._members(batch, name)]
        batches = [batch for batch, _ in there] or [parts[0][0]]
        return batches[0] if len(batches) == 1 else concat(batches, self.scorer.pad_id), members, counts

    def _slice(self, batch: Batch, axis: Axis = "data") -> Batch | None:
        """This rank's slice of a batch; None where there are fewer examples than ranks, and none for it."""
        if self.ranks.count(axis) == 1:
            return batch
        mine = self.ranks.mine(batch.examples, axis)
        return None if mine.start == mine.stop else batch.select(mine)

    def _means(self, mine: Sequence[Tensor], parts: Sequence[tuple[Batch, str | None]]) -> list[float]:
        """F of each part: sums over weights of the examples of all ranks, each added up in their order."""
        tables = self.ranks.rows(mine, [batch.examples for batch, _ in parts])
        values = []
        for table, (_, name) in zip(tables, parts, strict=True):
            values.append(self._mean(*table.T.contiguous()))
            self._watch(values[-1], name)
        return values

    def _mean(self, sums: Tensor, weights: Tensor) -> float:
        return float(sums.sum() / weights.sum())

    def _members(self, batch: Batch, name: str | None) -> list[str | None]:
        """The adapter of each example. None: what is active as it is."""
        if self.adapters is None:
            return [None] * batch.examples
        groups = [e.example.group for e in batch.source] or [""] * batch.examples
        return list(self.adapters.members(name or self.adapters.current, groups))

    @contextmanager
    def _with(self, batch: Batch, members: Sequence[str | None]) -> Iterator[dict[str, Any]]:
        """Each example of the batch meets its own adapter. Yields what the model's forward is called with for it."""
        first = members[0]
        if self.adapters is None or first is None:
            yield {}
        elif len(set(members)) == 1:
            with self.adapters.active(first):
                yield {}
        else:
            with self.adapters.rows([str(members[e]) for e in batch.row_example.tolist()]) as kwargs:
                yield kwargs

    def _each_sum(self, batch: Batch, members: Sequence[str | None]) -> tuple[Tensor, Tensor]:
        """(sums, weights) [E] of the whole batch, without gradients."""
        pieces = []
        for piece, names in self._micro(batch, members):
            with self._with(piece, names) as kwargs:
                pieces.append(self._sums(piece, **kwargs))
        sums, weights = (torch.cat(parts).double() for parts in zip(*pieces))
        return sums, weights

    def backward(self, batch: Batch, scale: float = 1.0, everywhere: bool = False) -> float:
        """Add the gradient of scale * F(batch) to `.grad` of the active adapter. Returns F.

        With several ranks each adds that of its own slice, whose sum over the ranks is the gradient. everywhere: each
        computes all slices, for what is made of gradients and must be there whole. Raises NonFiniteError, on all of
        them, before the backward pass of the micro-batch that shows it.
        """
        self._count(batch, backward=True)
        weight = self._weight(batch)
        total = 0.0
        for piece, names in self._pieces(batch, everywhere):
            with self._with(piece, names) as kwargs:  # for the backward pass too, which may compute layers again
                sums, _ = self._sums(piece, **kwargs)
                part = sums.sum() / weight
                total += float(part.detach())
                if not math.isfinite(total):
                    break
                (part * scale).backward()
        if not everywhere:
            total = self.ranks.added(total)
        elif not self.ranks.every(finite := math.isfinite(total)) and finite:
            total = math.nan  # another rank's
        self._watch(total, None)
        if not math.isfinite(total):
            raise NonFiniteError(f"the loss is {total}")
        return total

    def _pieces(self, batch: Batch, everywhere: bool) -> list[tuple[Batch, Sequence[str | None]]]:
        """What this rank takes gradients of, as micro-batches."""
        slices: list[Batch | None] = [self._slice(batch, "world")]
        if everywhere and not self.ranks.alone:
            slices = [batch.select(cut) for cut in self.ranks.cut(batch.examples, "world") if cut.start < cut.stop]
        return [
            piece
            for part in slices
            if part is not None
            for piece in self._micro(part, self._members(part, None), one=self.checkpointed)
        ]

    def _watch(self, value: float, name: str | None) -> None:
        if not math.isfinite(value):
            of = name or (self.adapters.current if self.adapters is not None else None)
            self.nonfinite = f"F(theta{f', {of}' if of else ''}) was {value}"

    def _weight(self, batch: Batch) -> float:
        """The whole batch's weight depends on its labels alone, so it is known before the first micro-batch runs."""
        zeros = torch.zeros(batch.labels.numel())
        return float(self.objective(zeros, batch)[1].sum())
