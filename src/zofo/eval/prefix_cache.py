"""What every row of a set begins with (demonstrations, mostly) is read once: its keys and values serve all batches.

Kept are the start's own keys and values, not a copy for each row: a layer sees them beside the batch's and forgets the
latter again. It is tried on a few examples before it is used, as option trees are.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zofo.data.batch import Batch, collate
from zofo.data.tokenization import Encoded, Row
from zofo.errors import out_of_memory
from zofo.models._transformers import SharedStart, unwrapped
from zofo.models.adapters._soft import is_soft
from zofo.models.scorer import Scorer

log = logging.getLogger("zofo")

LEAST = 32  # tokens worth a pass of their own
EXAMPLES = 4  # that share them


class Start:
    """The common start of all rows of `encoded`; `logprobs` takes examples of that set."""

    def __init__(self, scorer: Scorer, ids: Sequence[int]) -> None:
        """Reads the start with the model as it is. Raises ValueError for one that keeps more than keys and values."""
        self.scorer, self.length = scorer, len(ids)
        self.start = SharedStart(scorer.model, torch.tensor([ids], device=scorer.device))

    def logprobs(self, encoded: Sequence[Encoded]) -> tuple[Tensor, Batch]:
        """(fp32 [N], log-probability of each label; the batch of what comes behind the start)."""
        batch = collate([self._rest(e) for e in encoded], self.scorer.pad_id).to(self.scorer.device)
        return replace(self.scorer, model=self._forward).logprobs(batch), batch

    def _rest(self, encoded: Encoded) -> Encoded:
        n = self.length
        rows = [
            Row(row.ids[n:], tuple((t - n, y, o) for t, y, o in row.labels), tuple(b - n for b in row.branches))
            for row in encoded.rows
        ]
        return replace(encoded, rows=tuple(rows))

    def _forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor | None = None, use_cache: bool = False
    ) -> Any:
        """A forward of the rest: the mask and the positions count the start."""
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        mask = torch.cat([attention_mask.new_ones(*attention_mask.shape[:-1], self.length), attention_mask], dim=-1)
        positions = position_ids + self.length
        return self.scorer.model(
            input_ids=input_ids, attention_mask=mask, position_ids=positions, **self.start.arguments
        )


@torch.no_grad()
def read_start(scorer: Scorer, encoded: Sequence[Encoded]) -> Start | None:
    """The common start of all examples' rows, where it is long enough and the model gives the same numbers with it."""
    length = _shared(encoded)
    model: Any = scorer.model
    base = unwrapped(model)
    if length < LEAST or len(encoded) < EXAMPLES or is_soft(model):
        return None
    shortest = sorted(encoded, key=lambda e: e.size)[:2]
    try:
        start = Start(scorer, encoded[0].rows[0].ids[:length])
        with_start, _ = start.logprobs(shortest)
    except Exception as error:  # whatever a model's code says to a cache it does not know
        if out_of_memory(error):
            raise
        log.info("a start of %d tokens is read anew with each example: %s", length, error)
        return None
    batch = collate(shortest, scorer.pad_id).to(scorer.device)
    right = scorer.logprobs(batch)
    # In half precision rounding alone is 1e-2 and more; a start that is not seen, or misplaced, changes answers by 1
    close = 1e-4 if torch.finfo(base.dtype).bits >= 32 else 0.1
    if not torch.allclose(with_start, right, rtol=1e-5, atol=close):
        log.info("a start of %d tokens is read anew with each example: %s differs", length, type(base).__name__)
        return None
    return start


def _shared(encoded: Sequence[Encoded]) -> int:
    """Tokens that all rows begin with, up to the first that predicts a label."""
    rows = [row for e in encoded for row in e.rows]
    if not rows:
        return 0
    first, last = min(row.ids for row in rows), max(row.ids for row in rows)
    same = next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))
    labelled = min(t for row in rows for t, _, _ in row.labels)
    branched = min((row.branches[0] for row in rows if row.branches), default=same)
    return min(same, labelled, branched)
