"""MetaICL and multi-task tuning: rows of the same task in context, defaults, a step by hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.float64_llama import Wide, gradient, widen
from tests.six_tasks import SIZES, TRAINED, rows_of, sections, session_of, watch_batches
from tests.tensors_by_name import values
from zofo import finetune
from zofo.api.configure import resolve
from zofo.errors import InputError
from zofo.train.setup import build


def test_metaicl_shows_k_rows_of_the_same_task(tiny_model_dir: Path, six_tasks: Path, tiny_tokenizer: Any) -> None:
    method = {"name": "metaicl", "lr": 1e-3}
    s = session_of(tiny_model_dir, six_tasks, method, task={"num_fewshot": 2})
    by_task = {t: {(r["input"], r["output"]) for r in rows_of(t, SIZES[t])} for t in TRAINED}
    assert len(s.data.train) == sum(SIZES[t] for t in TRAINED)
    for e in s.data.train:
        *shown, asked = e.prompt.split("\n\n\n")
        assert len(shown) == 2
        pairs = [tuple(text.rsplit("\n", 1)) for text in shown]
        assert set(pairs) <= by_task[e.group]
        assert len(set(pairs)) == 2
        answer = e.answers[e.gold[0]]
        assert (asked, answer.removeprefix("\n")) in by_task[e.group]
        assert (asked, answer.removeprefix("\n")) not in pairs
    sets = {e.prompt.rpartition("\n\n\n")[0] for e in s.data.train if e.group == "v1.0-mail"}
    assert len(sets) > 12  # a draw for each example
    for e in s.encoded["train"]:  # the loss is on the output alone
        (row,) = e.rows
        text = tiny_tokenizer.decode([token for _, token, _ in row.labels])
        assert text.strip() == e.example.answers[e.example.gold[0]].strip()
        assert [t for t, _, _ in row.labels] == list(range(row.labels[0][0], len(row.ids)))
    assert all(e.prompt.count("\n\n\n") == 2 for e in (*s.data.dev, *s.data.test))
    assert s.config.train.batch_size == 8
    assert set(Counter(e.example.group for e in next(s.streams["train"]).source).values()) <= {1, 2}


def test_metaicl_channel(tiny_model_dir: Path, six_tasks: Path, tiny_tokenizer: Any) -> None:
    """The loss is on the input, given the output."""
    method = {"name": "metaicl", "lr": 1e-3}
    task = {"num_fewshot": 2, "template": "channel"}
    s = session_of(tiny_model_dir, six_tasks, method, task=task)
    inputs = {t: {r["input"]: r["output"] for r in rows_of(t, SIZES[t])} for t in TRAINED}
    for e in s.encoded["train"]:
        (row,) = e.rows
        scored = tiny_tokenizer.decode([token for _, token, _ in row.labels]).strip()
        assert scored in inputs[e.example.group]
        first = row.labels[0][0]
        before = tiny_tokenizer.decode(row.ids[: first + 1])
        assert before.rstrip().endswith(inputs[e.example.group][scored])
        assert before.count("\n\n\n") == 2
    assert s.method.step(0)["loss"] > 0


def test_defaults_of_metaicl_and_multi_task_ft(tiny_model_dir: Path, six_tasks: Path) -> None:
    icl = resolve(**sections(tiny_model_dir, six_tasks, Path("unused"), {"name": "metaicl"}))
    assert (icl.task.num_fewshot, icl.train.batch_size, icl.task.train_examples) == (4, 8, 768)
    plain = resolve(**sections(tiny_model_dir, six_tasks, Path("unused"), {"name": "multi-task-ft"}))
    assert (plain.task.num_fewshot, plain.task.train_examples) == (0, 768)
    s = build(plain)
    assert all("\n\n\n" not in e.prompt for e in s.data.train)


@pytest.mark.parametrize(
    ("method", "shots", "message"),
    [("multi-task-ft", 2, "this is method metaicl"), ("metaicl", 0, "this is method multi-task-ft")],
)
def test_demonstrations_belong_to_metaicl(
    method: str, shots: int, message: str, tiny_model_dir: Path, six_tasks: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        resolve(**sections(tiny_model_dir, six_tasks, Path("u"), {"name": method}, task={"num_fewshot": shots}))
    assert "task.num_fewshot" in str(caught.value)


@pytest.mark.parametrize("method", ["meta-bilevel-zofo", "metaicl", "multi-task-ft"])
def test_one_task_is_refused(method: str, tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="trains on many tasks") as caught:
        finetune(
            str(tiny_model_dir),
            str(sentiment_file),
            method,
            output_dir=tmp_path / "out",
            max_steps=22,
            overrides=["task.train_examples=20"],
        )
    assert "class-to-class" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_metaicl_in_float64(tiny_model_dir: Path, six_tasks: Path) -> None:
    """One SGD step of every weight: the gradient of sum over tokens / tokens of a batch of many tasks."""
    method = {"name": "metaicl", "lr": 0.5, "optimizer": "sgd"}
    s = session_of(tiny_model_dir, six_tasks, method, task={"num_fewshot": 1}, train={"batch_size": 3})
    wide = Wide(transformers.AutoConfig.from_pretrained(tiny_model_dir), 1.0, "lm")
    seen, before = watch_batches(s), values(s.problem.theta)
    at = {name: t.requires_grad_(True) for name, t in widen(s.problem.theta).items()}
    s.method.step(0)
    (batch,) = seen["train"]
    assert len({e.example.group for e in batch}) == 3
    want = dict(zip(at, gradient(wide.loss(at, None, batch), list(at.values()))))
    for name, value in s.problem.theta.items():
        scale = float(want[name].abs().max())
        torch.testing.assert_close((before[name] - value).double() / 0.5, want[name], rtol=2e-3, atol=3e-4 * scale)
