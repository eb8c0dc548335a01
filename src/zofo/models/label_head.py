"""Logits only where a label is, in chunks of the vocabulary where there are many: they are most of a small model's
activations."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zofo.errors import InputError
from zofo.zo.dtensors import is_part
from zofo.zo.lockstep import Lockstep
from zofo.zo.quantized import is_quantized
from zofo.zo.shift import in_memory, slab

if TYPE_CHECKING:
    from zofo.data.batch import Batch

CHUNK = 1 << 23  # logits in one piece: 32 MiB of fp32, beside which a second piece's worth of temporaries is alive


class _Forward(threading.local):
    """What the forward of this thread is: both sides of an estimate may be under way."""

    def __init__(self) -> None:
        self.positions: tuple[Tensor, Tensor] | None = None
        self.length = 0  # of a row
        self.calls = 0  # of the head
        self.computed: list[Tensor] = []


class LabelHead:
    """Makes the model compute logits only where a label is: the head's input is gathered to those positions first.

    A hook before the output embeddings, so that softcaps and logit scales behind the head stay as they are. More than
    CHUNK logits are never there at once where the head's output is the model's: they are computed, and computed again
    for the gradient, piece by piece of the vocabulary.
    """

    def __init__(self, model: nn.Module, sides: Lockstep | None = None) -> None:
        """sides: computes both sides of an estimate in one reading of the weights; None: each evaluation by itself."""
        head: Any = model.get_output_embeddings()  # pyright: ignore[reportCallIssue]
        if head is None:
            raise ValueError(f"{type(model).__name__} has no output embeddings: is it a causal language model?")
        self._model, self._head, self._sides = model, head, sides
        self._forward = _Forward()
        self._last: bool | None = None  # whether nothing comes behind the head
        head.register_forward_pre_hook(self._gather)

    def _gather(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        here = self._forward
        if here.positions is None:
            return None
        here.calls += 1
        hidden, (rows, columns) = args[0], here.positions
        virtual = hidden.shape[1] - here.length  # a soft prompt's tokens stand before the row's own
        rows, columns = rows.to(hidden.device), columns.to(hidden.device)  # of several devices it may be another
        return (hidden[rows, columns + virtual][None], *args[1:])

    def logprobs(self, model: Callable[..., Any], batch: Batch, **kwargs: Any) -> Tensor:
        """fp32 [N]: the log-probability of each label. Options that share a position share its logits.

        Raises InputError for a model that computes logits past its output embeddings, or calls them more than once.
        """
        flat, place = torch.unique(batch.positions, return_inverse=True)
        length = batch.input_ids.shape[1]
        chunked = self._chunks(flat.numel()) and self._is_last(batch)
        positions, here = (flat // length, flat % length), self._forward

        def labelled(hidden: Tensor) -> Tensor:
            weights = self._head.weight, self._head.bias
            there = place.to(hidden.device), batch.labels.to(hidden.device)
            here.computed.append(label_logprobs(hidden[0], *weights, *there).to(place.device))
            return hidden[..., :1]  # the model hands it through as its logits, which nobody reads

        def compute() -> Tensor:
            here.positions, here.length, here.calls, here.computed = positions, length, 0, []
            try:
                out = model(**batch.inputs(), use_cache=False, **kwargs)
            finally:
                here.positions, computed, here.computed = None, here.computed, []
            if here.calls != 1:
                raise InputError(
                    f"model.name: {type(self._model).__name__} calls its output embeddings {here.calls} times "
                    f"a forward, not once, so its logits cannot be taken where the labels are; this model is not "
                    f"supported"
                )
            return computed[0] if chunked else torch.log_softmax(out.logits[0].float(), dim=-1)[place, batch.labels]

        forward = self._head.forward
        try:
            if chunked:
                self._head.forward = labelled
            if self._sides is None:
                return compute()
            return self._sides.evaluate(compute, batch.input_ids, batch.positions, batch.labels)
        finally:
            self._head.forward = forward

    def _chunks(self, positions: int) -> bool:
        weight = self._head.weight
        plain = type(self._head) is nn.Linear and not is_quantized(weight)
        if is_part(weight) or weight.shape[0] != self._head.out_features:
            return False  # others have the rest of the words, or it is gathered when the head runs
        return plain and positions * self._head.out_features > CHUNK

    @torch.no_grad()
    def _is_last(self, batch: Batch) -> bool:
        """Whether the head's output is the model's, tried once on a token: no softcap, no scale.

        The head says large numbers of ours then: what its own weights make of a token may be too small for a softcap.
        """
        if self._last is None:
            said: list[Tensor] = []

            def large(module: nn.Module, args: Any, out: Tensor) -> Tensor:
                said.append(torch.linspace(-90, 90, out.shape[-1], device=out.device).to(out.dtype).expand_as(out))
                return said[-1]

            handle = self._head.register_forward_hook(large)
            try:
                logits = self._model(input_ids=batch.input_ids[:1, :1], use_cache=False).logits  # pyright: ignore
            finally:
                handle.remove()
            self._last = len(said) == 1 and torch.equal(said[0].float(), logits.float())
        return self._last


def label_logprobs(hidden: Tensor, weight: Tensor, bias: Tensor | None, place: Tensor, labels: Tensor) -> Tensor:
    """fp32 [N]: log softmax(hidden W' + b)[place, labels], with one chunk of the vocabulary's logits at a time.

    hidden [P, D]; weight [V, D] and bias [V] or None, or stand-ins for them; place [N]: each label's row of hidden.
    """
    if torch.is_grad_enabled():
        return _LogProbs.apply(hidden, weight, bias, place, labels)  # pyright: ignore[reportReturnType]
    picked, normaliser = _one_pass(hidden, weight, bias, place, labels)
    return picked - normaliser[place]


def _one_pass(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, place: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """(each label's logit [N], each row's log sum exp over the vocabulary [P]), fp32."""
    peak = hidden.new_full((len(hidden),), -torch.inf, dtype=torch.float32)
    total, picked = torch.zeros_like(peak), peak.new_zeros(labels.numel())
    for start, stop, logits in _chunks(hidden, weight, bias):
        higher = torch.maximum(peak, logits.amax(1))
        inside = ((labels >= start) & (labels < stop)).nonzero()[:, 0]
        picked[inside] = logits[place[inside], labels[inside] - start]
        total = total * torch.exp(peak - higher) + logits.sub_(higher[:, None]).exp_().sum(1)
        peak = higher
    return picked, peak + total.log()


class _LogProbs(torch.autograd.Function):
    """`label_logprobs` with a gradient, for which the logits are computed again."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, place: Tensor, labels: Tensor) -> Tensor:
        picked, normaliser = _one_pass(hidden, weight, bias, place, labels)
        ctx.save_for_backward(hidden, weight, bias, place, labels, normaliser)
        return picked - normaliser[place]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, bias, place, labels, normaliser = ctx.saved_tensors
        row = grad.new_zeros(len(hidden)).index_add(0, place, grad)
        of_hidden = torch.zeros_like(hidden, dtype=torch.float32) if ctx.needs_input_grad[0] else None
        of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        of_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None
        for start, stop, logits in _chunks(hidden, weight, bias):
            softmax = logits.sub_(normaliser[:, None]).exp_()
            gradient = softmax.mul_(-row[:, None])  # of the logits; row: the sum over a row's labels
            inside = ((labels >= start) & (labels < stop)).nonzero()[:, 0]
            gradient.index_put_((place[inside], labels[inside] - start), grad[inside], accumulate=True)
            gradient = gradient.to(weight.dtype)
            if of_hidden is not None:
                of_hidden += gradient @ weight[start:stop]
            if of_weight is not None:
                of_weight[start:stop] = gradient.T @ hidden
            if of_bias is not None:
                of_bias[start:stop] = gradient.sum(0)
        return None if of_hidden is None else of_hidden.to(hidden.dtype), of_weight, of_bias, None, None


def _chunks(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Iterator[tuple[int, int, Tensor]]:
    """(start, stop, fp32 logits [P, stop - start]) over the vocabulary."""
    rows, bias = max(1, CHUNK // len(hidden)), in_memory(bias)
    for start in range(0, weight.shape[0], rows):
        stop = min(start + rows, weight.shape[0])
        part = None if bias is None else bias[start:stop]
        yield start, stop, F.linear(hidden, slab(weight, start, stop), part).float()
