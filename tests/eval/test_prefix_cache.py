"""A start that all rows share is read once: the same scores, in fewer tokens, and models that cannot are found out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.family_runs import Directories, adapted, load_family
from tests.tiny_models import cpu_loss
from zofo.data import Example
from zofo.data.batch import Batch
from zofo.data.fewshot import demonstrate
from zofo.data.option_tree import option_trees
from zofo.data.tokenization import Encoded, tokenize_all
from zofo.eval import prefix_cache
from zofo.eval.likelihood import evaluate
from zofo.models import tree_probe
from zofo.models._transformers import passed_cache
from zofo.objectives._loss import Loss

TAKES = ("llama", "llama-untied", "opt", "gpt2", "qwen2", "mixtral", "mistral", "gemma2")  # the last two with windows


def few_shot(tokenizer: Any, k: int = 3) -> list[Encoded]:
    """Seven questions of different lengths and answers behind the same demonstrations."""
    texts = [
        "the film is warm",
        "one two three four",
        "hello, the dog is good and it digs",
        "the plot",
        "stale jokes are dull",
    ]
    answers = (
        (" great", " terrible one"),
        (" five", " six seven", " ten"),
        (" I would see it again", " the end never comes"),
    )
    plain = [Example(str(i), f"{texts[i % 5]} {i}. It was", answers[i % 3], (i % 2,)) for i in range(7)]
    shown = [Example(f"d{i}", f"user says hello {i}, it is", (" good morning", " bad"), (0,)) for i in range(4)]
    return tokenize_all(tokenizer, demonstrate(plain, shown, k, "fixed", 0), None, "options", add_eos=False)


def loss_of(model: Any, adapter: str | None, tokenizer: Any) -> Loss:
    model.register_forward_pre_hook(tree_probe._additive, with_kwargs=True)
    return cpu_loss(model, "options", adapted(adapter, model, tokenizer) if adapter else None)


def tokens_read(loss: Loss) -> list[int]:
    """Filled with the width times the rows of every forward from now on."""
    read: list[int] = []
    loss.scorer.model.register_forward_pre_hook(
        lambda m, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    return read


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("adapter", [None, "lora"])
@pytest.mark.parametrize("family", TAKES)
def test_the_same_scores_from_fewer_tokens(
    family: str,
    adapter: str | None,
    packed: bool,
    tiny_tokenizer: Any,
    family_dir: Directories,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if packed and family in ("mistral", "gemma2"):
        pytest.skip("packed rows must lie in the window, and these do not")
    encoded = few_shot(tiny_tokenizer)
    encoded = option_trees(encoded, None) if packed else encoded
    assert any(row.branches for e in encoded for row in e.rows) == packed
    loss = loss_of(load_family(family_dir(family)), adapter, tiny_tokenizer)
    read = tokens_read(loss)
    with_start = evaluate(loss, encoded, "accuracy", 3)
    shared, after = sum(read), len(read)
    monkeypatch.setattr(prefix_cache, "LEAST", math.inf)
    plain = evaluate(loss, encoded, "accuracy", 3)
    for a, b in zip(with_start.predictions, plain.predictions):
        assert a.scores == pytest.approx(b.scores, abs=2e-5)
    assert with_start.values == pytest.approx(plain.values, abs=1e-5)
    assert shared < 0.8 * sum(read[after:]), "the trial's two examples included"


def test_a_model_that_keeps_no_keys_and_values_reads_every_row_whole(
    tiny_tokenizer: Any, family_dir: Directories
) -> None:
    assert (
        prefix_cache.read_start(
            loss_of(load_family(family_dir("mamba")), None, tiny_tokenizer).scorer, few_shot(tiny_tokenizer)
        )
        is None
    )


@pytest.mark.parametrize("adapter", ["prefix", "prompt", "dept"])
def test_soft_prompts_stand_before_the_start(adapter: str, tiny_tokenizer: Any, family_dir: Directories) -> None:
    loss = loss_of(load_family(family_dir("llama")), adapter, tiny_tokenizer)
    assert prefix_cache.read_start(loss.scorer, few_shot(tiny_tokenizer)) is None


def test_a_model_that_computes_something_else_is_found_out(
    tiny_tokenizer: Any, family_dir: Directories, caplog: pytest.LogCaptureFixture
) -> None:
    """One whose positions begin again behind a cache."""
    model = load_family(family_dir("llama"))
    loss = loss_of(model, None, tiny_tokenizer)
    assert prefix_cache.read_start(loss.scorer, few_shot(tiny_tokenizer)) is not None

    def again(module: Any, args: Any, kwargs: Any) -> Any:
        if passed_cache(kwargs) is not None and kwargs.get("position_ids") is not None:
            kwargs["position_ids"] = kwargs["position_ids"] - kwargs["position_ids"].min()
        return args, kwargs

    model.register_forward_pre_hook(again, with_kwargs=True)
    with caplog.at_level("INFO", logger="zofo"):
        assert prefix_cache.read_start(loss.scorer, few_shot(tiny_tokenizer)) is None
    assert "LlamaForCausalLM differs" in caplog.text


def test_a_start_ends_before_the_first_label(tiny_tokenizer: Any) -> None:
    """Also where all examples are one and the same text; and a start of two tokens is not worth a pass."""
    same = few_shot(tiny_tokenizer)[:1] * 5
    assert prefix_cache._shared(same) == min(t for row in same[0].rows for t, _, _ in row.labels)
    others = tokenize_all(
        tiny_tokenizer, [Example(str(i), f"{i} x", (" a", " b"), (0,)) for i in range(5)], None, "options", False
    )
    assert prefix_cache._shared(others) < prefix_cache.LEAST


def test_the_batch_of_a_start_holds_the_rest_alone(tiny_tokenizer: Any, family_dir: Directories) -> None:
    encoded = few_shot(tiny_tokenizer)
    loss = loss_of(load_family(family_dir("llama")), None, tiny_tokenizer)
    start = prefix_cache.read_start(loss.scorer, encoded)
    assert start is not None
    layers: list[Any] = start.start.cache.layers
    before = [layer.keys.clone() for layer in layers]
    _, batch = start.logprobs(encoded)
    assert isinstance(batch, Batch)
    assert batch.tokens == sum(len(row.ids) - start.length for e in encoded for row in e.rows)
    assert all(torch.equal(a, layer.keys) for a, layer in zip(before, layers)), "a batch leaves nothing behind"
