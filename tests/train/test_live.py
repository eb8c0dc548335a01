"""The display of a run on a terminal: the course of a loss, at 40 and 120 columns, a long run, data that steers."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from zofo.train.live import BARS, KEPT, Screen, course


def test_the_course_of_a_loss() -> None:
    assert course([]) == ""
    assert course([1.0]) == BARS[0]
    assert course([7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0]) == BARS[::-1]
    assert course([1.0, math.nan, 0.0]) == f"{BARS[-1]}?{BARS[0]}"
    long = course([float(i) for i in range(1000)], 10)
    assert len(long) == 10
    assert list(long) == sorted(long)
    assert course([5.0] * 9) == BARS[0] * 9


@pytest.mark.parametrize("columns", [40, 80, 160])
def test_nothing_is_cut_off(columns: int) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=columns, color_system=None, legacy_windows=False)
    screen = Screen(console, 100)
    screen.start()
    text = "loss_s 0.7719 loss_p 0.7883 G 6.414 c -37.72 lr_s 0.001 lr_theta 1e-06 | 0.13 s/step | peak 0.62 GiB"
    for count in range(1, 4):
        screen.step(count, f"step {count}/100", "0:12", text, 1.0 / count)
    screen.busy("evaluating (s, dev): 3/50 \x1b[2J")
    screen.step(4, "step 4/100", "0:12", text, 0.2)
    screen.stop()
    shown = out.getvalue()
    words = "".join(shown.split())
    for part in ("step4/100", "0:12left", "peak0.62GiB", "lr_theta1e-06"):
        assert part in words
    assert BARS[-1] in shown
    assert "\x1b[2J" not in shown


def test_a_long_run_keeps_few_values() -> None:
    screen = Screen(Console(file=io.StringIO()), 10)
    for i in range(3 * KEPT):
        screen._add(float(i))
    assert len(screen.values) <= KEPT
    assert course(screen.values) == course([float(i) for i in range(3 * KEPT)])
