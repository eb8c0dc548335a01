"""What a task's examples do not go with: metrics, scorings, a tokenizer. Said before anything is trained."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zofo.data.calibration import NULLED, null_examples
from zofo.data.example import Decoding, Example
from zofo.data.metrics import math_verified
from zofo.data.metrics.text import TEXT_METRICS, fitting, misfit
from zofo.data.tokenization import Encoded, merged, tokenize_all
from zofo.errors import InputError

log = logging.getLogger("zofo")
LOOKED = 5_000  # examples whose borders are tokenized once more, to say something of them; they come in a random order
Splits = Mapping[str, Sequence[Example]]


def check_metrics(metrics: Sequence[str], examples: Sequence[Example], task: str) -> None:
    """Raises InputError naming the metrics that do fit, where one of `metrics` cannot measure one of the examples."""
    if "math_verify" in metrics:
        math_verified.require()
    for name in metrics:
        for example in examples:
            if name == "macro_f1" and (right := len({example.answers[i] for i in example.gold})) != 1:
                raise InputError(
                    f'task.metric: "macro_f1" does not fit {task}: it needs one right answer an example, and '
                    f"{example.where} has {right}; these do: accuracy"
                )
            if name in (*TEXT_METRICS, "pass_at_k") and (why := misfit(name, example.reference)):
                others = ", ".join(fitting(example.reference)) or "none"
                raise InputError(
                    f'task.metric: "{name}" does not fit {task}: {why} ({example.where}); these do: {others}'
                )


def check_scoring(
    examples: Sequence[Example],
    scoring: str,
    tokenizer: Any,
    max_length: int | None,
    beyond: Mapping[int, str] | None = None,
) -> None:
    """Raises InputError where a scoring has no number for some example: after training would be too late.

    beyond: see `check_words`.
    """
    if scoring in NULLED:
        nulls = null_examples(examples, scoring)
        check_words(tokenize_all(tokenizer, list(nulls.values()), max_length, "options", False, True), beyond)
    if scoring == "characters":
        blank = next((e for e in examples if any(not answer.strip() for answer in e.answers)), None)
        if blank is not None:
            raise InputError(f"{blank.where}: an option without a character has no score by characters; mend the row")


def check_words(encoded: Iterable[Encoded], beyond: Mapping[int, str] | None) -> None:
    """Raises InputError for a token that the model has no row for, naming it and the example that holds it.

    beyond: {id: text} of those tokens (`Loaded.beyond`); mostly there are none, and nothing is looked at.
    """
    for example in encoded if beyond else ():
        for row in example.rows:
            refuse_words((*row.ids, *(label[1] for label in row.labels)), beyond or {}, example.example.where)


def refuse_words(ids: Iterable[int], beyond: Mapping[int, str], place: str) -> None:
    """`check_words` for the ids of one text."""
    number = next((number for number in ids if number in beyond), None)
    if number is not None:
        raise InputError(
            f'{place}: the token "{beyond[number]}" has id {number}, and the model\'s embedding has no such row; '
            f"resize the model's embeddings to the tokenizer and save both, or use a tokenizer without added words"
        )


def check_choices(splits: Splits) -> None:
    """Raises InputError for a row of one's own that lists an option twice."""
    for examples in splits.values():
        for example in examples:
            twice = next((a for i, a in enumerate(example.answers) if a in example.answers[:i]), None)
            if twice is not None:
                raise InputError(f"{example.where}: the option {twice.strip()!r} is listed twice; list each once")


def say_what_repeats(splits: Splits, where: str) -> None:
    """Logs how many rows of a known task list an option twice, as SIQA's do: either copy counts."""
    examples = [example for listed in splits.values() for example in listed]
    repeats = [example for example in examples if len(set(example.answers)) < len(example.answers)]
    if repeats:
        message = "%s: %d of %d rows list an option twice (%s is one): where it is right, either copy counts"
        log.info(message, where, len(repeats), len(examples), repeats[0].where)


def say_cut_answers(splits: Splits, decoding: Decoding, where: str) -> None:
    """Warns of right answers that hold a stop string: a text can never be one of them."""
    examples = [example for listed in splits.values() for example in listed]
    cut = [e for e in examples if any(stop in e.answers[e.gold[0]] for stop in decoding.stop)]
    if cut:
        log.warning(
            "%s: %d of %d answers to learn hold a stop string, where a generated text is cut (%s is one); mend the "
            "template's answers or the stop strings",
            where,
            len(cut),
            len(examples),
            cut[0].where,
        )


def say_borders(splits: Splits, where: str, tokenizer: Any = None) -> None:
    """Warns once of each kind of border between prompt and answer that a model meets nowhere else, with a count.

    tokenizer: for the borders inside a token, which are looked for in LOOKED examples at most.
    """
    every = [example for listed in splits.values() for example in listed if example.cuttable is None]
    examples = [example for example in every if not example.unanswered]
    ends = {
        "prompts end in a blank, and most tokens begin with one: move it to the answers": [
            e for e in every if e.prompt[-1:] in (" ", "\t")
        ],
        "rows have an answer that ends in white space, which is learnt and scored too: strip it": [
            e for e in examples if any(answer[-1:].isspace() for answer in e.answers)
        ],
    }
    if tokenizer is not None:
        ends[
            "rows have a token with the prompt's end and the answer's beginning: it is learnt and scored with the "
            "answer, but a generated text begins behind it; let answers begin with a blank, or prompts end in a line "
            "break"
        ] = merged(tokenizer, [e for e in examples[:LOOKED] if e.prompt])
    for what, such in ends.items():
        if such:
            looked = min(len(every), LOOKED) if "token with" in what else len(every)
            log.warning("%s: %d of %d %s (%s is one)", where, len(such), looked, what, such[0].where)
