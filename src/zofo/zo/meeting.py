"""How the processes that a launcher started become the ranks of one run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from zofo.errors import InputError
from zofo.zo import process_group
from zofo.zo.grid import ONE, Grid
from zofo.zo.ranks import Ranks


@contextmanager
def together(grid: Grid = ONE, timeout: float = 600.0) -> Iterator[Ranks]:
    """`start`, and the end of what it made."""
    ranks = start(grid, timeout)
    with ranks.together():
        yield ranks


def start(grid: Grid = ONE, timeout: float = 600.0) -> Ranks:
    """The ranks of this process: of the process group that torch has already, or of one as the launcher's environment
    describes it; else alone. timeout: seconds after which a rank that does not come to an exchange is missing.

    Raises InputError for a grid that the processes do not make.
    """
    if not process_group.join(timeout):
        return Ranks(grid)
    if process_group.place()[1] == 1:
        return Ranks(grid, {"world": None})
    from zofo.zo.roll_call import RollCall

    groups, roll = {"world": process_group.world(timeout)}, RollCall(timeout)
    table = Ranks(ONE, groups, roll).table(grid.sizes.values())  # from here on each has been seen
    try:
        for number, name in enumerate(grid.sizes):
            if len({row[number] for row in table}) > 1:  # they would wait for each other in making the grid
                each = ", ".join(f"rank {rank}: {row[number]}" for rank, row in enumerate(table))
                raise InputError(f"the ranks start with different parallel.{name}: {each}; give all of them the same")
        ranks = Ranks(grid, groups, roll)
        ranks.add_groups(process_group.lines(grid.query, grid.shard, timeout))
    except BaseException:
        roll.end()
        raise
    return ranks
