"""Texts of the signs that the metrics of text look at, so that hypothesis meets their corners."""

from __future__ import annotations

from hypothesis import strategies as st

MATHS = [
    "\\frac",
    "\\boxed",
    "\\boxed{",
    "\\text{",
    "\\sqrt",
    "\\left",
    "\\{",
    "\\}",
    "\\\\",
    "\\begin{pmatrix}",
    "\\!",
]
PIECES = [*MATHS, *"{}()[],.$%^_-+/&=\\ 0129ax", "####", "the", "−", "°", "\n", "\\end{pmatrix}", "\\cup", " 1/2"]
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
