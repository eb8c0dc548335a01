"""Math-Verify beside our own equality, on pairs whose outcome a person wrote down; its limits; where it is missing."""

from __future__ import annotations

import threading
import time
from importlib.util import find_spec

import pytest

from tests.math_pairs import PAIRS
from zofo import InputError
from zofo.config.sections import TaskConfig
from zofo.data.metrics import math_verified
from zofo.data.metrics.text import fitting, math_equal, math_verify, misfit
from zofo.data.task import settle

needs_library = pytest.mark.skipif(find_spec("math_verify") is None, reason="needs the extra zofo[math]")

# Where each is wrong: ours computes nothing; theirs (0.9.0) takes what is near, of one letter or of another kind.
OURS_WRONG = {
    ("2^{10}", "1024"),
    ("10^{-3}", "0.001"),
    (r"1.5 \times 10^3", "1500"),
    ("5 cm", "5"),
    (r"50\%", "0.5"),
    (r"5 \text{ km}", r"5 \text{ m}"),
    (r"\sqrt{12}", r"2\sqrt{3}"),
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
    ("2(x+1)", "2x+2"),
    ("x+1", "1+x"),
    ("(x-1)(x+1)", "x^2-1"),
}
THEIRS_WRONG = {
    ("1 000", "1000"),
    (r"1\,000", "1000"),
    ("0.3333333", r"\frac{1}{3}"),
    (r"5~\text{cm}", "5"),
    (r"5 \text{ km}", r"5 \text{ m}"),
    (r"3\,\mathrm{i}", "3"),
    (r"\sqrt{3}", "1.7320508"),
    ("f", "F"),
    (r"\{1, 2\}", "(1, 2)"),
    ("3, 5, 5", "3, 5"),
    ("204_5", "204"),
    (r"3:00 \text{ p.m.}", r"3:00 \text{ a.m.}"),
}


def test_there_are_many_pairs_and_none_twice() -> None:
    assert len({(answer, gold) for answer, gold, _ in PAIRS}) == len(PAIRS) >= 60


@pytest.mark.parametrize(("answer", "gold", "right"), PAIRS)
def test_ours(answer: str, gold: str, right: bool) -> None:
    said = bool(math_equal(rf"So it is $\boxed{{{answer}}}$.", gold))
    assert said == (right != ((answer, gold) in OURS_WRONG))
    assert bool(math_equal(rf"\boxed{{{gold}}}", answer)) == said, "it is symmetric"
    if (answer, gold) in OURS_WRONG and (answer, gold) != (r"5 \text{ km}", r"5 \text{ m}"):
        assert not said, "wrong on the side of too strict, but for units, which MATH's own evaluation drops"


@needs_library
@pytest.mark.parametrize(
    ("answer", "gold", "right"),  # a tower takes the library's own five seconds
    [pytest.param(*pair, marks=pytest.mark.slow) if "^{9^" in pair[0] else pair for pair in PAIRS],
)
def test_theirs(answer: str, gold: str, right: bool) -> None:
    said = bool(math_verify(rf"So it is $\boxed{{{answer}}}$.", gold))
    assert said == (right != ((answer, gold) in THEIRS_WRONG))


@needs_library
def test_a_text_without_a_box_and_a_gold_with_one() -> None:
    assert math_verify("The answer is 7.", r"thus \boxed{7}") == 1
    assert math_equal("The answer is 7.", r"thus \boxed{7}") == 0
    assert math_verify("", "7") == 0


@needs_library
def test_it_works_in_any_thread_and_no_alarm_is_taken() -> None:
    import signal

    before, said = signal.getsignal(signal.SIGALRM), []
    threads = [threading.Thread(target=lambda i=i: said.append((i, math_verify(f"{i}", "3")))) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == [(i, float(i == 3)) for i in range(6)]
    assert signal.getsignal(signal.SIGALRM) is before


@needs_library
def test_what_cannot_be_decided_in_time_is_wrong_and_the_next_one_is_asked_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    math_verify("1", "1")  # the child is there
    monkeypatch.setattr(math_verified, "SECONDS", 0.2)
    start = time.monotonic()
    assert math_verify(r"\boxed{9^{9^{9}}}", "9^{9^{8}}") == 0
    assert time.monotonic() - start < 3
    monkeypatch.setattr(math_verified, "SECONDS", 15)
    assert math_verify(r"\boxed{\frac12}", "0.5") == 1


@needs_library
@pytest.mark.parametrize(
    "text", ["\\boxed{" * 2000, "{" * 10**6, "$" * 999, "\x00\ud800", "1" + "0" * 5000, "\\boxed{x\n}"]
)
def test_any_text_has_a_score(text: str) -> None:
    assert math_verify(text, "3") == 0


@needs_library
def test_a_child_that_died_is_replaced() -> None:
    math_verify("1", "1")
    math_verified._children[0].process.kill()
    math_verified._children[0].process.wait()
    math_verify("1", "1")
    assert math_verify("1", "1") == 1


def test_without_the_library_a_task_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_verified, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r'^task.metric: math_verify needs .*: pip install "zofo\[math\]", or take math_e'
    ):
        settle(TaskConfig(name="math500", metric="math_verify"))
    assert "math_verify" in fitting("3"), "what fits does not hang on what is installed"
    settle(TaskConfig(name="math500"))
    with pytest.raises(InputError, match="needs the library"):
        math_verify("3", "3")


def test_a_library_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    broken = tmp_path / "child.py"
    broken.write_text("print('ImportError: no antlr4', flush=True)")
    monkeypatch.setattr(math_verified, "CHILD", broken)
    math_verified._end()
    monkeypatch.setattr(math_verified, "find_spec", lambda name: object())
    with pytest.raises(InputError, match=r"does not start: ImportError: no antlr4; pip install"):
        math_verify("3", "3")


@pytest.mark.parametrize("reference", [["3"], {"answer": "3"}, None, "a\nb", "x #### 3"])
def test_the_references_of_other_tasks_do_not_fit(reference: object) -> None:
    assert misfit("math_verify", reference)
