"""N shifted copies of a model in one batched forward, beside N forwards (FZOO, arXiv 2506.09034, its second part).

    python -m benchmarks.batched_copies --model DIR --task NAME [--data DIR_OR_FILE] [--n 8] [--sizes 1x32,4x32,16x64]
        [--rounds 5] [--threads 1] [--json FILE]

A size is examples x tokens. In fp32, with signs, each the losses at theta + eps u_i of N directions:

in turn           N forwards, as `one-sided` and `fzoo` make them
one, weights      one forward of all rows; each linear layer makes the copies' weights in turn, each for its rows
one, signs        the same, but x W' of all rows is one product, and eps x_i U_i' is added for each copy (FZOO's way)
plain             N forwards without a shift
plain, one        one forward of all rows without a shift

The two of one forward leave embeddings' rows and norms unshifted, which `in turn` does not: it errs on their side.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks._machine import facts, interleaved, ratio, summary
from benchmarks.step import Bench
from zofo.config.json_text import dumps
from zofo.data.batch import collate
from zofo.zo import kernels
from zofo.zo.direction import Direction
from zofo.zo.keys import derive, tensor_key

EPS, SLAB = 1e-3, 1 << 20
Terms = list[tuple[int, float]]


class Copies(Bench):
    """One model, whose linear layers can compute N copies of themselves."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.seeds = args, [derive(7, "copy", i) for i in range(args.n)]
        self.session = self._build(method={"name": "mezo"})
        encoded = self.session.encoded["train"]
        self.text, self.like = [token for e in encoded for token in e.rows[0].ids], encoded[0]
        self.scratch = torch.empty(2 * SLAB)

    def slabs(self, linear: nn.Linear, key: int, terms: Terms, bare: bool) -> Iterator[tuple[slice, Tensor]]:
        """(rows, the weight's rows with the terms added, or with `bare` the terms alone)"""
        weight, width = linear.weight.detach(), linear.in_features
        rows = max(1, SLAB // width)
        for lo in range(0, weight.shape[0], rows):
            here = slice(lo, min(lo + rows, weight.shape[0]))
            made = self.scratch[: (here.stop - lo) * width]
            source = made.zero_() if bare else weight[here].reshape(-1)
            kernels.add(made, source, terms, key, lo * width)
            yield here, made.view(-1, width)

    def weights(self, linear: nn.Linear, key: int, x: Tensor) -> Tensor:
        out = x.new_empty(*x.shape[:-1], linear.out_features)
        for seed, rows, result in zip(self.seeds, x.chunk(self.args.n), out.chunk(self.args.n)):
            for here, made in self.slabs(linear, key, [(seed, EPS)], bare=False):
                result[..., here] = F.linear(rows, made)
        return out if linear.bias is None else out + linear.bias

    def signs(self, linear: nn.Linear, key: int, x: Tensor) -> Tensor:
        out = F.linear(x, linear.weight, linear.bias)
        for seed, rows, result in zip(self.seeds, x.chunk(self.args.n), out.chunk(self.args.n)):
            for here, made in self.slabs(linear, key, [(seed, 1.0)], bare=True):
                result[..., here] += EPS * F.linear(rows, made)
        return out

    @contextmanager
    def patched(self, way: Callable[..., Tensor]) -> Iterator[None]:
        layers = {n: m for n, m in self.session.loaded.model.named_modules() if isinstance(m, nn.Linear)}
        for name, linear in layers.items():
            linear.forward = partial(way, linear, tensor_key(f"{name}.weight"))
        try:
            yield
        finally:
            for linear in layers.values():
                del linear.forward

    def check(self) -> None:
        """Both ways are x (W + eps U_i)' on each copy's rows."""
        linear = next(m for m in self.session.loaded.model.modules() if isinstance(m, nn.Linear))
        x = torch.randn(self.args.n * 2, 3, linear.in_features, generator=torch.Generator().manual_seed(0))
        one, two = (way(linear, 5, x) for way in (self.weights, self.signs))
        assert float((one - two).abs().max()) < 1e-4 * float(one.abs().max()), "the two ways differ"

    def at(self, n: int, length: int) -> dict[str, Callable[[], object]]:
        loss, theta = self.session.problem.loss, self.session.problem.theta
        examples, pad = self.examples(n, length), self.session.loaded.pad_id
        few, many = collate(examples, pad), collate(examples * self.args.n, pad)

        def in_turn() -> None:
            for seed in self.seeds:
                with theta.shifted(Direction(seed), EPS):
                    loss(few)

        def batched(way: Callable[..., Tensor]) -> None:
            with self.patched(way):
                loss(many)

        return {
            "in turn": in_turn,
            "one, weights": partial(batched, self.weights),
            "one, signs": partial(batched, self.signs),
            "plain": lambda: [loss(few) for _ in self.seeds],
            "plain, one": lambda: loss(many),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", default="movie-reviews")
    parser.add_argument("--data")
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--sizes", default="1x32,4x32,16x64")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json")
    args = parser.parse_args()
    copies = Copies(args)
    table: dict[str, Any] = {"machine": facts(), "n": args.n, "sizes": {}}
    with torch.no_grad():
        copies.check()
        for size in args.sizes.split(","):
            timings = interleaved(copies.at(*map(int, size.split("x"))), args.rounds)
            table["sizes"][size] = {
                name: {"seconds": summary(s), "of in turn": ratio(timings, name, "in turn")}
                for name, s in timings.items()
            }
            print(f"\n{size} tokens, N = {args.n}: seconds, ratio to N forwards in turn (range)")
            for name, row in table["sizes"][size].items():
                seconds, r = row["seconds"]["median"], row["of in turn"]
                print(
                    f"  {name:<14}{seconds:>9.3f}   {r['median']:.3f}  ({r['min']:.3f} to {r['max']:.3f})", flush=True
                )
    if args.json:
        Path(args.json).write_text(dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
