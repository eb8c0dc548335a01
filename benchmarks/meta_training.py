"""What meta-training costs beside MetaICL, and what a new task costs after it: one run, interleaved.

    python -m benchmarks.meta_training [--model DIR] [--data DIR] [--setting NAME] [--rounds 3] [--json FILE] [--smoke]

`steps`: each method's step with zofo, in turns, on the same rows: every batch of every method holds them, MetaICL's
with k demonstrations before each, the channel's with input and output exchanged. Of many draws they are the one that is
nearest to an average batch in all methods' tokens. Rates are 0, so every round does the same work. A counted step is an
update, lower or upper: an upper iteration of Bilevel ZOFO has T + 1. Forwards, backward passes, tokens (no padding) and
examples are the run's own meter's; what is read twice counts twice.

`memory`: the peak of a process of its own for each method, in two steps on those rows (T = 1; the compiler of the
kernels, about 100 MiB, is in all of them), and zofo.api.memory.footprint's prediction for rows of that length, by part.

`inference`: seconds a test example, with the backbone alone: zero-shot, and behind k demonstrations that are read once
for a task (zofo's way) or with each example. The more rows a task has, the less reading once costs: here they are few.
The tiny model's 512 tokens cut most prompts, and what has lost its beginning has nothing to be read once.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks._machine import MIB, facts, interleaved, peak_over, ratio, status, summary
from benchmarks._meta import DIRECT, METHODS, PAPER, Grouped, Trained, choose, configured
from benchmarks._meta_tables import print_inference, print_memory, print_steps
from zofo.api.memory.footprint import EVALUATION
from zofo.config.json_text import dumps
from zofo.data import TaskData
from zofo.data.batch import collate
from zofo.data.tokenization import Encoded

SMOKE = {
    "rounds": 1,
    "repeats": 1,
    "inner_steps": 2,
    "train_examples": 16,
    "test_examples": 4,
    "targets": "hate_speech18",
}


def steps(methods: dict[str, Trained], ids: list[str], rounds: int) -> dict[str, Any]:
    """Seconds and costs of each method's iteration and counted step."""
    for of in methods.values():
        of.at(ids)
    timings = interleaved({name: of.step for name, of in methods.items()}, rounds, said("steps"))
    counted = {name: [s / methods[name].counted for s in seconds] for name, seconds in timings.items()}
    return {
        name: {
            "counted_steps": of.counted,
            "tokens_of_a_row": {
                "here": mean(of.rows[i].size for i in ids),
                "all": mean(e.size for e in of.rows.values()),
            },
            "seconds_an_iteration": summary(timings[name]),
            "seconds_a_step": summary(counted[name]),
            "a_step": of.cost(rounds + 1),  # the first round warms up
            **({"step / metaicl direct": ratio(counted, name, DIRECT)} if DIRECT in counted else {}),
        }
        for name, of in methods.items()
    }


def said(part: str) -> Callable[[str], None]:
    return lambda line: print(f"{part}: {line}", file=sys.stderr, flush=True)


def child(args: argparse.Namespace) -> None:
    """One method in this process: its peak, and the rows' shape; prints one line of JSON."""
    from zofo.zo import kernels

    of = Trained(args, args.child, 1)
    ids = json.loads(args.rows)
    of.at(ids)
    kernels.add(torch.zeros(1 << 17), torch.zeros(1 << 17), [(1, 0.0)], 0)
    over = peak_over(lambda: (of.step(), of.step()))  # a second one finds the moments that the first one made
    session, batch = of.session, collate([of.rows[i] for i in ids], 0)
    weights = sum(t.numel() * t.element_size() for t in session.backbone.values())
    shape = [batch.input_ids.shape[1], 1, round(batch.labels.numel() / len(batch.input_ids))]
    print(
        dumps(
            {
                "peak": status("VmHWM"),
                "over": over,
                "weights": weights,
                "shape": shape,
                "tasks": session.problem.tasks,
            }
        )
    )


def memory(args: argparse.Namespace, ids: list[str]) -> dict[str, Any]:
    """{method: measured and predicted MiB}. Measured in turns, each time in a new process."""
    by_method: dict[str, list[dict[str, Any]]] = {name: [] for name in args.only}
    more = [
        f"--{key.replace('_', '-')}={getattr(args, key)}"
        for key in ("model", "data", "setting", "shots", "batch_size", "train_examples")
    ]
    more += [] if args.threads is None else [f"--threads={args.threads}"]
    for turn in range(args.repeats):
        for name in by_method:
            child = [*more, "--child", name, "--rows", dumps(ids)]
            command = [sys.executable, "-m", "benchmarks.meta_training", *child]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{name}, memory: {done.stderr.strip()}")
            by_method[name].append(json.loads(done.stdout.splitlines()[-1]))
        said("memory")(f"process {turn + 1} of {args.repeats} of each method")
    return {
        name: {
            **{
                f"{key}_mib": {k: round(v / MIB, 1) for k, v in summary([r[key] for r in runs]).items()}
                for key in ("peak", "over")
            },
            "weights_mib": round(runs[0]["weights"] / MIB, 1),
            "predicted_mib": predicted(args, name, runs[0]),
        }
        for name, runs in by_method.items()
    }


def predicted(args: argparse.Namespace, name: str, run: dict[str, Any]) -> dict[str, Any]:
    """Tensors at the fullest moment of training, by part."""
    from zofo.api.memory.footprint import predict

    rows = Grouped(*run["shape"], tasks=tuple(run["tasks"]))
    footprint = predict(configured(args, name, 1), rows)
    peak = max((p for p in footprint.peaks if p.phase != EVALUATION), key=lambda p: p.total)
    parts = {part: round(n / MIB, 1) for part, n in peak.parts.items()}
    return {"phase": peak.phase, "tokens": run["shape"][0], **parts, "total": round(peak.total / MIB, 1)}


def inference(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds a test example of the target tasks, the same rows zero-shot and behind k demonstrations."""
    from zofo.eval import prefix_cache

    measure, tasks = prepared(args)
    least, scores = prefix_cache.LEAST, {}

    def each() -> None:
        prefix_cache.LEAST = 1 << 30
        try:
            scores["each"] = measure(args.shots)
        finally:
            prefix_cache.LEAST = least

    def once() -> None:
        scores["once"] = measure(args.shots)

    n = sum(task["rows"] for task in tasks.values())
    timings = interleaved(
        {"zero-shot": lambda: measure(0), "k, read once": once, "k, with each": each}, args.rounds, said("inference")
    )
    pairs = (("k, with each", "zero-shot"), ("k, read once", "zero-shot"), ("k, with each", "k, read once"))
    return {
        "k": args.shots,
        "examples": n,
        "tasks": tasks,
        "seconds_an_example": {name: summary([s / n for s in seconds]) for name, seconds in timings.items()},
        "ratios": {f"{top} / {below}": ratio(timings, top, below) for top, below in pairs},
        "largest difference of a score": max(abs(a - b) for a, b in zip(scores["once"], scores["each"])),
    }


def prepared(args: argparse.Namespace) -> tuple[Callable[[int], list[float]], dict[str, Any]]:
    """(measures all tasks' rows behind so many demonstrations, {task: rows and tokens}) on the plain model."""
    from zofo.api.metatest.subject import open_subject
    from zofo.data.multitask.layout import limit, make_layout
    from zofo.data.multitask.setting import find_setting, open_setting
    from zofo.eval.prefix_cache import read_start

    setting = find_setting(args.setting)
    if setting is None:
        raise SystemExit(f"--setting: {args.setting} is none; see zofo ls settings")
    subject = open_subject(args.model, None, (), 32, 0)
    layout = make_layout("default", subject.loaded.tokenizer)
    there = open_setting(setting, Path(args.data), 0, 0).target
    names = args.targets.split(",") if args.targets else list(there)[:1]
    if missing := [name for name in names if name not in there]:
        raise SystemExit(f"--targets: {', '.join(missing)} not there; known: {', '.join(there)}")
    encoded: dict[int, list[tuple[TaskData, list[Encoded]]]] = {0: [], args.shots: []}
    tasks: dict[str, Any] = {}
    for pool in (there[name] for name in names):
        shown = pool.demonstrations(args.shots, 100)
        rows = pool.test(args.test_examples, 0, without=shown)
        data = TaskData(pool.name, 1, "lm", ("task_mean",), [], [], [], (), groups={pool.name: pool.metric})
        for k in encoded:
            examples = [layout.example(row, shown[:k], group=pool.name) for row in rows]
            encoded[k].append((data, subject.encode(examples, limit(k), "zero-shot", True, pool.name)))
        tokens = {f"k={k}": mean(e.size for e in pools[-1][1]) for k, pools in encoded.items()}
        last = encoded[args.shots][-1][1]
        start = read_start(subject.scorer, last)  # what is cut at its beginning shares none
        tasks[pool.name] = {
            "rows": len(rows),
            "cut": sum(e.cut for e in last),
            "tokens_of_an_example": tokens,
            "tokens_read_once": 0 if start is None else start.length,
        }

    def measure(k: int) -> list[float]:
        evaluations = [subject.measure(pool_encoded, data, limit(k), "zero-shot") for data, pool_encoded in encoded[k]]
        return [score for evaluation in evaluations for p in evaluation.predictions for score in p.scores]

    return measure, tasks


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=".cache/quickstart/smollm2-135m-instruct")
    parser.add_argument("--data", default="../shared/data/meta", help="a directory with a folder for each task")
    parser.add_argument("--setting", default="class-to-class")
    parser.add_argument("--shots", type=int, default=4, help="k")
    parser.add_argument("--inner-steps", type=int, default=10, help="T")
    parser.add_argument("--batch-size", type=int, default=4, help="of every method")
    parser.add_argument("--train-examples", type=int, default=64, help="of each task, to choose the rows from")
    parser.add_argument("--targets", help="target tasks, by commas; the first one that is there")
    parser.add_argument("--test-examples", type=int, default=32, help="of each target task")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=1, help="processes of each method whose memory is measured")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--only", action="append", choices=METHODS, help="a method; can be given several times")
    parser.add_argument("--parts", default="steps,memory,inference")
    parser.add_argument("--smoke", action="store_true", help="seconds with a tiny model, without meaning")
    parser.add_argument("--json")
    parser.add_argument("--child", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--rows", help=argparse.SUPPRESS)
    if parser.parse_args().smoke:
        parser.set_defaults(**SMOKE)
    args = parser.parse_args()
    args.only = args.only or [name for name in METHODS if name != PAPER]
    return args


def main() -> None:
    args = parsed()
    logging.getLogger("zofo").setLevel(logging.ERROR)
    if args.child:
        child(args)
        return
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    start, parts = time.perf_counter(), args.parts.split(",")
    settings = {key: value for key, value in vars(args).items() if key not in ("json", "child", "rows")}
    table: dict[str, Any] = {"machine": facts(), "settings": settings}
    if "steps" in parts or "memory" in parts:
        methods = {name: Trained(args, name, args.inner_steps) for name in args.only}
        table["rows"] = choose(methods, args.batch_size)
        if "steps" in parts:
            table["steps"] = steps(methods, table["rows"], args.rounds)
            print_steps(table["steps"])
        del methods
        gc.collect()  # what a session holds, it holds in circles
    if "memory" in parts:
        table["memory"] = memory(args, table["rows"])
        print_memory(table["memory"])
    if "inference" in parts:
        table["inference"] = inference(args)
        print_inference(table["inference"])
    table["seconds"] = round(time.perf_counter() - start)
    print(f"{table['seconds']} s")
    if args.json:
        Path(args.json).write_text(dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
