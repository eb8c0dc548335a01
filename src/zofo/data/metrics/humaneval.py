"""HumanEval (Chen et al. 2021, arXiv:2107.03374): how a completion becomes a program, and pass@k.

`zofo.eval.sandbox` runs the programs.
"""

from __future__ import annotations

# Section 2.2: a completion ends before the first of these.
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")


def pass_at_k(n: int, c: int, k: int) -> float:
    """Eq. (1), 1 - C(n-c, k) / C(n, k): the chance that one of k of the n samples passes, where c of the n do.

    Unbiased for one task; pass@k is its mean over the tasks. As a product, for the binomials overflow.
    """
    if not 0 <= c <= n:
        raise ValueError(f"c = {c} of n = {n} samples cannot pass")
    if not 1 <= k <= n:
        raise ValueError(f"k = {k} cannot be drawn from n = {n} samples")
    missed = 1.0
    for i in range(n - c + 1, n + 1):
        missed *= max(0.0, 1.0 - k / i)
    return 1.0 - missed


def program(prompt: str, completion: str, test: str, entry_point: str) -> str:
    """The program whose last line is reached if the completion is right, joined as the authors' evaluation does."""
    return f"{prompt}{completion}\n{test}\ncheck({entry_point})"
