"""What Bilevel ZOFO need not compute, beside computing it: one process, interleaved, medians of each round's ratio.

    python -m benchmarks.bilevel --model DIR --data DIR_OR_FILE [--sizes 4x32,4x100] [--rounds 5] [--json FILE]

upper       with p_start=s: the estimate of theta's coefficient by G's first term, and by all three; their c
dev         an evaluation of what decides where `deploy` is fixed, and of both candidates; 4 demonstrations in front
starts      what all prompts begin with, read for p and s: a forward each, and both in one mixed forward; as shares of
            the evaluation of both
"""

from __future__ import annotations

import argparse
import logging
from itertools import repeat
from pathlib import Path
from typing import Any

import torch

from benchmarks._machine import facts, interleaved, ratio, summary
from benchmarks.step import Bench
from zofo.config.json_text import dumps
from zofo.data.batch import collate
from zofo.eval.prefix_cache import LEAST, _shared


class Pair(Bench):
    """One session of Bilevel ZOFO with p restarted at s."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        task: dict[str, Any] = {"name": args.task, "num_fewshot": 4, "dev_examples": args.examples}
        if args.data:
            task["data"] = args.data
        method = {"name": "bilevel-ablations", "p_start": "s", "deploy": "s", "inner_steps": 1}
        self.session = self._build(task=task, method=method)
        self.text = [token for e in self.session.encoded["f"] for token in e.rows[0].ids]
        self.like = self.session.encoded["f"][0]

    def upper(self, n: int, length: int, rounds: int) -> dict[str, Any]:
        session = self.session
        pad = session.loaded.pad_id
        f, p = (collate(self.examples(n, length, start), pad) for start in (0, n))
        session.problem.streams = {"f": repeat(f), "p": repeat(p)}
        method = session.method
        method.setup(session.problem)
        few, all_terms = method.penalised(0), method.penalised(0)
        all_terms.__dict__["cancels"] = False
        meter = session.problem.loss.meter
        counted, c = [], []
        for G in (few, all_terms):
            before = meter.forwards, meter.tokens
            c.append(method.zeroth_order(G, 0).c)
            counted.append({"forwards": meter.forwards - before[0], "tokens": meter.tokens - before[1]})
        timings = interleaved(
            {"first": lambda: method.zeroth_order(few, 0), "all": lambda: method.zeroth_order(all_terms, 0)}, rounds
        )
        return {
            "counted": dict(zip(("first", "all"), counted)),
            "c is the same": c[0] == c[1],
            "seconds": {name: summary(values) for name, values in timings.items()},
            "all / first": ratio(timings, "all", "first"),
        }

    def dev(self, rounds: int) -> dict[str, Any]:
        session = self.session
        adapters, encoded = session.problem.adapters, session.encoded["dev"]
        start = torch.tensor([encoded[0].rows[0].ids[: _shared(encoded)]])
        model = session.problem.loss.scorer.model

        def evaluated(*names: str) -> None:
            for name in names:
                with adapters.active(name):
                    session.evaluator(encoded, None, False)

        @torch.no_grad()
        def apart() -> None:
            for name in ("s", "p"):
                with adapters.active(name):
                    model.get_base_model().model(input_ids=start)

        @torch.no_grad()
        def mixed() -> None:
            with adapters.rows(["s", "p"]) as kwargs:
                model(input_ids=start.expand(2, -1), logits_to_keep=1, **kwargs)

        timings = interleaved(
            {"both": lambda: evaluated("s", "p"), "one": lambda: evaluated("s"), "apart": apart, "mixed": mixed}, rounds
        )
        return {
            "examples": len(encoded),
            "tokens of the start": start.shape[1],
            "read once": start.shape[1] >= LEAST,
            "seconds": {name: summary(values) for name, values in timings.items()},
            "both / one": ratio(timings, "both", "one"),
            "starts apart / mixed": ratio(timings, "apart", "mixed"),
            "starts apart / both": ratio(timings, "apart", "both"),
            "starts mixed / both": ratio(timings, "mixed", "both"),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", default="movie-reviews")
    parser.add_argument("--data")
    parser.add_argument("--sizes", default="4x32,4x100")
    parser.add_argument("--examples", type=int, default=64, help="dev examples")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json")
    args = parser.parse_args()
    logging.getLogger("zofo").setLevel(logging.ERROR)
    pair = Pair(args)
    found: dict[str, Any] = {"machine": facts(), "upper": {}}
    for size in args.sizes.split(","):
        n, length = map(int, size.split("x"))
        found["upper"][size] = pair.upper(n, length, args.rounds)
        print(size, dumps(found["upper"][size], indent=2), flush=True)
        save(args, found)
    found["dev"] = pair.dev(args.rounds)
    print(dumps(found["dev"], indent=2))
    save(args, found)


def save(args: argparse.Namespace, found: dict[str, Any]) -> None:
    if args.json:
        Path(args.json).write_text(dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
