"""The grid of a run's processes: query x data x what shards theta."""

from __future__ import annotations

from dataclasses import dataclass

from zofo.errors import InputError


@dataclass(frozen=True)
class Grid:
    """query: groups that share an estimate's directions. tensor, fsdp: processes that hold one theta together."""

    query: int = 1
    tensor: int = 1
    fsdp: int = 1

    @property
    def shard(self) -> int:
        return self.tensor * self.fsdp

    @property
    def sizes(self) -> dict[str, int]:
        return {"query": self.query, "tensor": self.tensor, "fsdp": self.fsdp}

    @property
    def cuts(self) -> dict[str, int]:
        """What shards theta, of `sizes`."""
        return {name: size for name, size in self.sizes.items() if name != "query" and size > 1}

    def data(self, size: int) -> int:
        """Places on the axis data, of so many processes. Raises InputError where they do not make the grid."""
        if size % (self.query * self.shard):
            asked = [name for name, count in self.sizes.items() if count > 1]
            product = " x ".join(f"{self.sizes[name]}" for name in asked)
            fields = ", ".join(f"parallel.{name}" for name in asked)
            raise InputError(
                f"{fields}: {product} does not divide the {size} process{'es' * (size > 1)} of this run; start as many "
                f"(--nproc, torchrun), or leave {'it' if len(asked) == 1 else 'them'} at 1"
            )
        return size // (self.query * self.shard)


ONE = Grid()
