"""Labels that look like slips of another one: they would train as classes of their own."""

from __future__ import annotations

import difflib
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from zofo.data.example import Example
from zofo.errors import printable

log = logging.getLogger("zofo")
RARE = 0.02  # of the rows; what is rarer, and near another label, is rather a slip than a class
SAID = 5  # lines; of more than these the number
NEAR, RATHER_NEAR = 0.8, 0.6  # of difflib's ratio; the latter where the other is 5 times as frequent


def say_slips(counts: Counter[str], places: Mapping[str, str], file: str) -> None:
    """Warns of labels that differ from another one by case, blanks or punctuation alone, and of rare ones that are
    spelt nearly as another one. places: of each label's first row."""
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
            _rows(counts[name]),
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


def say_untrained(examples: Mapping[str, Sequence[Example]], labels: Sequence[str], file: str) -> None:
    """Warns of labels that no training example has, as where its few rows were all drawn for dev and test."""
    trained = {gold for example in examples["train"] for gold in example.gold}
    for index, name in enumerate(labels) if trained else ():
        measured = [e for split in ("dev", "test") for e in examples[split] if index in e.gold]
        if index not in trained:
            where = f"; {_rows(len(measured))} of dev and test have it ({measured[0].where})" if measured else ""
            log.warning(
                '%s: no training row has the label "%s", so it is not learnt%s; give more rows of it, or a larger '
                "task.train_examples",
                file,
                printable(name, 60),
                where,
            )
