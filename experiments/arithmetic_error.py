"""What 40 MeZO steps do to a real model's weights in four arithmetics, against their exact sum: no forwards, given c's.

    python -m experiments.arithmetic_error --model DIR

along: <move, wanted> / <wanted, wanted>, 1 where the whole update arrived. error: |move - wanted| / |wanted|. The four
columns behind are `along` over each quarter of a matrix's weights by magnitude, the smallest first: what an ablation by
magnitude would find in that arithmetic where no weight is masked. shift: the same for one perturbation, eps 1e-3, as
the forward sees it.
"""

from __future__ import annotations

import argparse
import random

import torch
from torch import Tensor

from zofo.config.sections import ModelConfig
from zofo.models.load import load
from zofo.zo import kernels, quantile
from zofo.zo.direction import Direction
from zofo.zo.estimators import spsa
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.keys import derive, tensor_key
from zofo.zo.masks.magnitude import rank
from zofo.zo.move import Move
from zofo.zo.point import Point
from zofo.zo.rules import sgd

ARMS = {  # dtype, shift, rounding of the update
    "fp32": ("float32", "layer", "nearest"),
    "bf16, stochastic": ("bfloat16", "layer", "stochastic"),
    "bf16, split": ("bfloat16", "layer", "split"),
    "bf16, to nearest": ("bfloat16", "layer", "nearest"),
    "bf16, in place": ("bfloat16", "inplace", "nearest"),
}


QUARTERS = (0.25, 0.5, 0.75)


def quarters(weights: Tensor) -> Tensor:
    """0 to 3 for each weight of a matrix, by its rank in magnitude; 4 for all of a vector."""
    if weights.ndim < 2:
        return torch.full(weights.shape, 4)
    ends = quantile.smallest([weights], [rank(share, weights.numel()) for share in QUARTERS])
    return torch.bucketize(weights.float().abs(), torch.tensor(ends))


class Dots:
    """<move, wanted>, <wanted, wanted> and |move - wanted|^2, by quarter."""

    def __init__(self) -> None:
        self.sums = torch.zeros(3, 5, dtype=torch.float64)

    def add(self, move: Tensor, wanted: Tensor, quarter: Tensor) -> None:
        for row, values in enumerate((move * wanted, wanted.square(), (move - wanted).square())):
            self.sums[row].index_add_(0, quarter.flatten(), values.double().flatten())

    def row(self) -> str:
        dot, square, error = self.sums.sum(1).tolist()
        parts = (self.sums[0] / self.sums[1])[:4].tolist()
        return f"{dot / square:.4f} | {(error / square) ** 0.5:.4f} | " + " | ".join(f"{part:.3f}" for part in parts)


def updates(args: argparse.Namespace, dtype: str, shift: str, rounding: str) -> Dots:
    """Forty updates, each behind its estimate's passes in place."""
    rng = random.Random(0)
    steps = [(derive(0, "z", k), float32(rng.gauss(0, args.scale))) for k in range(args.steps)]
    theta = Point(load(ModelConfig(name=args.model, dtype=dtype)).model, mode=shift)  # pyright: ignore
    start = {n: p.detach().clone() for n, p in theta.items()}
    rule, estimator = sgd.Rule(sgd.Config(rounding=rounding), 0), spsa.Estimator(spsa.Config(shift="inplace"))  # pyright: ignore
    for k, (seed, c) in enumerate(steps):
        if shift == "inplace":
            estimator.drift_(theta, Direction(seed))
        rule.update_(theta, ZOGrad(((c, Direction(seed)),), 0.0, 2), args.lr, k)
    dots = Dots()
    for n, p in theta.items():
        wanted = torch.zeros(p.shape)
        kernels.add(wanted, wanted, [(seed, -args.lr * c) for seed, c in steps], tensor_key(n))
        end = kernels.join(p, rule.low[n]) if rule.low is not None else p.float()
        dots.add(end.double() - start[n].double(), wanted.double(), quarters(start[n]))
    return dots


def shifts(args: argparse.Namespace, dtype: str, rounding: str) -> Dots:
    """One perturbation of 1e-3 along signs."""
    model = load(ModelConfig(name=args.model, dtype=dtype)).model  # pyright: ignore
    theta, dots, z = Point(model), Dots(), Direction(derive(0, "z", 0))
    move = Move()
    move.set(theta.terms(z, 1e-3), z, z.rounding_seed if rounding == "stochastic" else None)
    for n, p in theta.items():
        moved, wanted = torch.empty_like(p), torch.zeros(p.shape)
        move.add(moved, p.detach(), theta.addresses[n])
        kernels.add(wanted, wanted, [(z.seed, 1e-3)], tensor_key(n))
        dots.add(moved.double() - p.double(), wanted.double(), quarters(p.detach()))
    return dots


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--lr", type=float, default=1e-5)
    parser.add_argument("--scale", type=float, default=20.0, help="standard deviation of c; measured ones: docs/log.md")
    args = parser.parse_args()
    print("| arithmetic | along | error | 0-.25 | .25-.5 | .5-.75 | .75-1 |\n|---|---|---|---|---|---|---|")
    for name, settings in ARMS.items():
        print(f"| {name} | {updates(args, *settings).row()} |", flush=True)
    for dtype, rounding in (("float32", "nearest"), ("bfloat16", "stochastic"), ("bfloat16", "nearest")):
        print(f"| shift, {dtype}, {rounding} | {shifts(args, dtype, rounding).row()} |", flush=True)


if __name__ == "__main__":
    main()
