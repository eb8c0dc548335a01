"""Labels that look like slips of another one: they would train as classes of their own."""

from __future__ import annotations

import difflib
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from zofo.data.example import Example
from zofo.errors import printable

log = logging.getLogger("zofo")
RARE = 0.02  # of the rows; what is rarer, and near another label, is rather a slip than a class
SAID = 5  # lines; of more than these the number
NEAR, RATHER_NEAR = 0.8, 0.6  # of difflib's ratio; the latter where the other is 5 times as frequent


class Seen(NamedTuple):
    """The labels of rows of one's own, with how many rows have each, and the first one's place."""

    counts: Counter[str]
    places: dict[str, str]


def say_slips(seen: Seen, file: str, untrained: Mapping[str, str] = MappingProxyType({})) -> set[str]:
    """Warns of labels that differ from another one by case, blanks or punctuation alone, and of rare ones that are
    spelt nearly as another one, which are returned.

    untrained: {a label of no training row: where it is, "dev"}.
    """
    counts, places = seen
    slips: dict[str, tuple[str, str]] = {}
    alike: dict[str, list[str]] = {}
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        alike.setdefault(_plain(name), []).append(name)
    for usual, *others in alike.values():
        slips |= dict.fromkeys(others, (usual, "differs from it by case, blanks or punctuation alone"))
    for name, count in sorted(counts.items()):
        if name in slips or not (count == 1 or count <= RARE * counts.total()):
            continue
        if (usual := _meant(name, counts)) is not None:
            slips[name] = (usual, "is spelt nearly as it")
    said = SAID + (len(slips) == SAID + 1)  # one more is named too
    for name, (usual, how) in list(slips.items())[:said]:
        log.warning(
            '%s: the label "%s" (%s) is a class of its own beside "%s" (%s), and %s; if it is a mistake, write "%s" '
            "there, else name the answers: task.choices=[...]",
            places[name],
            printable(name, 60),
            _rows(counts[name]) + (f", in {untrained[name]} and in no training row" if name in untrained else ""),
            printable(usual, 60),
            _rows(counts[usual]),
            how,
            printable(usual, 60),
        )
    if len(slips) > said:
        log.warning("%s: %d more labels are near another one", file, len(slips) - said)
    if counts.total() >= 10 * len(counts):
        for name in sorted(name for name, count in counts.items() if count == 1 and name not in slips):
            log.warning(
                '%s: the label "%s" occurs once; if it is a mistake, mend it or name the answers: task.choices=[...]',
                places[name],
                printable(name, 60),
            )
    return set(slips)


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count != 1)}"


def _plain(name: str) -> str:
    """What is left without case, blanks and the punctuation around it; all of it, where that is nothing."""
    text = " ".join(name.casefold().split())
    return re.sub(r"[\s_-]+", " ", text.strip(" .,;:!?\"'`()[]")) or text


def _meant(name: str, counts: Counter[str]) -> str | None:
    """The label that a rare one was probably meant to be: of those it is spelt as, the most frequent."""
    near = []
    for other, count in counts.items():
        ratio = NEAR if count < 5 * counts[name] else RATHER_NEAR
        if count > counts[name] and not _apart(name, other) and _ratio(name, other) >= ratio:
            near.append((_ratio(name, other), count, other))
    return max(near)[2] if near else None


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one[:60].lower(), other[:60].lower()).ratio()


def _apart(one: str, other: str) -> bool:
    """Whether two labels differ in what is no slip: numbers, or all of a beginning or an end, such as not_ or -2."""
    if re.sub(r"[\d.,+-]", "", one) == re.sub(r"[\d.,+-]", "", other):
        return True
    short, long = sorted((one.lower(), other.lower()), key=len)
    return len(long) - len(short) > 1 and (long.endswith(short) or long.startswith(short))


def untrained(examples: Mapping[str, Sequence[Example]], labels: Sequence[str]) -> dict[int, list[Example]]:
    """{a label that no training example has: those of dev and test that have it}."""
    trained = {gold for example in examples["train"] for gold in example.gold}
    return {
        index: [e for split in ("dev", "test") for e in examples[split] if index in e.gold]
        for index in range(len(labels))
        if trained and index not in trained
    }


def say_labels(
    examples: Mapping[str, Sequence[Example]], labels: Sequence[str], file: str, seen: Seen | None
) -> set[str]:
    """Warns of slips, which are returned, and of labels that no training example has, as where its few rows were all
    drawn for dev and test: of one that is spelt nearly as a training label that it was probably meant to be that.

    seen: where the rows say which labels there are; None: they are chosen.
    """
    absent = untrained(examples, labels)
    splits = {labels[index]: _splits(examples, index) for index, measured in absent.items() if measured}
    said = say_slips(seen, file, splits) if seen is not None else set()
    trained = [name for index, name in enumerate(labels) if index not in absent]
    for index, measured in absent.items():
        name = labels[index]
        near = _nearest(name, trained, seen.counts) if seen is not None and measured else None
        if name in said:
            continue
        if near is not None:
            log.warning(
                '%s: the label "%s" (%s, in %s) is not among those of the training rows; did you mean "%s"? mend it, '
                "or name the answers: task.choices=[...]",
                measured[0].where,
                printable(name, 60),
                _rows(len(measured)),
                splits[name],
                printable(near, 60),
            )
            continue
        where = f"; {_rows(len(measured))} of dev and test have it ({measured[0].where})" if measured else ""
        log.warning(
            '%s: no training row has the label "%s", so it is not learnt%s; give more rows of it, or a larger '
            "task.train_examples",
            file,
            printable(name, 60),
            where,
        )
    return said


def _splits(examples: Mapping[str, Sequence[Example]], index: int) -> str:
    return " and ".join(split for split in ("dev", "test") if any(index in e.gold for e in examples[split]))


def _nearest(name: str, trained: Sequence[str], counts: Counter[str]) -> str | None:
    """The training label that another one was probably meant to be: it has more than twice as many rows."""
    usual = [other for other in trained if counts[other] > 2 * counts[name] and not _apart(name, other)]
    near = [other for other in usual if _ratio(name, other) >= NEAR]
    return max(near, key=lambda other: _ratio(name, other)) if near else None
