"""Logits only where a label is: vocabulary times length is most of a small model's activation memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from zofo.data import Batch


class LabelHead:
    """Makes the model compute logits only where a label is: the head's input is gathered to those positions first.

    A hook before the output embeddings, so that softcaps and logit scales behind the head stay as they are.
    """

    def __init__(self, model: nn.Module) -> None:
        head = model.get_output_embeddings()  # pyright: ignore[reportCallIssue]
        if head is None:
            raise ValueError(f"{type(model).__name__} has no output embeddings: is it a causal language model?")
        self._positions: tuple[Tensor, Tensor] | None = None
        self._length = 0
        head.register_forward_pre_hook(self._gather)  # pyright: ignore[reportAttributeAccessIssue]

    def _gather(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self._positions is None:
            return None
        hidden, (rows, columns) = args[0], self._positions
        virtual = hidden.shape[1] - self._length  # a soft prompt's tokens stand before the row's own
        return (hidden[rows, columns + virtual][None], *args[1:])

    def logprobs(self, model: Callable, batch: Batch, **kwargs) -> Tensor:
        """fp32 [N]: the log-probability of each label. Options that share a position share its logits."""
        flat, place = torch.unique(batch.positions, return_inverse=True)
        self._length = batch.input_ids.shape[1]
        self._positions = (flat // self._length, flat % self._length)
        try:
            out = model(**batch.inputs(), use_cache=False, **kwargs)
        finally:
            self._positions = None
        return torch.log_softmax(out.logits[0].float(), dim=-1)[place, batch.labels]
