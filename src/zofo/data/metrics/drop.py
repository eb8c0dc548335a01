"""How DROP compares answers (Dua et al. 2019, arXiv 1903.00161, section 5, and the evaluation its authors published).

A span is cut at blanks and hyphens; each token is lower-cased, loses its punctuation and articles, and is written as a
float where it is a number (so 5, 5.0 and $5 are one token, and -5 is 5: the hyphen is a cut). Three facts of the
published evaluation that one would not guess: the "bag" of words is a set; punctuation is dropped also from what is
nearly a number ("5.5," becomes 55.0); a number in the right span must occur in the predicted one, not the reverse.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from fractions import Fraction

_CUT = re.compile("[ -]")
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _is_number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True


def _token(token: str) -> str:
    token = token.lower()
    if not _is_number(token):
        token = token.translate(_PUNCTUATION)
    if _is_number(token):
        token = str(float(token))
    return _ARTICLE.sub(" ", token)


def normalised(span: str) -> str:
    """The span as it is compared: its tokens that are left, with one blank between."""
    return " ".join(" ".join(map(_token, _CUT.split(span))).split())


def span_f1(predicted: str, gold: str) -> Fraction:
    """F1 of two normalised spans' sets of tokens; 0 where the right span has numbers and none of them is predicted."""
    predicted_words, gold_words = set(predicted.split()), set(gold.split())
    numbers = set(filter(_is_number, gold_words))
    if numbers and not numbers & predicted_words:
        return Fraction(0)
    total = len(predicted_words) + len(gold_words)
    return Fraction(2 * len(predicted_words & gold_words), total) if total else Fraction(1)


def best_total(scores: Sequence[Sequence[Fraction]]) -> Fraction:
    """The largest sum of entries with no two in one row or column (none negative).

    Rows join one at a time; each takes the chain of moves (it takes a column, that column's row takes another, ...)
    that gains most, found as a longest path. The total is optimal for the rows so far after each, so no chain of moves
    can circle at a gain and the search ends. Exact scores keep that true where floats would round.
    """
    if len(scores) > len(scores[0]):
        scores = list(zip(*scores))
    columns = range(len(scores[0]))
    row_of: list[int | None] = [None] * len(columns)
    total = Fraction(0)
    for new, row in enumerate(scores):
        gain, before = list(row), [-1] * len(columns)
        moved = True
        while moved:
            moved = False
            for column, owner in enumerate(row_of):
                if owner is None:
                    continue
                left = gain[column] - scores[owner][column]
                for other in columns:
                    if other != column and left + scores[owner][other] > gain[other]:
                        gain[other], before[other], moved = left + scores[owner][other], column, True
        end = max((c for c in columns if row_of[c] is None), key=gain.__getitem__)
        total += gain[end]
        while before[end] >= 0:
            row_of[end], end = row_of[before[end]], before[end]
        row_of[end] = new
    return total


def compare(predicted: Sequence[str], gold: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1 of the predicted spans against one answer's spans.

    F1 is summed over the best one-to-one alignment of the spans, divided by the larger number of spans, and rounded to
    two digits. Exact match: the same normalised spans, and as many of them.
    """
    predicted_spans, gold_spans = [normalised(s) for s in predicted], [normalised(s) for s in gold]
    if not predicted_spans or not gold_spans:
        return float(predicted_spans == gold_spans), float(predicted_spans == gold_spans)
    total = best_total([[span_f1(a, b) for b in gold_spans] for a in predicted_spans])
    same = set(predicted_spans) == set(gold_spans) and len(predicted_spans) == len(gold_spans)
    return float(same), round(float(total / max(len(predicted_spans), len(gold_spans))), 2)
