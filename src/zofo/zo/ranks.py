"""The processes that make one run: a grid query x data x shard, over whichever process group torch has.

Scalars travel, weights stay. Each rank draws the whole batch; `query` groups take their share of an estimate's
directions, `data` places within a group their slice of the batch. A place is one process that holds all of theta, or
several, its shards, which hold it together, compute each forward together and have the same numbers: what is gathered
is what the first of them has. What becomes a coefficient is gathered
and never reduced: float64, in the order of the examples, added up by each rank itself, so that all have the same bits,
those of one process that computes the slices as micro-batches. Nothing here opens a socket or launches anything.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from zofo.errors import RunError
from zofo.zo import process_group
from zofo.zo.grid import ONE, Grid
from zofo.zo.shards import WHOLE, Shards
from zofo.zo.traffic import Traffic, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from zofo.zo.roll_call import RollCall

log = logging.getLogger("zofo")
Axis = Literal["world", "query", "data"]
Item = TypeVar("Item")


class Ranks:
    """One process of a run. Without torch.distributed it is the only one, and every exchange gives back what it got.

    rank, size: of the world. query, data, shard: the grid. A rank's place on its axes:
    rank = (query place * data + data place) * shard + shard place. The axis `world` is that of all places.
    """

    def __init__(self, grid: Grid = ONE, groups: Mapping[str, Any] | None = None, roll: RollCall | None = None) -> None:
        """groups: the process groups of the axes, on which float64 tensors of the CPU can be gathered; None: alone."""
        self.rank, self.size = process_group.place() if groups else (0, 1)
        self.grid, self.query, self.shard = grid, grid.query, grid.shard
        self.data = grid.data(self.size)
        self.wire = Wire()
        self._counters: list[dict[str, int]] = []
        self._groups, self._roll = dict(groups or {}), roll

    def add_groups(self, groups: Mapping[str, Any]) -> None:
        """Those of the axes, beside `world`."""
        self._groups |= groups

    @property
    def alone(self) -> bool:
        return self.size == 1

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which alone writes."""
        return self.rank == 0

    def count(self, axis: Axis) -> int:
        return {"world": self.query * self.data, "query": self.query, "data": self.data}[axis]

    def place(self, axis: Axis) -> int:
        place = self.rank // self.shard
        return {"world": place, "query": place // self.data, "data": place % self.data}[axis]

    @property
    def shards(self) -> Shards:
        """Those that hold theta together with this rank."""
        if self.shard == 1:
            return WHOLE
        return Shards(self.shard, self.rank % self.shard, lambda mine: self._gather_all(mine, "shard"))

    def words(self) -> str:
        """`4 ranks: 2 query x 2 data`, with what shards, where something does."""
        cut = "".join(f" x {count} {kind}" for kind, count in self.grid.cuts.items())
        return f"{self.size} rank{'s' * (self.size > 1)}: {self.query} query x {self.data} data{cut}"

    @contextmanager
    def counted(self, steps: int = 0) -> Iterator[None]:
        """Exchanges inside are those of training steps, of which so many are made here."""
        before = self.wire.all
        yield
        self.wire.of_steps, self.wire.steps = self.wire.of_steps + (self.wire.all - before), self.wire.steps + steps

    def to_dict(self) -> dict[str, Any]:
        """For run.json: the grid, this rank's exchanges and their bytes, and those of a step."""
        return {"query": self.query, "data": self.data, **self.grid.cuts, **self.wire.to_dict()}

    # Who computes what

    def cut(self, examples: int, axis: Axis = "data") -> list[slice]:
        """Each place's slice of so many examples: contiguous, of equal count but for the last ones, which may be empty.

        By count, not by tokens: another cut would pad other rows together, and change the last bits of a loss.
        """
        each = math.ceil(examples / self.count(axis))
        return [slice(min(i * each, examples), min((i + 1) * each, examples)) for i in range(self.count(axis))]

    def mine(self, examples: int, axis: Axis = "data") -> slice:
        """This rank's slice of them."""
        return self.cut(examples, axis)[self.place(axis)]

    # Exchanges

    def rows(self, mine: Sequence[Tensor], examples: Sequence[int], axis: Axis = "data") -> list[Tensor]:
        """Of several batches, in one exchange, float64 [examples, k] on the CPU: what each place has of its slice.

        mine: this rank's, [those, k] of each batch. examples: of each whole batch.
        """
        import torch

        if self.count(axis) * self.shard == 1:
            return list(mine)
        cuts = [self.cut(count, axis) for count in examples]
        most = [each[0].stop for each in cuts]
        padded = [torch.nn.functional.pad(table, (0, 0, 0, n - len(table))) for table, n in zip(mine, most)]
        places = [part.split(most) for part in self._gather(torch.cat(padded), axis)]
        return [
            torch.cat([parts[i][: cut.stop - cut.start] for parts, cut in zip(places, each)])
            for i, each in enumerate(cuts)
        ]

    def dealt(
        self,
        items: Sequence[Item],
        sizes: Sequence[int],
        compute: Callable[[Item], Sequence[float] | Tensor],
        axis: Axis = "world",
    ) -> list[Tensor]:
        """float64 [sizes[i]] of each item, in order: every place computes each so-manieth item, and all have all."""
        import torch

        count, place = self.count(axis), self.place(axis)
        made = [torch.as_tensor(compute(item), dtype=torch.float64).cpu() for item in items[place::count]]
        if count * self.shard == 1:
            return made
        flat = torch.zeros(max(sum(sizes[i::count]) for i in range(count)), dtype=torch.float64)
        if made:
            flat[: sum(sizes[place::count])] = torch.cat([each.reshape(-1) for each in made])
        parts = [
            list(each[: sum(sizes[i::count])].split(list(sizes[i::count])))
            for i, each in enumerate(self._gather(flat, axis))
        ]
        return [parts[i % count][i // count] for i in range(len(items))]

    def counts(self, counter: dict[str, int]) -> None:
        """From now on what shared directions add to this counter is added on all ranks."""
        if not self.alone and all(counter is not known for known in self._counters):
            self._counters.append(counter)

    def directions(
        self, items: Sequence[Item], compute: Callable[[Item], Sequence[float]], width: int
    ) -> list[list[float]]:
        """`dealt` of an estimate's directions to the places on the axis query; what they cost is counted everywhere."""
        if self.query == 1:
            return [list(compute(item)) for item in items]

        def counted(item: Item) -> list[float]:
            before = [counts.copy() for counts in self._counters]
            values = [*compute(item)]
            return [*values, *(counts[key] - old[key] for counts, old in zip(self._counters, before) for key in old)]

        sizes = [width + sum(map(len, self._counters))] * len(items)
        table = [each.tolist() for each in self.dealt(items, sizes, counted, "query")]
        keys = [(counts, key) for counts in self._counters for key in counts]
        for number, row in enumerate(table):
            for (counts, key), cost in zip(keys, row[width:]) if number % self.query != self.place("query") else ():
                counts[key] += int(cost)
        return [row[:width] for row in table]

    def objects(self, mine: Sequence[Any], count: int) -> list[Any]:
        """Of so many objects that JSON knows, which were dealt as in `dealt`, all in order. mine: this rank's own."""
        if self.alone:
            return list(mine)
        told = [json.loads(each) for each in self._bytes(json.dumps(list(mine)).encode())]  # NaN stays NaN
        told, places = told[:: self.shard], self.count("world")
        return [told[i % places][i // places] for i in range(count)]

    def told(self, text: str) -> list[str]:
        """What each rank says, in order."""
        return [each.decode() for each in self._bytes(text.encode())]

    def _bytes(self, mine: bytes) -> list[bytes]:
        import torch

        if self.alone:
            return [mine]
        sizes = [size for (size,) in self.table([len(mine)])]
        padded = torch.zeros(max(1, *sizes), dtype=torch.uint8)
        padded[: len(mine)] = torch.frombuffer(bytearray(mine or b"\0"), dtype=torch.uint8)[: len(mine)]
        return [part.numpy().tobytes()[:size] for part, size in zip(self._gather_all(padded, "world"), sizes)]

    def highest(self, values: Sequence[float]) -> list[float]:
        """Of each number the highest that any rank has: flags, and what must be decided together."""
        import torch

        if self.alone:
            return list(values)
        return torch.stack(self._gather_all(torch.tensor(values, dtype=torch.float64), "world")).amax(0).tolist()

    def added(self, value: float) -> float:
        """The sum of each place's number, in their order: the same bits on all."""
        import torch

        if self.alone:
            return value
        return sum(float(each) for each in self._gather(torch.tensor([value], dtype=torch.float64), "world"))

    def every(self, here: bool) -> bool:
        """Whether it is so on all ranks."""
        return not self.highest([float(not here)])[0]

    def table(self, values: Iterable[int]) -> list[tuple[int, ...]]:
        """Each rank's 64-bit integers, to compare."""
        import torch

        mine = torch.tensor(list(values), dtype=torch.int64)
        return [tuple(each.tolist()) for each in ([mine] if self.alone else self._gather_all(mine, "world"))]

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all places, in one all-reduce for each dtype. All have the same bits."""
        import torch

        if self.count("world") == 1:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            group = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in group])
            fast = torch.distributed.get_backend() != "gloo" and self.shard == 1
            on_wire = flat if fast else flat.cpu()
            self._count(on_wire, 2 * (1 - 1 / self.count("world")))
            with self._named():
                own = self._groups["world" if self.shard == 1 else "peers"]
                torch.distributed.all_reduce(on_wire, group=None if on_wire.is_cuda else own)
            parts = on_wire.to(flat.device).split([tensor.numel() for tensor in group])
            for tensor, part in zip(group, parts):
                tensor.copy_(part.view_as(tensor))

    def lead(self, act: Callable[[], Any]) -> None:
        """Rank 0 does it, the others wait until it is done. Where it fails there, all fail."""
        if self.leads:
            act()
        self.highest([0.0])

    def _gather(self, mine: Tensor, axis: Axis) -> list[Tensor]:
        """Of each place on the axis: what the first of its shards has."""
        return self._gather_all(mine, axis)[:: self.shard]

    def _gather_all(self, mine: Tensor, axis: Axis | Literal["shard"]) -> list[Tensor]:
        """Of each rank on the axis, shards and all."""
        import torch

        count = self.shard * (1 if axis == "shard" else self.count(axis))
        parts = [torch.empty_like(mine) for _ in range(count)]
        self._count(mine, count - 1)
        with self._named():
            torch.distributed.all_gather(parts, mine.contiguous(), group=self._groups[axis])
        return parts

    def _count(self, tensor: Tensor, times: float) -> None:
        size = tensor.numel() * tensor.element_size()
        self.wire.all += Traffic(1, size, round(size * times))
        if self._roll is not None:
            self._roll.exchanges = self.wire.all.exchanges

    @contextmanager
    def _named(self) -> Iterator[None]:
        """A rank that does not come to an exchange is named, on every other one."""
        try:
            yield
        except RuntimeError as error:
            gone = self._roll.missing() if self._roll is not None else None
            if isinstance(gone, KeyboardInterrupt):  # of which nobody says the words
                log.warning("%s", gone)
            raise gone or RunError(f"rank {self.rank}: another rank is gone ({error})") from error

    @contextmanager
    def together(self) -> Iterator[None]:
        """A run: what ends this rank is told to the others, which wait for it in an exchange."""
        try:
            yield
        except BaseException as error:
            if self._roll is not None:
                self._roll.failed(error)
            raise
        finally:
            if self._roll is not None:
                self._roll.end()
            process_group.close(self._groups)  # which ends the others' waiting


ALONE = Ranks()
