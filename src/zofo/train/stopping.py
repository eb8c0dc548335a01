"""What asks a run to end: a signal, to this process or to another rank."""

from __future__ import annotations

from collections.abc import Callable

from zofo.errors import Interrupted
from zofo.train.agreement import same_records
from zofo.train.run_dir import RunDir
from zofo.train.whole import in_both, left_by_a_stop
from zofo.zo.ranks import Ranks


class Break(Exception):
    """A run is to end here, at a place where all ranks are; a resumed run goes on from it."""


class Stopping:
    """The first signal lets a round end, and saves; a second one stops at once.

    asked: the signal that came to this process. number: the one that all ranks know of, by which they end together.
    """

    def __init__(self, run: RunDir, again: str, updates: int, ranks: Ranks) -> None:
        """again: what a command that goes on has to say once more. updates: of a round."""
        self.run, self.again, self.updates, self.ranks = run, again, updates, ranks
        self.asked: int | None = None
        self.number: int | None = None

    def signalled(self, number: int, where: str, say: Callable[[str], None]) -> None:
        """A signal came to this process. where: "step 3 of 10". Raises Interrupted for the second one."""
        kept, way = left_by_a_stop(self.run, self.again)
        if self.asked:
            say(now := f"stopped at once, at {where}, with {kept}; {way}")
            raise Interrupted(now, number)
        self.asked = number
        say(
            f"interrupted: finishing this round of {self.updates} update{'s' * (self.updates != 1)}, then saving, to "
            f"{self.go_on}; again to stop at once, with {kept}"
        )

    def agree(self, crc: int, step: int, say: Callable[[str], None]) -> None:
        """Between two rounds: a signal to one rank is one to all. crc: of the updates so far, which are the same.

        Raises Break where there was one. What comes while the ranks exchange waits for the next time.
        """
        self.number = self.asked
        if not self.ranks.alone:
            with self.ranks.counted():
                self.number = same_records(self.ranks, crc, step, self.asked or 0)
            if self.number and not self.asked:
                say(f"interrupted: another rank was asked to stop; saving, to {self.go_on}")
        if self.number:
            raise Break

    @property
    def go_on(self) -> str:
        return in_both(self.run.root, self.again)
