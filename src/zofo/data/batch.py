"""Examples as tensors: collation, micro-batches, batches joined. Their order is in `stream`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from zofo.data.tokenization import Encoded, Row


@dataclass(frozen=True)
class Batch:
    """R rows of L tokens for E examples with O options and N labels. Padded right; padding is known by the mask alone.

    Rows, options and labels are in the order of their examples, labels in the order of their options. A row may
    be an option tree (see `option_tree`): its branches see the prefix and themselves.
    """

    input_ids: Tensor  # [R, L] long
    attention_mask: Tensor  # [R, L] long
    positions: Tensor  # [N] long: r * L + t, the hidden state that predicts label n
    labels: Tensor  # [N] long: the token to predict
    option: Tensor  # [N] long: the option, 0..O-1, that label n belongs to
    option_example: Tensor  # [O] long: the example, 0..E-1, of each option
    gold: Tensor  # [O] bool: is a right answer
    first: Tensor  # [O] bool: is its example's first right answer, the one that is trained on where one alone is
    row_example: Tensor  # [R] long: the example of each row
    examples: int
    tokens: int  # real tokens, without padding
    segments: Tensor | None = None  # [R, L] long: 0 the prefix, k the branch k of an option tree; None: no row is one
    source: tuple[Encoded, ...] = ()  # what it was collated from, for objectives that generate

    def inputs(self) -> dict[str, Tensor]:
        """What the model is called with: a mask [R, L]; of option trees a bool mask [R, 1, L, L] and position ids."""
        if self.segments is None:
            return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        seen, real = tree(self.segments, self.attention_mask), self.attention_mask
        # A token sees all that stands before it on its own path, and itself.
        return {
            "input_ids": self.input_ids,
            "attention_mask": seen[:, None],
            "position_ids": (seen.sum(-1) - 1) * real,
        }

    def to(self, device: torch.device | str) -> Batch:
        return replace(self, **{k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)})

    def select(self, example_indices: slice, trimmed: bool = True) -> Batch:
        """The batch of some examples alone (a micro-batch): renumbered, its padding trimmed to its own longest row.

        trimmed: False leaves padding and kind of mask as beside the others.
        """
        chosen = torch.zeros(self.examples, dtype=torch.bool, device=self.input_ids.device)
        chosen[example_indices] = True
        new_example = torch.cumsum(chosen, 0) - 1
        rows, options = chosen[self.row_example], chosen[self.option_example]
        labels = options[self.option]
        new_row, new_option = torch.cumsum(rows, 0) - 1, torch.cumsum(options, 0) - 1
        old_length = self.input_ids.shape[1]
        mask = self.attention_mask[rows]
        length = (int(mask.sum(1).max()) if len(mask) else 0) if trimmed else old_length
        row, position = self.positions[labels] // old_length, self.positions[labels] % old_length
        segments = None if self.segments is None else self.segments[rows, :length].contiguous()
        return Batch(
            input_ids=self.input_ids[rows, :length].contiguous(),
            attention_mask=mask[:, :length].contiguous(),
            positions=new_row[row] * length + position,
            labels=self.labels[labels],
            option=new_option[self.option[labels]],
            option_example=new_example[self.option_example[options]],
            gold=self.gold[options],
            first=self.first[options],
            row_example=new_example[self.row_example[rows]],
            examples=int(chosen.sum()),
            tokens=int(mask.sum()),
            segments=segments if segments is not None and (segments.any() or not trimmed) else None,
            source=self.source[example_indices],
        )


def tree(segments: Tensor, mask: Tensor) -> Tensor:
    """bool [R, L, L]: which tokens (last) a token sees. segments, mask: [R, L].

    Padding counts as prefix (segment 0) that nothing sees: so no softmax, not even padding's own, is over nothing.
    """
    on_path = (segments[:, None] == 0) | (segments[:, None] == segments[..., None])
    return (on_path & mask.bool()[:, None]).tril()


def collate(encoded: Sequence[Encoded], pad_id: int) -> Batch:
    """Pad the rows of some examples into one batch (on the CPU)."""
    rows = [row for e in encoded for row in e.rows]
    lengths = np.fromiter((len(row.ids) for row in rows), np.int64, len(rows))
    mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
    ids = np.full(mask.shape, pad_id, np.int64)
    ids[mask] = np.fromiter(chain.from_iterable(row.ids for row in rows), np.int64, int(lengths.sum()))

    row_counts = np.array([len(e.rows) for e in encoded], np.int64)
    option_counts = np.array([e.n_options for e in encoded], np.int64)
    row_example = np.repeat(np.arange(len(encoded)), row_counts)
    option_base = np.cumsum(option_counts) - option_counts
    label_counts = np.array([len(row.labels) for row in rows], np.int64)
    numbers = chain.from_iterable(chain.from_iterable(row.labels for row in rows))
    position, token, option = np.fromiter(numbers, np.int64, 3 * int(label_counts.sum())).reshape(-1, 3).T
    label_row = np.repeat(np.arange(len(rows)), label_counts)
    option = option + option_base[row_example[label_row]]
    order = np.argsort(option, kind="stable")  # within an option labels already run from left to right

    gold = np.zeros(int(option_counts.sum()), np.bool_)
    first = np.zeros_like(gold)
    gold[[base + g for base, e in zip(option_base, encoded) for g in e.gold]] = True
    first[[base + e.gold[0] for base, e in zip(option_base, encoded)]] = True
    return Batch(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask.astype(np.int64)),
        positions=torch.from_numpy((label_row * mask.shape[1] + position)[order]),
        labels=torch.from_numpy(token[order]),
        option=torch.from_numpy(option[order]),
        option_example=torch.from_numpy(np.repeat(np.arange(len(encoded)), option_counts)),
        gold=torch.from_numpy(gold),
        first=torch.from_numpy(first),
        row_example=torch.from_numpy(row_example),
        examples=len(encoded),
        tokens=int(lengths.sum()),
        segments=_segments(rows, mask.shape),
        source=tuple(encoded),
    )


def _segments(rows: Sequence[Row], shape: tuple[int, ...]) -> Tensor | None:
    if not any(row.branches for row in rows):
        return None
    segments = np.zeros(shape, np.int64)
    for r, row in enumerate(rows):
        for number, start in enumerate(row.branches, 1):
            segments[r, start : len(row.ids)] = number
    return torch.from_numpy(segments)


def concat(batches: Sequence[Batch], pad_id: int) -> Batch:
    """The rows of several batches in one, in order, renumbered: one forward for all of them."""
    length = max(batch.input_ids.shape[1] for batch in batches)
    has_trees = any(batch.segments is not None for batch in batches)
    rows, options, examples = 0, 0, 0
    parts: dict[str, list[Tensor]] = {}
    for batch in batches:
        old = batch.input_ids.shape[1]
        part = {
            "input_ids": torch.nn.functional.pad(batch.input_ids, (0, length - old), value=pad_id),
            "attention_mask": torch.nn.functional.pad(batch.attention_mask, (0, length - old)),
            "positions": (batch.positions // old + rows) * length + batch.positions % old,
            "labels": batch.labels,
            "option": batch.option + options,
            "option_example": batch.option_example + examples,
            "gold": batch.gold,
            "first": batch.first,
            "row_example": batch.row_example + examples,
        }
        if has_trees:
            segments = torch.zeros_like(batch.input_ids) if batch.segments is None else batch.segments
            part["segments"] = torch.nn.functional.pad(segments, (0, length - old))
        for name, value in part.items():
            parts.setdefault(name, []).append(value)
        rows, options, examples = rows + len(batch.input_ids), options + len(batch.gold), examples + batch.examples
    joined = {name: torch.cat(values) for name, values in parts.items()}
    source = tuple(chain.from_iterable(batch.source for batch in batches))
    return Batch(**joined, examples=examples, tokens=sum(batch.tokens for batch in batches), source=source)
