"""`python -m tests.fuzz`: the suite's cases, or new ones for some minutes. Exit code 1 where there are faults."""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.suite import TARGETS, count, run_target, table


def _until(end: float, first: int = 0) -> Iterator[int]:
    """first, first + 1, ... until that time."""
    return itertools.takewhile(lambda number: time.monotonic() < end, itertools.count(first))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", choices=TARGETS, action="append", help="one or more; all if left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="go on beyond the suite's cases for so long, in equal parts")
    parser.add_argument("--new", action="store_true", help="only cases beyond the suite's, which are spoilt by chance")
    parser.add_argument("--number", type=int, help="this case alone, with what it shows")
    args = parser.parse_args()
    counts: dict[str, Counter[str]] = {}
    targets = args.target or TARGETS
    with tempfile.TemporaryDirectory(prefix="zofo-fuzz-") as root:
        for target in targets:
            end = time.monotonic() + 60 * (args.minutes or 0) / len(targets)
            numbers: Iterator[int] | range = (
                _until(end, count(target) if args.new else 0) if args.minutes else range(count(target))
            )
            if args.number is not None:
                numbers = range(args.number, args.number + 1)
            counts[target] = Counter()
            for number, case, verdict in run_target(Path(root), target, args.seed, numbers):
                counts[target][verdict.outcome] += 1
                if args.number is not None:
                    print(" ".join(case.args)[:2000], verdict.shown, sep="\n")
                if verdict.outcome == "fault" or args.number is not None:
                    print(
                        f"{target} {number} ({verdict.seconds:.1f} s) {case.name}: {verdict.why}".replace(root, "ROOT")
                    )
    print(table(counts))
    return int(any(by["fault"] for by in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
