r"""Metrics of generated text: (text, reference) -> a number between 0 and 1 for one example; a set's value is the mean.

The reference is what a task file's `reference` expression gives for a row:

metric                      reference
exact_match, token_f1       the accepted answers: list of str, or str
drop_exact_match, drop_f1   the annotators' answers, each a list of spans; or the hub's {"spans", "types"}; or str
final_number, last_number   the row's full answer ("... #### 16"), or the number alone
math_equal, math_verify     the answer, or a solution with a \boxed answer

Any text is scored. A reference of another shape is a mistake in the task and raises.
"""

from __future__ import annotations

import re
import string
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Any

from zofo.data.metrics import drop, math_answers, math_verified

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


# ------------------------------------------------------------------------------------------------------------- SQuAD


def squad_tokens(text: str) -> list[str]:
    """Lower case, no punctuation, no articles; the words left (SQuAD 1.1, Rajpurkar et al. 2016, section 6.1)."""
    return _ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def exact_match(text: str, reference: Any) -> float:
    """1 where the words are those of an accepted answer."""
    words = squad_tokens(text)
    return float(any(words == squad_tokens(answer) for answer in _accepted(reference)))


def token_f1(text: str, reference: Any) -> float:
    """F1 of the words as bags, the maximum over the accepted answers; two empty bags score 1 (SQuAD 2)."""
    words = squad_tokens(text)
    return max(_bag_f1(words, squad_tokens(answer)) for answer in _accepted(reference))


def _accepted(reference: Any) -> list[str]:
    """The accepted answers; none at all means that the right answer is to give none (SQuAD 2)."""
    answers = [reference] if isinstance(reference, str) else reference
    if not isinstance(answers, list | tuple) or not all(isinstance(a, str) for a in answers):
        raise TypeError(f"the reference must be a text or a list of texts, not {_short(reference)}")
    return list(answers) or [""]


def _bag_f1(predicted: list[str], gold: list[str]) -> float:
    if not predicted or not gold:
        return float(predicted == gold)
    return 2 * (Counter(predicted) & Counter(gold)).total() / (len(predicted) + len(gold))


# -------------------------------------------------------------------------------------------------------------- DROP


def drop_exact_match(text: str, reference: Any) -> float:
    """DROP's exact match of the text as one span, the maximum over the annotators' answers."""
    return max((drop.compare([text], spans)[0] for spans in _drop_answers(reference)), default=0.0)


def drop_f1(text: str, reference: Any) -> float:
    """DROP's numeracy-focused F1 of the text as one span, the maximum over the annotators' answers."""
    return max((drop.compare([text], spans)[1] for spans in _drop_answers(reference)), default=0.0)


def _drop_answers(reference: Any) -> Iterable[list[str]]:
    """One list of spans an answer; blank answers are left out, as in the authors' evaluation."""
    if isinstance(reference, str):
        reference = [[reference]]
    answers = _pooled(reference) if isinstance(reference, Mapping) else reference
    if not isinstance(answers, list | tuple):
        raise TypeError(f"the reference must be a list of answers, each a list of spans, not {_short(reference)}")
    for spans in answers:
        if not isinstance(spans, list | tuple) or not all(isinstance(s, str) for s in spans):
            raise TypeError(f"an answer of the reference must be a list of spans, not {_short(spans)}")
        if any(s.strip() for s in spans):
            yield list(spans)


def _pooled(reference: Mapping[str, Any]) -> list[Any]:
    """The answers of the hub's {"spans": [...], "types": [...]}, which pools the annotators of a validation row.

    A number or a date is an answer by itself. Where one annotator's spans end is lost: the spans are one answer, each
    once. Without types, all is one answer.
    """
    spans, types = reference.get("spans"), reference.get("types")
    if not isinstance(spans, list | tuple) or not isinstance(types, list | tuple) or len(spans) != len(types):
        return [spans]
    alone = [[s] for s, kind in zip(spans, types) if kind in ("number", "date")]
    return [*alone, list(dict.fromkeys(s for s, kind in zip(spans, types) if kind not in ("number", "date")))]


# ------------------------------------------------------------------------------------------------------------- GSM8K

_SIGN = r"(?P<sign>[-−+]?\${0,2}|\${1,2}[-−+])"  # one sign: "--5" is no number
_AMOUNT = r"(?P<amount>[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)"
_FINAL = re.compile(rf"####\s{{0,9}}{_SIGN}{_AMOUNT}")
_ALONE = re.compile(rf"{_SIGN}{_AMOUNT}\.?")
_ANYWHERE = re.compile(  # in prose a comma parts numbers unless three digits follow, and the hyphen of 3-5 is no sign
    r"(?P<sign>(?:(?<![0-9A-Za-z)\]}])[-−])?\$?)"
    r"(?P<amount>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![0-9])\.[0-9]+)"
)


def final_number(text: str, reference: Any) -> float:
    """GSM8K (Cobbe et al. 2021): the number behind "####", as an exact number; a text without one is wrong.

    The first such number counts, as in the authors' code: a model that does not stop goes on with another question.
    """
    number, gold = _value(_FINAL.search(text)), _gold_number(reference)
    return float(number is not None and number == gold)


def last_number(text: str, reference: Any) -> float:
    """The flexible variant of `final_number`: the last number in the text, whatever stands around it."""
    last = deque(_ANYWHERE.finditer(text), maxlen=1)
    number, gold = _value(last[0] if last else None), _gold_number(reference)
    return float(number is not None and number == gold)


def _value(match: re.Match[str] | None) -> Fraction | None:
    if match is None or (value := math_answers.exact(match["amount"])) is None:
        return None
    return -value if match["sign"].strip("+$") else value


def _gold_number(reference: Any) -> Fraction:
    text = str(reference)
    value = _value(_FINAL.search(text) or _ALONE.fullmatch(text.strip()))
    if value is None:
        raise ValueError(f'the reference must be a number or end in "#### " and one, not {_short(reference)}')
    return value


# -------------------------------------------------------------------------------------------------------------- MATH


def math_equal(text: str, reference: Any) -> float:
    r"""MATH (Hendrycks et al. 2021): the text's last \boxed answer equals the reference's; no box is wrong.

    What counts as equal is said in `zofo.data.metrics.math_answers`.
    """
    answer, gold = math_answers.boxed(text), _math_gold(reference)
    return float(answer is not None and math_answers.equal(answer, gold))


def math_verify(text: str, reference: Any) -> float:
    r"""Hugging Face's Math-Verify (the extra `math`): sympy decides, of a text without a box on its last expression.

    Raises InputError where the library is missing.
    """
    gold = _math_gold(reference)
    return float(bool(text.strip()) and math_verified.verified(text, gold))


def _math_gold(reference: Any) -> str:
    """The right answer: what is boxed, or all of a line without a box."""
    if not isinstance(reference, str | int | float) or isinstance(reference, bool):
        raise TypeError(f"the reference must be a text, not {_short(reference)}")
    text = str(reference)
    if (gold := math_answers.boxed(text)) is None and ("\n" in text.strip() or "####" in text):
        raise ValueError(f"the reference must be an answer or a solution with a \\boxed one, not {_short(reference)}")
    return text if gold is None else gold


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


TEXT_METRICS: dict[str, Callable[[str, Any], float]] = {
    "exact_match": exact_match,
    "token_f1": token_f1,
    "drop_exact_match": drop_exact_match,
    "drop_f1": drop_f1,
    "final_number": final_number,
    "last_number": last_number,
    "math_equal": math_equal,
    "math_verify": math_verify,
}
PROGRAM = ("prompt", "test", "entry_point")  # of a reference that pass@k makes a program of


def misfit(metric: str, reference: Any) -> str:
    """Why a metric of generated text (or pass_at_k) cannot compare a text with the reference, or ""."""
    if metric == "pass_at_k":
        fits = isinstance(reference, Mapping) and all(isinstance(reference.get(key), str) for key in PROGRAM)
        return "" if fits else f"the reference must hold the texts {', '.join(PROGRAM)}, not {_short(reference)}"
    try:
        TEXT_METRICS[metric]("", reference)
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


def fitting(reference: Any) -> list[str]:
    """The metrics that can compare a text with the reference."""
    return [name for name in (*TEXT_METRICS, "pass_at_k") if not misfit(name, reference)]
