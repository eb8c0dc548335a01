"""What 40 MeZO steps do to a real model's weights in four arithmetics, against their exact sum: no forwards, given c's.

    python -m experiments.arithmetic --model DIR

along: <move, wanted> / <wanted, wanted>, 1 where the whole update arrived. error: |move - wanted| / |wanted|.
"""

from __future__ import annotations

import argparse
import random

import torch

from zofo.config import ModelConfig
from zofo.estimators import spsa
from zofo.models import load
from zofo.rules import sgd
from zofo.zo import kernels
from zofo.zo.direction import Direction
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.keys import derive, tensor_key
from zofo.zo.point import Point

ARMS = {  # dtype, shift, rounding of the update
    "fp32": ("float32", "layer", "nearest"),
    "bf16, stochastic": ("bfloat16", "layer", "stochastic"),
    "bf16, split": ("bfloat16", "layer", "split"),
    "bf16, to nearest": ("bfloat16", "layer", "nearest"),
    "bf16, in place": ("bfloat16", "inplace", "nearest"),
}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--lr", type=float, default=1e-5)
    parser.add_argument("--scale", type=float, default=20.0, help="standard deviation of c; measured ones: docs/log.md")
    args = parser.parse_args()
    rng = random.Random(0)
    steps = [(derive(0, "z", k), float32(rng.gauss(0, args.scale))) for k in range(args.steps)]
    terms = [(seed, -args.lr * c) for seed, c in steps]
    print("| arithmetic | along | error |\n|---|---|---|")
    for name, (dtype, shift, rounding) in ARMS.items():
        theta = Point(load(ModelConfig(name=args.model, dtype=dtype)).model, mode=shift)  # pyright: ignore
        start = {n: p.detach().clone() for n, p in theta.items()}
        rule = sgd.Rule(sgd.Config(rounding=rounding), 0)  # pyright: ignore
        for k, (seed, c) in enumerate(steps):
            if shift == "inplace":
                spsa.Config(shift="inplace").drift_(theta, Direction(seed))
            rule.update_(theta, ZOGrad(((c, Direction(seed)),), 0.0, 2), args.lr, k)
        dots = torch.zeros(3, dtype=torch.float64)  # <move, wanted>, <wanted, wanted>, |move - wanted|^2
        for n, p in theta.items():
            wanted = torch.zeros(p.shape)
            kernels.add(wanted, wanted, terms, tensor_key(n))
            end = kernels.join(p, rule.low[n]) if rule.low is not None else p.float()
            move, wanted = (end.double() - start[n].double()), wanted.double()
            dots += torch.stack([(move * wanted).sum(), wanted.square().sum(), (move - wanted).square().sum()])
        print(f"| {name} | {dots[0] / dots[1]:.4f} | {(dots[2] / dots[1]).sqrt():.4f} |", flush=True)


if __name__ == "__main__":
    main()
