"""What masks, estimators and rules cost a MeZO step: one process, interleaved, the median of each round's ratio.

    python -m benchmarks.zo_family --model DIR --data DIR_OR_FILE [--sizes 4x32,16x64] [--rounds 5] [--json FILE]

`mezo` is the step with a dense direction of signs and plain ZO-SGD; every other variant differs from it in what its
name says. A size is examples x tokens of real text. Rates are 0, so every step of a variant does the same work; the
peak is that of its first step over what is held before (a rule's state and SVRG's anchor count in it). Sparse MeZO's
rebuttal gives the mask 0.9 to 8 % of a step, and the thresholds 0.014 s of a 7B model's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

from benchmarks._machine import MIB, facts, interleaved, ratio, summary
from benchmarks.step import Bench
from zofo.api.configure import resolve
from zofo.config.instantiate import make_estimator, make_rule
from zofo.config.json_text import dumps
from zofo.config.registry import load
from zofo.data.batch import collate
from zofo.train.gradients import gradients as gradients_of
from zofo.zo.journalled import Journalled

VARIANTS: dict[str, list[str]] = {
    "mezo": [],
    "magnitude": ["mask.name=magnitude"],
    "random": ["mask.name=random"],
    "blocks": ["mask.name=blocks"],
    "sensitivity 1 %": ["mask.name=sensitivity", "mask.batches=1"],
    "gaussian": ["estimator.law=gaussian"],
    "one-sided": ["estimator.name=one-sided"],
    "q = 4": ["estimator.q=4"],
    "lozo": ["estimator.name=lozo"],
    "subzero": ["estimator.name=subzero"],
    "svrg": ["estimator.name=svrg", "estimator.anchor_batches=1", "estimator.refresh=1000"],
    "momentum": ["rule.name=momentum"],
    "momentum 8 bit": ["rule.name=momentum", "rule.state=8bit"],
    "sign": ["rule.name=sign"],
    "adam": ["rule.name=adam"],
    "r-adazo": ["rule.name=r-adazo"],
    "adamezo": ["rule.name=adamezo"],
    "seed-momentum": ["rule.name=seed-momentum"],
    "adam 8 bit": ["rule.name=adam", "rule.state=8bit"],
    "conservative": ["rule.name=conservative"],
    "adam, magnitude": ["rule.name=adam", "mask.name=magnitude"],
}


class Family(Bench):
    """One model with MeZO, whose parts are exchanged from one variant to the next."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.session = self._build(method={"name": "mezo"})
        encoded = self.session.encoded["train"]
        self.text, self.like = [token for e in encoded for token in e.rows[0].ids], encoded[0]

    def step(self, overrides: list[str], batch: Any) -> Callable[[], object]:
        """One step of a variant; its parts are made at the first."""
        config = resolve(None, overrides, model="x", task="sst2", method="mezo", train={"output_dir": "x"})
        problem, parts = self.session.problem, []
        method = load("methods", "mezo").Method(load("methods", "mezo").Config(lr=0.0))

        def run() -> None:
            if not parts:
                gradients = partial(gradients_of, problem.loss, problem.theta, self.session.streams)
                parts.extend(
                    (make_estimator(config, gradients), Journalled(make_rule(config), None), iter(range(10**9)))
                )
            problem.estimator, problem.rule, problem.mask = parts[0], parts[1], parts[0].mask
            problem.streams = {"train": repeat(batch)}
            method.setup(problem)
            method.step(next(parts[2]))

        return run


def thresholds(family: Family, rounds: int) -> dict[str, Any]:
    """Seconds in which Sparse MeZO's thresholds are made."""
    module, theta = load("masks", "magnitude"), family.session.problem.theta
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        module.Mask(module.Config(), 0).make(theta, 0)
        seconds.append(time.perf_counter() - start)
    return summary(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", default="movie-reviews")
    parser.add_argument("--data")
    parser.add_argument("--sizes", default="4x32,16x64")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--only", help="variants, by commas, beside mezo")
    parser.add_argument("--json")
    args = parser.parse_args()
    chosen = {n: o for n, o in VARIANTS.items() if not args.only or n == "mezo" or n in args.only.split(",")}
    family = Family(args)
    table: dict[str, Any] = {"machine": facts(), "thresholds": thresholds(family, args.rounds), "sizes": {}}
    print(f"thresholds: {table['thresholds']['median']:.3f} s")
    for size in args.sizes.split(","):
        n, length = map(int, size.split("x"))
        batch, peaks = collate(family.examples(n, length), family.session.loaded.pad_id), dict[str, int]()
        variants = {name: family.step(overrides, batch) for name, overrides in chosen.items()}
        timings = interleaved(variants, args.rounds, peaks=peaks)
        table["sizes"][size] = {
            name: {
                "seconds": summary(s),
                "of mezo": ratio(timings, name, "mezo"),
                "peak_mib": round(peaks[name] / MIB, 1),
            }
            for name, s in timings.items()
        }
        print(f"\n{size} tokens, {args.rounds} rounds: seconds, ratio to MeZO (range), peak of the first step")
        for name, row in table["sizes"][size].items():
            r, seconds = row["of mezo"], row["seconds"]["median"]
            print(
                f"  {name:<18}{seconds:>14.3f}   {r['median']:>6.3f}  ({r['min']:.3f} to {r['max']:.3f})"
                f"{row['peak_mib']:>18.0f} MiB",
                flush=True,
            )
        if args.json:
            Path(args.json).write_text(dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
