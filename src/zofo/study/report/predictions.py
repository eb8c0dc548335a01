"""The test examples of a run as the page lists them: those that are wrong first, of them the largest loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zofo.errors import printable
from zofo.study.report.words import clipped, held, number
from zofo.study.results import Result

TEXT, ANSWER = 700, 200  # characters of a prompt and of an answer that are shown
UNSCORED = ("loss", "perplexity")  # metrics that say of no example whether it is right
MARKUP = 260  # bytes of a row beside its texts, about


@dataclass(frozen=True)
class Row:
    """verdict: "wrong", "right", "unanswered", or the score of one that is in between. facts: (what, value)."""

    id: str
    verdict: str
    score: float | None
    loss: str
    text: str
    facts: tuple[tuple[str, str], ...]

    @property
    def right(self) -> bool:
        return self.verdict == "right"


@dataclass(frozen=True)
class Listed:
    """Of one run. rows: as many as there is room for, in their order; left_out: how many there are beyond. wrong: None
    where nothing says what is right."""

    rows: tuple[Row, ...]
    wrong: int | None
    left_out: int


def listed(result: Result, room: int) -> Listed:
    """Of what is deployed. room: bytes, about."""
    labels = tuple(str(label) for label in result.info.get("labels", ()))
    rows = sorted((_row(line, result.metric, labels) for line in result.rows()), key=lambda pair: pair[0])
    shown, used = [], 0
    for _, row in rows:
        used += MARKUP + sum(len(text.encode()) for text in (row.id, row.text, *(value for _, value in row.facts)))
        if used > room:
            break
        shown.append(row)
    scored = any(row.score is not None for _, row in rows)
    wrong = sum(not row.right for _, row in rows) if scored else None
    return Listed(tuple(shown), wrong, len(rows) - len(shown))


def _row(line: Mapping[str, Any], metric: str, labels: Sequence[str]) -> tuple[tuple[float, float], Row]:
    """(what it is sorted by, the row)."""
    score, loss = None if metric in UNSCORED else line.get(metric, line.get("correct")), line.get("loss")
    score = float(score) if isinstance(score, int | float) else None
    verdict = "unanswered" if line.get("prediction", "") is None else _verdict(metric, score)
    order = 0.0 if verdict == "unanswered" else 1.0 if score is None else score
    size = loss if isinstance(loss, int | float) and math.isfinite(loss) else math.inf  # what is not finite, first
    facts = [(what, clipped(value, ANSWER)) for what, value in _facts(line, labels)]
    shown = held(line, "loss") if "loss" in line else ""
    name, text = printable(str(line.get("id")), 100), clipped(line.get("prompt", ""), TEXT)
    return (order, -size), Row(name, verdict, score, shown, text, tuple(facts))


def _verdict(metric: str, score: float | None) -> str:
    if score is None:
        return "not scored"
    return {0.0: "wrong", 1.0: "right"}.get(score, f"{metric} {number(score)}")


def _facts(line: Mapping[str, Any], labels: Sequence[str]) -> list[tuple[str, object]]:
    answers, gold = list(line.get("answers") or ()), list(line.get("gold") or ())
    names = labels if len(labels) == len(answers) else [str(answer).strip() for answer in answers]
    facts = list[tuple[str, object]]()
    if "reference" in line:
        facts.append(("right", _text(line["reference"])))
    elif gold:
        facts.append(("right", " | ".join(str(names[g]) for g in gold if g < len(names))))
    if "prediction" in line:
        facts.append(("predicted", "no prediction" if line["prediction"] is None else line["prediction"]))
    facts += [("wrote", text) for text in list(line.get("generated") or ())[:4]]
    return facts


def _text(reference: object) -> str:
    return " | ".join(map(str, reference)) if isinstance(reference, list) else str(reference)
