"""An evaluation behind k demonstrations: zofo reads them once; its rival reads them with each example.

    python -m benchmarks.few_shot --model DIR --task NAME [--data DIR] [--examples 32] [--rounds 3] [--json FILE]

Both are zofo's own batches of 32, in one interleaved run, with equal scores.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks._machine import facts, interleaved, ratio, summary
from zofo.config.json_text import dumps


def measure(
    model: str, task: str, data: str | None, k: int, n: int, rounds: int, threads: int | None
) -> dict[str, Any]:
    from zofo.api.configure import resolve
    from zofo.eval import prefix_cache
    from zofo.eval.likelihood import evaluate
    from zofo.train.setup import build

    settings = {"name": task, "data": data, "num_fewshot": k, "train_examples": 64, "dev_examples": 8}
    train = {"output_dir": "unused", "threads": threads}
    session = build(resolve(model={"name": model, "dtype": "float32"}, task=settings, method="zero-shot", train=train))
    encoded, loss, least = session.encoded["test"][:n], session.problem.loss, prefix_cache.LEAST
    scores = {}

    def once() -> None:
        scores["once"] = [p.scores for p in evaluate(loss, encoded, session.data.metrics, 32).predictions]

    def each() -> None:
        prefix_cache.LEAST = 1 << 30
        try:
            scores["each"] = [p.scores for p in evaluate(loss, encoded, session.data.metrics, 32).predictions]
        finally:
            prefix_cache.LEAST = least

    timings = interleaved({"once": once, "each": each}, rounds)
    furthest = max(abs(a - b) for one, other in zip(*scores.values()) for a, b in zip(one, other))
    return {
        "task": task,
        "k": k,
        "examples": len(encoded),
        "tokens": sum(e.size for e in encoded),
        "seconds": {name: summary(values) for name, values in timings.items()},
        "each / once": ratio(timings, "each", "once"),
        "largest difference of a score": furthest,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--data")
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results = measure(args.model, args.task, args.data, args.shots, args.examples, args.rounds, args.threads)
    results = {"machine": facts(), **results}
    print(dumps(results, indent=1))
    if args.json:
        args.json.write_text(dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
