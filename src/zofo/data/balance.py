"""Labels whose numbers say something: values that are a score rather than classes, and labels that are not balanced."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from zofo.data.example import Example
from zofo.errors import InputError, first_few, printable

log = logging.getLogger("zofo")
CLASSES = 10  # different numbers that are taken as classes, whatever they are
IDS = 20  # whole numbers; more are taken where they count from 0 or 1 without a gap
LEAST = 20  # examples of which a share is worth a word
RARELY = 10  # times as frequent as another label is the most frequent one, where accuracy hardly counts the other
SLIP = 0.02  # of the examples; a label that fewer have makes no balance, whether it is a slip or a rare one


def check_numbers(counts: Counter[str], file: str) -> None:
    """Raises InputError where the labels look like a score: numbers, of which many are different."""
    if like_a_score(counts):
        names = sorted(counts, key=float)
        raise InputError(
            f"{file}: the label column has {len(names)} different numbers ({first_few(names, 4)}), as a score has and "
            f"classes have not: write a few words in their place, such as low and high; or, if each is a class, give "
            f"task.numbers_are_classes=true"
        )


def like_a_score(counts: Counter[str]) -> bool:
    """Whether labels are numbers, more than CLASSES, with fractions, or with gaps, or hardly one of them twice."""
    try:
        numbers = [float(name) for name in counts]
    except ValueError:
        return False
    if len(numbers) <= CLASSES or not all(map(math.isfinite, numbers)):
        return False
    if not all(number.is_integer() for number in numbers) or counts.total() < 2 * len(numbers):
        return True
    counted = min(numbers) in (0, 1) and max(numbers) - min(numbers) + 1 == len(numbers)
    return len(numbers) > IDS and not counted


def imbalance(examples: Sequence[Example], labels: Sequence[str], ignored: Collection[str] = ()) -> str:
    """What an accuracy over these examples hides, in words; "" where their labels are balanced, or fewer than LEAST.

    The most frequent of k labels has at least twice as many examples as the others on average (of two labels two
    thirds), or RARELY times as many as the least frequent one. ignored: labels that are slips of another one.
    """
    counts = Counter(labels[example.gold[0]] for example in examples if len(example.gold) == 1)
    total = counts.total()
    if total < LEAST or len(counts) < 2:
        return ""
    (often, count), *_ = counts.most_common()
    usual = max(2, sum(n >= SLIP * total for n in counts.values()))
    if count * (usual - 1) >= 2 * (total - count):
        return (
            f'{count} of {total} are "{printable(often, 60)}", and always answering that is {count / total:.0%} right'
        )
    rare, few = min(((k, n) for k, n in counts.items() if k not in ignored), key=lambda pair: pair[1])
    if count >= RARELY * few > RARELY:
        return f'{count} of {total} are "{printable(often, 60)}" and {few} "{printable(rare, 60)}"'
    return ""


def measured_too(
    metrics: tuple[str, ...],
    examples: Mapping[str, Sequence[Example]],
    labels: Sequence[str],
    file: str,
    said: bool,
    ignored: Collection[str] = (),
) -> tuple[str, ...]:
    """The metrics, and macro-F1, which counts each label alike, where the examples' labels are not balanced.

    examples: of each split; they are looked at together. said: whether that gets a warning. ignored: see `imbalance`.
    """
    words = imbalance([example for listed in examples.values() for example in listed], labels, ignored)
    if not words or "macro_f1" in metrics:
        return metrics
    if said:
        log.warning("%s: of the examples %s; macro_f1 is measured too", file, words)
    return (*metrics, "macro_f1")
