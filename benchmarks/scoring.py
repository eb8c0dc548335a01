"""Options scored: zofo's evaluation beside lm-evaluation-harness's HFLM and beside plain forwards of as many tokens.

    python -m benchmarks.scoring --model DIR --data DIR [--tasks sst2,copa,boolq,piqa] [--rows 96] [--json FILE]

DIR of data has a folder of rows for each task. Per task, in one interleaved run in fp32, with equal scores:

zofo     `evaluate` with its default batch, prompts shared by their options
HFLM     (pip install "zofo[lm-eval]") sums of log-probabilities, at the fastest of the batch sizes tried
plain    forwards over as many tokens as zofo's rows have without padding, in rows of one length, with as many
         labels, at the fastest of some batch sizes: what no packing can beat by much
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from benchmarks._machine import facts, interleaved, ratio, summary
from zofo.config.json_text import dumps
from zofo.data.batch import collate
from zofo.data.tokenization import Encoded, Row

BATCHES = (4, 8, 16, 32, 64)  # of HFLM
TOKENS = (512, 1024, 2048, 4096)  # of a plain forward


def session_of(model: str, task: str, data: Path, rows: int) -> Any:
    from zofo.api.configure import resolve
    from zofo.train.setup import build

    settings = {"name": task, "data": str(data / task), "train_examples": 16, "dev_examples": 16, "test_examples": rows}
    train = {"output_dir": "unused"}
    return build(resolve(model={"name": model, "dtype": "float32"}, task=settings, method="zero-shot", train=train))


def fastest(tries: dict[int, Callable[[], object]]) -> int:
    seconds = {}
    for size, run in tries.items():
        run()
        begun = time.perf_counter()
        run()
        seconds[size] = time.perf_counter() - begun
    return min(seconds, key=lambda size: seconds[size])


def asked(encoded: Sequence[Encoded]) -> list[tuple[None, list[int], list[int]]]:
    """(-, context, continuation) of each option: HFLM's own cut takes a prompt's line break for its option."""
    requests = []
    for e in encoded:
        row_of = {option: row for row in e.rows for _, _, option in row.labels}
        for option, row in sorted(row_of.items()):
            labels = [label for label in row.labels if label[2] == option]
            first, last = labels[0][0], labels[-1][0]
            branch = max((start for start in row.branches if start <= last), default=0)
            shared = min(row.branches[0], first + 1) if row.branches else 0
            context = [*row.ids[:shared], *row.ids[branch : first + 1]]
            requests.append((None, context, [token for _, token, _ in labels]))
    return requests


class Harness:
    """HFLM's sums of log-probabilities of the options behind their prompts."""

    def __init__(self, model: str, encoded: Sequence[Encoded]) -> None:
        HFLM = import_module("lm_eval.models.huggingface").HFLM

        self.requests = asked(encoded)
        first: Any = HFLM(pretrained=model, batch_size=1, device="cpu", dtype="float32")
        lms = {n: HFLM(pretrained=first.model, tokenizer=first.tokenizer, batch_size=n, device="cpu") for n in BATCHES}
        self.batch = fastest({n: lambda lm=lm: self._scores(lm, self.requests[:64]) for n, lm in lms.items()})
        self.lm = lms[self.batch]

    def _scores(self, lm: Any, requests: Any) -> list[float]:
        return [score for score, _ in lm._loglikelihood_tokens(requests, disable_tqdm=True)]

    def __call__(self) -> list[float]:
        return self._scores(self.lm, self.requests)


class Plain:
    """Forwards over rows of one length that have as many tokens together."""

    def __init__(self, scorer: Any, encoded: Sequence[Encoded]) -> None:
        rows = [row for e in encoded for row in e.rows]
        self.scorer, total = scorer, sum(len(row.ids) for row in rows)
        self.length = round(total / len(rows))
        count = round(sum(len(row.labels) for row in rows) / len(rows))
        ids, label = [token for row in rows for token in row.ids], rows[0].labels[0][1]
        starts = range(0, total - self.length + 1, self.length)
        labels = tuple((t, label, 0) for t in range(self.length - min(count, self.length), self.length))
        self.rows = [Row(tuple(ids[i : i + self.length]), labels) for i in starts]
        self.like = encoded[0].example
        self.tokens = fastest({tokens: lambda tokens=tokens: self.forwards(tokens) for tokens in TOKENS})

    @torch.no_grad()
    def forwards(self, tokens: int) -> None:
        size = max(1, tokens // self.length)
        for start in range(0, len(self.rows), size):
            examples = [Encoded(self.like, (row,), (0,), 1) for row in self.rows[start : start + size]]
            self.scorer.logprobs(collate(examples, self.scorer.pad_id))

    def __call__(self) -> None:
        self.forwards(self.tokens)


def measure(model: str, task: str, data: Path, rows: int, rounds: int) -> dict[str, Any]:
    from zofo.eval.likelihood import evaluate

    session = session_of(model, task, data, rows)
    encoded, loss = session.encoded["test"][:rows], session.problem.loss
    size = session.config.train.eval_batch_size
    harness, plain, scores = Harness(model, encoded), Plain(loss.scorer, encoded), dict[str, list[float]]()

    def ours() -> None:
        found = evaluate(loss, encoded, session.data.metrics, size, scoring="sum").predictions
        scores["zofo"] = [score for prediction in found for score in prediction.scores]

    def theirs() -> None:
        scores["HFLM"] = harness()

    timings = interleaved({"zofo": ours, "HFLM": theirs, "plain": plain}, rounds)
    return {
        "examples": len(encoded),
        "options": sum(e.n_options for e in encoded),
        "tokens of the prompts and options": sum(len(row.ids) for e in encoded for row in e.rows),
        "HFLM's batch": harness.batch,
        "plain tokens at once": plain.tokens,
        "seconds": {name: summary(values) for name, values in timings.items()},
        "HFLM / zofo": ratio(timings, "HFLM", "zofo"),
        "zofo / plain": ratio(timings, "zofo", "plain"),
        "largest difference of a score": max(abs(a - b) for a, b in zip(scores["zofo"], scores["HFLM"], strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--tasks", default="sst2,copa,boolq,piqa")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    logging.getLogger("zofo").setLevel(logging.ERROR)
    results: dict[str, Any] = {"machine": facts()}
    for task in args.tasks.split(","):
        results[task] = measure(args.model, task, args.data, args.rows, args.rounds)
        print(task, dumps(results[task], indent=1), flush=True)
        if args.json:
            args.json.write_text(dumps(results, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
