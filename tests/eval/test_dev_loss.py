"""The dev loss is the training loss, for every task: that of one batch of the same examples, as they are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.conftest import make_tokenizer, write_rows
from tests.family_runs import save_family
from tests.task_files import NAMES, shown, spec_of
from tests.tiny_models import cpu_loss
from zofo.api.configure import resolve
from zofo.config import registry
from zofo.data import Example
from zofo.data.batch import collate, concat
from zofo.data.example import objective_of
from zofo.data.option_tree import option_trees
from zofo.data.tokenization import Encoded, tokenize_all
from zofo.eval.likelihood import evaluate
from zofo.train.setup import build

OBJECTIVES = [name for name in registry.names("objectives") if objective_of(name).differentiable]
SEVERAL = [  # the first right answer is not the one of the lowest number, and not the likeliest
    Example("a", "hello, the dog is", (" good", " great", " a dog"), (2, 0)),
    Example("b", "one two three", (" four five", " six", " nine ten", " four"), (1, 3, 0)),
    Example("c", "the film is", (" warm", " very dull and stale"), (1,)),
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    made = make_tokenizer()
    made.model_max_length = 1024
    return made


@pytest.fixture(scope="module")
def model(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = save_family("llama", tmp_path_factory.mktemp("m"), tokenizer, positions=1024, initializer_range=0.3)
    return AutoModelForCausalLM.from_pretrained(folder).eval().requires_grad_(False)


def both(tokenizer: Any, examples: list[Example], objective: str, ends: bool) -> tuple[list[Encoded], list[Encoded]]:
    """(as they are trained, as they are evaluated)."""
    encodes = objective_of(objective).encodes
    trained, evaluated = (
        tokenize_all(tokenizer, examples, None, encodes, ends, for_eval) for for_eval in (False, True)
    )
    return trained, evaluated


def check(model: Any, trained: list[Encoded], evaluated: list[Encoded], objective: str, scoring: Any = "mean") -> float:
    """The dev loss is one number, whatever the batches, rows and scores, and that of one big training batch."""
    loss = cpu_loss(model, objective)
    whole = loss(collate(trained, loss.scorer.pad_id))
    for rows, size in ((evaluated, 1), (evaluated, 2), (evaluated, 99), (option_trees(evaluated, None), 3)):
        assert evaluate(loss, rows, "accuracy", size, scoring=scoring).loss == pytest.approx(whole, rel=1e-5)
    micro = cpu_loss(model, objective, micro=1)
    assert micro(collate(evaluated, loss.scorer.pad_id)) == pytest.approx(whole, rel=1e-5)
    return whole


@pytest.mark.parametrize("name", NAMES)
def test_of_every_task(name: str, model: Any, tokenizer: Any) -> None:
    spec = spec_of(name)
    objective = spec.objective if spec.objective != "auto" else "options" if spec.kind == "options" else "lm"
    trained, evaluated = both(tokenizer, shown(spec, "default"), objective, spec.kind != "options")
    check(model, trained, evaluated, objective)


@pytest.mark.parametrize("scoring", ["mean", "sum", "characters"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_with_several_right_answers(objective: str, scoring: str, model: Any, tokenizer: Any) -> None:
    check(model, *both(tokenizer, SEVERAL, objective, False), objective, scoring)


def test_lm_takes_the_first_right_answer_by_hand(model: Any, tokenizer: Any) -> None:
    total, tokens = 0.0, 0
    for e in SEVERAL:
        before = len(tokenizer(e.prompt)["input_ids"])
        ids = tokenizer(e.prompt + e.answers[e.gold[0]])["input_ids"]
        logp = torch.log_softmax(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double(), -1)
        total -= sum(float(logp[i - 1, ids[i]]) for i in range(before, len(ids)))
        tokens += len(ids) - before
    trained, evaluated = both(tokenizer, SEVERAL, "lm", False)
    assert check(model, trained, evaluated, "lm") == pytest.approx(total / tokens, rel=1e-5)


def test_the_first_is_kept_through_micro_batches_and_joined_ones(tokenizer: Any) -> None:
    _, encoded = both(tokenizer, SEVERAL, "lm", False)
    batch = collate(encoded, 0)
    assert batch.first.tolist() == [False, False, True, False, True, False, False, False, True]
    assert batch.select(slice(1, 3)).first.tolist() == [False, True, False, False, False, True]
    joined = concat([collate(encoded[2:], 0), collate(encoded[:1], 0)], 0)
    assert joined.first.tolist() == [False, True, False, False, True]


def test_in_a_run(tokenizer: Any, tmp_path: Path) -> None:
    """What selects a checkpoint of ReCoRD is what was trained: the dev set's loss as a training set's."""
    names = ("Agnes Brandt", "Brandt", "Vesk", "Lindholm")
    rows = [
        {
            "passage": f"{names[i % 4]} spoke on day {i}.\n@highlight\n{names[i % 3]} slept",
            "query": "The post, said @placeholder.",
            "entities": list(names),
            "answers": [names[(i + 1) % 4], names[i % 4]],
            "idx": {"passage": i, "query": i},
        }
        for i in range(12)
    ]
    folder = save_family("llama", tmp_path / "model", tokenizer, positions=1024, initializer_range=0.3)
    for split in ("train", "test"):
        write_rows(tmp_path / "data" / f"{split}.jsonl", rows)
    session = build(
        resolve(
            model=str(folder),
            task={"name": "record", "data": str(tmp_path / "data"), "dev_examples": 5, "test_examples": 5},
            method={"name": "mezo"},
            train={"output_dir": str(tmp_path / "out"), "max_steps": 1},
        )
    )
    trained = tokenize_all(tokenizer, session.data.dev, None, session.data.encodes, session.data.ends)
    assert any(len(e.example.gold) > 1 for e in trained)
    whole = session.problem.loss(collate(trained, session.loaded.pad_id))
    assert session.evaluator(session.encoded["dev"]).loss == pytest.approx(whole, rel=1e-5)
