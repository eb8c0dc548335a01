"""A step of zofo beside its limit and its rivals: one process, interleaved, medians of each round's ratio.

    python -m benchmarks.step --model DIR --data DIR_OR_FILE [--sizes 4x32,4x64,16x64,8x256] [--rounds 5] [--json FILE]

A size is examples x tokens, cut from real text of the task, two options behind each row. In fp32:

limit         two forwards without a shift, logits only where a label is
mezo          zofo's MeZO step (layer mode, signs)
mezo paper    MeZO's arithmetic: four passes of torch.normal in place, around the same two forwards
fo            zofo's FO-PEFT step, LoRA
trainer       transformers.Trainer + PEFT on the same examples, logits at every position
bilevel       zofo's upper step: T FO steps of s, the estimate of G, p's gradient and both updates
  fo x T, mixed x 2, grad p     its parts, each alone, without a shift
authors       the preset `authors` with the same T, in fp32

`pass` times one pass over theta beside an in-place scale and torch.normal's; `scoring` real examples against one
forward for each option; `epoch` FO steps on real batches of their own lengths against the Trainer's.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Any

from benchmarks._machine import MIB, facts, interleaved, ratio, summary
from benchmarks._rivals import MeZOArithmetic, TrainerSteps, one_forward_per_option
from zofo.config.json_text import dumps
from zofo.data.batch import collate
from zofo.data.stream import Stream
from zofo.data.tokenization import Encoded, Row, tokenize_all
from zofo.zo.direction import Direction
from zofo.zo.grad import ZOGrad

T = 10
Variants = dict[str, Callable[[], object]]


class Bench:
    """Sessions of the methods on one model, whose streams can be set to a batch of any size."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.sessions = {
            "mezo": self._build(method={"name": "mezo"}),
            "fo": self._build(method={"name": "fo-peft"}),
            "bilevel": self._build(method={"name": "bilevel-zofo", "inner_steps": T}),
            "authors": self._build(preset="authors", method={"inner_steps": T}),
        }
        self.plain = self._build(method={"name": "zero-shot"})
        encoded = [*self.sessions["mezo"].encoded["train"], *self.plain.encoded["test"]]
        self.text = [token for e in encoded for token in e.rows[0].ids]
        self.like = encoded[0]

    def _build(self, preset: str | None = None, task: Any = None, **sections: Any) -> Any:
        from zofo.api.configure import resolve
        from zofo.train.setup import build

        task = task or ({"name": self.args.task, "data": self.args.data} if self.args.data else self.args.task)
        train = {"output_dir": "unused", "threads": self.args.threads}
        model = {"name": self.args.model, "dtype": "float32"}
        return build(resolve(preset=preset, model=model, task=task, train=train, **sections))

    def examples(self, n: int, length: int, start: int = 0) -> list[Encoded]:
        """n examples of one row each, `length` tokens of the task's texts, answered as the task's first example."""
        examples = []
        for i in range(start, start + n):
            ids = tuple(self.text[(i * length + j) % len(self.text)] for j in range(length))
            tokens = [token for _, token, _ in self.like.rows[0].labels]
            labels = tuple((length - 1, token, option) for option, token in enumerate(tokens))
            examples.append(Encoded(self.like.example, (Row(ids, labels),), (i % len(labels),), len(labels)))
        return examples

    def at(self, n: int, length: int) -> Variants:
        """The variants at one size."""
        pad = self.plain.loaded.pad_id
        batch, other = (collate(self.examples(n, length, start), pad) for start in (0, n))
        for session in self.sessions.values():
            names = session.method.streams
            session.problem.streams = {name: repeat(batch if name != "f" else other) for name in names}
            session.problem.rate = lambda rate, step: 0.0 * rate  # theta and the adapters stay: each round is the same
            session.method.setup(session.problem)
        mezo, fo, bilevel, authors = (self.sessions[name] for name in ("mezo", "fo", "bilevel", "authors"))
        paper = MeZOArithmetic(list(self.plain.backbone.params.values()), lambda: self.plain.problem.loss(batch))
        work = tempfile.mkdtemp()
        if not hasattr(self, "trainer_model"):
            self.trainer_model = self._build(method={"name": "zero-shot"}).loaded.model
        trainer = TrainerSteps(self.trainer_model, fo.loaded.tokenizer, self.examples(3 * n, length), n, work)
        self.trainer_model = trainer.model.get_base_model()
        three = [(other, "p"), (batch, "p"), (batch, "s")]

        def grad_p() -> None:
            with bilevel.problem.adapters.active("p"):
                bilevel.problem.loss.backward(other)
                bilevel.problem.loss.backward(batch, scale=10.0)
            bilevel.method.opt_p.drop()

        def fo_steps() -> None:
            for _ in range(T):
                fo.method.step(0)

        return {
            "limit": lambda: [self.plain.problem.loss(batch) for _ in range(2)],
            "mezo": lambda: mezo.method.step(0),
            "mezo paper": paper.step,
            "fo": lambda: fo.method.step(0),
            "trainer": TrainerClock(trainer),
            "fo x T": fo_steps,
            "mixed x 2": lambda: [bilevel.problem.loss.each(three) for _ in range(2)],
            "grad p": grad_p,
            "bilevel": lambda: bilevel.method.step(0),
            "authors": lambda: authors.method.step(0),
        }


class TrainerClock:
    """A variant that tells its own seconds: steps of the Trainer, its start left out."""

    clocked = True

    def __init__(self, trainer: TrainerSteps, steps: int = 2) -> None:
        self.trainer, self.steps = trainer, steps

    def __call__(self) -> float:
        return self.trainer.timed(self.steps)() / self.steps


def passes(bench: Bench, rounds: int) -> dict[str, Any]:
    """One pass over all of theta: ours in place, an in-place scale, MeZO's."""
    theta = bench.plain.backbone
    params = list(theta.params.values())
    g = ZOGrad(((1.0, Direction(7)),), 0.0, 0)
    paper = MeZOArithmetic(params, lambda: 0.0)

    def scale() -> None:
        for param in params:
            param.mul_(1.0)

    timings = interleaved(
        {"ours": lambda: theta.add_(g, 0.0, None), "scale": scale, "mezo": lambda: paper.move(0.0)}, rounds
    )
    return {
        "weights": theta.size,
        "seconds": {name: summary(s) for name, s in timings.items()},
        "ours / in-place scale": ratio(timings, "ours", "scale"),
        "mezo / ours": ratio(timings, "mezo", "ours"),
    }


def scoring(bench: Bench, rounds: int, n: int = 32) -> dict[str, Any]:
    """Examples a second of an evaluation against one forward for each option: the task's, and --score-task's."""
    by_task = {bench.args.task: _score(bench.plain, rounds, n)}
    if bench.args.score_task:
        task = {"name": bench.args.score_task, "data": bench.args.score_data, "train_examples": 64, "dev_examples": 64}
        by_task[bench.args.score_task] = _score(bench._build(task=task, method={"name": "zero-shot"}), rounds, n)
    return by_task


def _score(session: Any, rounds: int, n: int) -> dict[str, Any]:
    from zofo.eval.likelihood import evaluate

    encoded = session.encoded["test"][:n]
    plain = _plain(session)[:n]
    timings = interleaved(
        {
            "ours": lambda: evaluate(session.problem.loss, encoded, session.data.metric, 32),
            "each": lambda: one_forward_per_option(session.loaded.model, plain),
        },
        rounds,
    )
    seconds = {name: summary(values) for name, values in timings.items()}
    return {"examples": len(encoded), "seconds": seconds, "each / ours": ratio(timings, "each", "ours")}


def _plain(session: Any) -> list[Encoded]:
    """The test examples with a row for each option's context, as before prompts are shared."""
    data = session.data
    return tokenize_all(session.loaded.tokenizer, data.test, None, data.objective, data.ends, for_eval=True)


def epoch(bench: Bench, rounds: int, size: int = 8, steps: int = 16) -> dict[str, Any]:
    """FO steps on real batches: zofo's stream against the Trainer's sampler, the same examples."""
    fo = bench.sessions["fo"]
    encoded = fo.streams["train"].encoded[: size * steps]
    pad = fo.loaded.pad_id
    stream = Stream(encoded, size, pad, 0, "train", fo.config.train.group_by_length)
    fo.problem.streams = {"train": stream}
    fo.problem.rate = lambda rate, step: 0.0
    fo.method.setup(fo.problem)
    model = bench._build(method={"name": "zero-shot"}).loaded.model
    trainer = TrainerSteps(model, fo.loaded.tokenizer, encoded, size, tempfile.mkdtemp())

    def ours() -> None:
        for k in range(steps):
            fo.method.step(k)

    timings = interleaved({"ours": ours, "trainer": TrainerClock(trainer, steps)}, rounds)
    per_step = [s * steps for s in timings["trainer"]]
    return {
        "batch_size": size,
        "steps": steps,
        "seconds": {"ours": summary(timings["ours"]), "trainer": summary(per_step)},
        "trainer / ours": summary([t / o for t, o in zip(per_step, timings["ours"])]),
    }


RATIOS = {
    "mezo / limit": ("mezo", "limit"),
    "mezo paper / mezo": ("mezo paper", "mezo"),
    "bilevel / parts": ("bilevel", "fo x T", "mixed x 2", "grad p"),
    "trainer / fo": ("trainer", "fo"),
    "authors / bilevel": ("authors", "bilevel"),
    "fo / two forwards": ("fo", "limit"),
}


def sizes(bench: Bench, args: argparse.Namespace) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for size in args.sizes.split(","):
        n, length = map(int, size.split("x"))
        variants = bench.at(n, length)
        if args.only:
            variants = {name: run for name, run in variants.items() if name in args.only.split(",")}
        if n * length > args.heavy:  # its step is like bilevel's, and the smaller sizes have it
            variants.pop("authors", None)
        rounds = min(2, args.rounds) if n * length >= args.heavy else args.rounds
        start, peaks = time.perf_counter(), dict[str, int]()
        timings = interleaved(variants, rounds, lambda line, size=size: print(f"{size}: {line}", flush=True), peaks)
        table[size] = {
            "rounds": rounds,
            "seconds": {name: summary(s) for name, s in timings.items()},
            "ratios": {name: ratio(timings, *parts) for name, parts in RATIOS.items() if set(parts) <= set(timings)},
            "peak_mib": {name: round(peaks[name] / MIB, 1) for name in variants if name in PEAKS},
        }
        print_size(size, table[size])
        print(f"{size}: {time.perf_counter() - start:.0f} s", flush=True)
        if args.json:
            save(args, table)
    return table


PEAKS = ("limit", "mezo", "mezo paper", "fo", "trainer", "bilevel", "authors")


def print_size(size: str, row: dict[str, Any]) -> None:
    print(f"\n{size} tokens, {row['rounds']} rounds    seconds: median (smallest to largest)    peak over weights")
    for name, s in row["seconds"].items():
        peak = row["peak_mib"].get(name)
        memory = "" if peak is None else f"{peak:>10.0f} MiB"
        print(f"  {name:<12}{s['median']:>9.3f}  ({s['min']:.3f} to {s['max']:.3f}){memory}")
    for name, r in row["ratios"].items():
        print(f"  {name:<20}{r['median']:>6.2f}  ({r['min']:.2f} to {r['max']:.2f})")


def save(args: argparse.Namespace, table: dict[str, Any], **rest: Any) -> None:
    args.saved = {**getattr(args, "saved", {"machine": facts()}), **rest, "sizes": table}
    Path(args.json).write_text(dumps(args.saved, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", default="movie-reviews")
    parser.add_argument("--data")
    parser.add_argument("--score-task", help="another task to score, with several contexts an example")
    parser.add_argument("--score-data")
    parser.add_argument("--sizes", default="4x32,4x64,16x64,8x256")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--heavy", type=int, default=1024, help="tokens from which 2 rounds are made")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--only", help="variants, by commas")
    parser.add_argument("--parts", default="pass,scoring,epoch,sizes")
    parser.add_argument("--json")
    args = parser.parse_args()
    logging.getLogger("zofo").setLevel(logging.ERROR)
    bench = Bench(args)
    print(dumps(facts(), indent=2))
    rest: dict[str, Any] = {}
    for name, part in (("pass", passes), ("scoring", scoring), ("epoch", epoch)):
        if name in args.parts.split(","):
            rest[name] = part(bench, args.rounds)
            print(name, dumps(rest[name], indent=2), flush=True)
            if args.json:
                save(args, {}, **rest)
    if "sizes" in args.parts.split(","):
        sizes(bench, args)


if __name__ == "__main__":
    main()
