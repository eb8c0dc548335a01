"""`Predictor` beside plain forwards and beside `zofo eval`: the same scores, the same texts, whatever the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import sentiment_rows
from tests.scores_by_hand import answer_tokens
from zofo import InputError
from zofo.config.resolve import ModelConfig
from zofo.config.sections import TaskConfig
from zofo.data.example import Example
from zofo.data.files import BadRows, Record
from zofo.data.unlabelled import asking
from zofo.eval import predictor as module
from zofo.eval.decoding import Request, decode
from zofo.eval.predictor import Answer, Predictor
from zofo.models.load import load

LABELS = ("great", "terrible", "not so bad")
TEXTS = [row["text"] for row in sentiment_rows(7)]


def checked(p: Predictor, examples: Sequence[Example]) -> None:
    """As rows are looked over before the first is answered."""
    bad = BadRows()
    p.check(examples, bad)
    bad.stop("rows", len(examples))


def records(texts: list[Any], column: str = "text") -> list[Record]:
    return [Record(f"r:{i}", f"r:{i}", {column: text}) for i, text in enumerate(texts, 1)]


def predictor(model: Path, labels: tuple[str, ...] = LABELS, batch_size: int = 3, **task: Any) -> Predictor:
    loaded = load(ModelConfig(name=str(model), device="cpu", max_length=task.pop("max_length", None)))
    cfg = TaskConfig(name="./x.jsonl", **task)
    how = asking(cfg, records(["a"], "text" if labels else "prompt"), labels, loaded.tokenizer)
    return Predictor(loaded, loaded.model, how, cfg.scoring, batch_size, 0)


def ask(p: Predictor, texts: list[Any], bad: BadRows | None = None) -> list[Answer]:
    column = "text" if p.asking.kind == "options" else "prompt"
    return p([p.asking.make(record) for record in records(texts, column)], bad or BadRows())


@torch.no_grad()
def test_beside_plain_forwards(tiny_model_dir: Path) -> None:
    p = predictor(tiny_model_dir)
    for text, answer in zip(TEXTS, ask(p, TEXTS), strict=True):
        by_hand = torch.stack([
            answer_tokens(p.loaded.model, p.loaded.tokenizer, text, f" {label}").mean() for label in LABELS
        ])  # fmt: skip
        assert answer.options == LABELS
        assert answer.prediction == LABELS[int(by_hand.argmax())]
        assert list(answer.probabilities) == pytest.approx(by_hand.softmax(0).tolist(), abs=1e-5)
        assert sum(answer.probabilities) == pytest.approx(1)


@pytest.mark.parametrize(
    "scoring",
    ["calibrated", *(pytest.param(each, marks=pytest.mark.slow) for each in ("mean", "sum", "characters", "pmi"))],
)
def test_no_batch_and_no_part_matters(scoring: str, tiny_model_dir: Path) -> None:
    """A row alone, all rows at once, or one part after the other: the null prompts are scored once for all."""
    one, many = (predictor(tiny_model_dir, batch_size=size, scoring=scoring) for size in (1, 32))
    whole = ask(many, TEXTS)
    apart = [answer for text in TEXTS for answer in ask(one, [text])]
    assert [a.prediction for a in whole] == [a.prediction for a in apart]
    for a, b in zip(whole, apart, strict=True):
        assert list(a.probabilities) == pytest.approx(list(b.probabilities), abs=1e-5)
    assert len(one._null) == (scoring in ("calibrated", "pmi"))


def test_null_scores_are_bounded(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows with options of their own have each their own, and a million of them are forgotten in time."""
    monkeypatch.setattr(module, "NULLS", 4)
    loaded = load(ModelConfig(name=str(tiny_model_dir), device="cpu"))
    rows = [Record(f"r:{i}", f"r:{i}", {"text": "a film", "choices": [f"a {i}", "b"]}) for i in range(20)]
    how = asking(TaskConfig(name="./x.jsonl", scoring="pmi"), rows, (), loaded.tokenizer)
    p = Predictor(loaded, loaded.model, how, "pmi", 4, 0)
    whole = p([how.make(row) for row in rows], BadRows())
    p._null.clear()
    apart = [p([how.make(row)], BadRows())[0] for row in rows]
    assert len(p._null) <= 5
    assert [a.prediction for a in whole] == [a.prediction for a in apart]
    assert whole[3].options == ("a 3", "b")


def test_texts_are_what_greedy_decoding_writes(tiny_model_dir: Path) -> None:
    p = predictor(tiny_model_dir, (), max_new_tokens=6)
    tokenizer, done = p.loaded.tokenizer, []
    examples = [p.asking.make(record) for record in records(TEXTS, "prompt")]
    answers = p(examples, BadRows(), done.append)
    for text, answer in zip(TEXTS, answers, strict=True):
        request = Request(tokenizer(text)["input_ids"], 6)
        assert decode(p.model, tokenizer, [request], p.asking.decoding, p.loaded.pad_id) == [answer.text]
        assert answer.prediction is None
    assert done == list(range(1, 8))


def test_sampled_texts_hang_on_the_row_and_the_seed_alone(tiny_model_dir: Path) -> None:
    texts = []
    for size, order in ((1, 1), (4, -1)):
        p = predictor(tiny_model_dir, (), batch_size=size, max_new_tokens=6, temperature=1.0)
        examples = [p.asking.make(record) for record in records(TEXTS, "prompt")][::order]
        texts.append([answer.text for answer in p(examples, BadRows())][::order])
    assert texts[0] == texts[1]
    p.seed = 1
    assert [a.text for a in ask(p, TEXTS)] != texts[0]
    state = torch.random.get_rng_state()
    ask(p, TEXTS)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("labels", [LABELS, ()], ids=["options", "texts"])
def test_rows_longer_than_the_model(labels: tuple[str, ...], tiny_model_dir: Path) -> None:
    """Lose their beginning and are counted; the end of the text decides."""
    p = predictor(tiny_model_dir, labels, max_length=40, **({} if labels else {"max_new_tokens": 6}))
    long = "so " * 100 + "the film was"
    first, other, short = ask(p, [long, "quite another film " * 20 + long, "a film"])
    assert p.cut == 2
    assert first == other != short
    checked(p, [p.asking.make(record) for record in records([long], "text" if labels else "prompt")])
    assert p.cut == 2, "a look is no answer"


@pytest.mark.parametrize("labels", [(*LABELS, "x y " * 60), ()], ids=["options", "texts"])
def test_rows_that_cannot_fit(labels: tuple[str, ...], tiny_model_dir: Path) -> None:
    """Found before anything is answered, or left without an answer."""
    p = predictor(tiny_model_dir, labels, max_length=30, **({} if labels else {"max_new_tokens": 40}))
    examples = [p.asking.make(record) for record in records(TEXTS, "text" if labels else "prompt")]
    with pytest.raises(InputError, match=r"^r:1: "):
        checked(p, examples)
    bad = BadRows(True)
    assert [(a.prediction, a.text) for a in p(examples, bad)] == [(None, None)] * 7
    assert len(bad.places) == 7


def test_options_that_are_one(tiny_model_dir: Path) -> None:
    p = predictor(tiny_model_dir, ("x", " x"))
    with pytest.raises(InputError, match="are the same tokens"):
        checked(p, [p.asking.make(records(["a"])[0])])


def test_weights_that_are_nan(tiny_llama_untied_dir: Path) -> None:
    """A row whose scores are NaN has no prediction; the others of its batch have theirs."""
    p = predictor(tiny_llama_untied_dir)
    (token,) = p.loaded.tokenizer("Q", add_special_tokens=False)["input_ids"]
    before = ask(p, ["a film", "a Q", "b"])
    with torch.no_grad():
        p.loaded.model.get_input_embeddings().weight[token] = math.nan
    answers = ask(p, ["a film", "a Q", "b"])
    assert p.nan == 1
    assert answers[1] == Answer(options=LABELS)
    assert [answers[i].prediction for i in (0, 2)] == [before[i].prediction for i in (0, 2)]


@pytest.mark.parametrize("labels", [LABELS, ()], ids=["options", "texts"])
def test_tokens_that_the_embedding_has_not(labels: tuple[str, ...], tiny_model_dir: Path) -> None:
    p = predictor(tiny_model_dir, labels, **({} if labels else {"max_new_tokens": 3}))
    (token,) = p.loaded.tokenizer("Q", add_special_tokens=False)["input_ids"]
    p.loaded.beyond = {token: "Q"}
    examples = [p.asking.make(record) for record in records(["a", "a Q", "b"], "text" if labels else "prompt")]
    with pytest.raises(InputError, match=r'^r:2: the token "Q"'):
        checked(p, examples)
    answers = p(examples, BadRows(True))
    assert [a.prediction is None and a.text is None for a in answers] == [False, True, False]


def test_nothing_to_answer(tiny_model_dir: Path) -> None:
    assert predictor(tiny_model_dir)([], BadRows()) == []
    assert predictor(tiny_model_dir, ())([], BadRows()) == []
