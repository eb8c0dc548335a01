"""docs/figures/toy_bilevel.svg: what the penalty lambda costs on a problem whose solution is known. Takes 15 seconds.

Lines: the closed forms. Points: where Algorithm 2 (zofo's method, estimator and rule) ends up, as in
tests/known_problem.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))  # the problem is defined in tests/
from tests import known_problem  # noqa: E402

LAMS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
STEPS = (150, 150, 150, 200, 300, 600, 1500)
SERIES = [  # colour, marker, label, its place on the axes, fall
    ("#2a78d6", "o", r"$\|p - s\|$", (45, 5e-3), r"$\propto 1/\lambda$"),
    ("#c2571a", "s", r"$F(\theta, p; D_p) - F(\theta, s; D_p)$", (3.5, 3e-6), r"$\propto 1/\lambda^2$"),
    ("#1a7f5a", "^", r"$\|\theta - \theta^*\|$", (1.05, 2.2e-4), r"$\propto 1/\lambda$"),
]


def measure(t: known_problem.Toy, theta: torch.Tensor, p: torch.Tensor, s: torch.Tensor) -> tuple[float, float, float]:
    gap = float(t.p.loss(theta, p) - t.p.loss(theta, s))
    return float((p - s).norm()), gap, float((theta - t.bilevel()).norm())


def closed_forms(t: known_problem.Toy, lams: np.ndarray) -> np.ndarray:
    return np.array([measure(t, theta, p, t.lower(theta)) for theta, p in (t.penalised(float(x)) for x in lams)])


def algorithm_2(t: known_problem.Toy) -> np.ndarray:
    run = known_problem.Run(t)
    found = [run(lam, steps) for lam, steps in zip(LAMS, STEPS)]
    return np.array([measure(t, f.theta, f.p, f.s) for f in found])


def main() -> None:
    torch.set_num_threads(1)
    t = known_problem.make()
    fine = np.geomspace(0.8, 1250, 200)
    lines, points = closed_forms(t, fine), algorithm_2(t)
    exact = closed_forms(t, np.array(LAMS))
    print("largest relative distance of a point from its line:", float(np.abs(points / exact - 1).max()))
    late = slice(2, None)
    for i, (*_, label, _, fall) in enumerate(SERIES):
        slopes = [float(np.polyfit(np.log(LAMS[late]), np.log(y[late, i]), 1)[0]) for y in (points, exact)]
        print(f"{label} {fall}: slope from lambda = 10 on: run {slopes[0]:.4f}, closed form {slopes[1]:.4f}")

    plt.rcParams.update({"svg.hashsalt": "zofo", "svg.fonttype": "path", "font.size": 10})
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for i, (colour, marker, label, place, fall) in enumerate(SERIES):
        axes.plot(fine, lines[:, i], color=colour, linewidth=1.6)
        axes.plot(LAMS, points[:, i], marker, color=colour, markersize=7, markeredgecolor="white")
        axes.annotate(f"{label}  {fall}", place, color=colour)
    axes.set(xscale="log", yscale="log", xlabel=r"penalty $\lambda$")
    axes.set_title("lines: closed form; points: Algorithm 2 as zofo runs it", fontsize=10, color="#555555", loc="left")
    axes.grid(True, which="major", color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "toy_bilevel.svg", metadata={"Date": None, "Creator": None})
    if len(sys.argv) > 1:  # a bitmap to look at
        figure.savefig(sys.argv[1], dpi=130)


if __name__ == "__main__":
    main()
