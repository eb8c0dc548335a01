"""Logits in chunks of the vocabulary: the same numbers and gradients, less memory, and never past a softcap."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.tiny_models import IDS, build
from zofo.data import Example
from zofo.data.batch import collate
from zofo.data.tokenization import Encoded, Row
from zofo.models import label_head as module
from zofo.models.label_head import LabelHead, label_logprobs
from zofo.zo.direction import Direction
from zofo.zo.point import Point


def batch() -> Any:
    """3 rows; options that share a position, and labels in the middle of a row."""
    labels = (((8, 5, 0), (8, 90, 1)), ((3, 7, 0), (4, 8, 0), (8, 99, 1)), ((8, 0, 0), (8, 50, 1)))
    example = Example("x", "", ("a", "b"), (0,))
    return collate(
        [Encoded(example, (Row(tuple(ids.tolist()), row_labels),), (0,), 2) for ids, row_labels in zip(IDS, labels)], 2
    )


def random_problem(bias: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(4, 8, generator=generator), torch.randn(50, 8, generator=generator)
    place, labels = torch.tensor([0, 0, 1, 3, 3, 3]), torch.tensor([0, 49, 7, 7, 7, 21])
    return hidden, weight, torch.randn(50, generator=generator) if bias else None, place, labels


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 49, 50, 51])
def test_against_float64_with_gradients(rows: int, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 1, 7, 49, 50 vocabulary entries, one row of hidden without a label: log softmax and its gradients."""
    hidden, weight, b, place, labels = random_problem(bias)
    monkeypatch.setattr(module, "CHUNK", rows * len(hidden))
    ours = [t.requires_grad_() for t in (hidden, weight, b) if t is not None]
    exact = [t.detach().double().requires_grad_() for t in ours]
    factor = torch.tensor([1.0, -2.0, 0.5, 3.0, 1.5, -1.0])
    logprobs = label_logprobs(hidden, weight, b, place, labels)
    logits = torch.nn.functional.linear(exact[0], exact[1], exact[2] if bias else None)
    wanted = torch.log_softmax(logits, -1)[place, labels]
    assert torch.allclose(logprobs.double(), wanted, rtol=1e-5, atol=1e-5)
    (logprobs * factor).sum().backward()
    (wanted * factor.double()).sum().backward()
    for mine, other in zip(ours, exact):
        assert mine.grad is not None
        assert other.grad is not None
        assert torch.allclose(mine.grad.double(), other.grad, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(label_logprobs(hidden, weight, b, place, labels), logprobs)


def test_no_more_than_a_chunk_of_logits_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 40)
    hidden, weight, _, place, labels = random_problem(False)
    widths = []
    real = torch.nn.functional.linear
    monkeypatch.setattr(module.F, "linear", lambda *a: widths.append(a[1].shape[0]) or real(*a))
    label_logprobs(hidden.requires_grad_(), weight, None, place, labels).sum().backward()
    assert max(widths) == 10
    assert sum(widths) == 100  # once forward, once for the gradient


@pytest.mark.parametrize("family", ["llama", "llama-untied", "opt", "gpt2", "mistral", "gemma2", "cohere"])
@pytest.mark.parametrize("shifted", [False, True])
def test_chunked_is_whole_on_every_family(family: str, shifted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also behind a softcap (Gemma 2) or a scale (Cohere), where chunks are not used, and under a shift of theta."""
    model = build(family)
    head, point = LabelHead(model), Point(model)
    whole = _logprobs(head, model, point, shifted)
    monkeypatch.setattr(module, "CHUNK", 64)
    assert torch.allclose(_logprobs(head, model, point, shifted), whole, rtol=1e-5, atol=1e-6)
    assert head._last is (family not in ("gemma2", "cohere"))


def _logprobs(head: LabelHead, model: Any, point: Point, shifted: bool) -> Tensor:
    if not shifted:
        return head.logprobs(model, batch()).detach()
    with point.shifted(Direction(4), 1e-2):
        return head.logprobs(model, batch())


def test_a_head_that_is_more_than_a_product_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama-untied")

    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    doubled = Doubled(32, 100, bias=False)
    doubled.weight = model.lm_head.weight
    model.lm_head = doubled
    head = LabelHead(model)
    whole = head.logprobs(model, batch())
    monkeypatch.setattr(module, "CHUNK", 64)
    assert torch.equal(head.logprobs(model, batch()), whole)


def test_the_head_is_as_it_was_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama")
    head = LabelHead(model)
    monkeypatch.setattr(module, "CHUNK", 64)

    def broken(**kwargs: Any) -> None:
        model(**kwargs)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        head.logprobs(broken, batch())
    with torch.no_grad():
        assert model(input_ids=IDS).logits.shape == (3, 9, 100)
