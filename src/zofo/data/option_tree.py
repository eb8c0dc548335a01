"""Rows of one example that begin alike become one row: the prompt is computed once for all options.

An option tree is one row: the common prefix, then what is left of each row as a branch. A branch sees the prefix and
itself, and its positions go on from the prefix's end (`batch.tree`, `Batch.inputs`), so every label is predicted
from what its own row holds. There is no cache between forwards: gradients, adapters and mixed rows are as ever.

Not every model can do it (recurrent layers, biases by distance in the row, windows), so it is tried on some of the
examples at hand before it is used.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from zofo.data.tokenization import Encoded, Row

log = logging.getLogger("zofo")

LEAST = 4  # tokens of a prefix worth sharing: below it the mask of the tree costs what the tokens save
WORTH = 0.85  # an option tree has at most this share of its rows' tokens, since it attends over a longer row


def option_trees(encoded: Sequence[Encoded], limit: int | None) -> list[Encoded]:
    """The examples, their rows as an option tree where that saves tokens; the others are the same objects as before.

    limit: tokens of the longest row that the model takes; None: there is no limit.
    """
    return [_option_tree(e, limit) for e in encoded]


def _option_tree(encoded: Encoded, limit: int | None) -> Encoded:
    rows = encoded.rows
    if len(rows) < 2 or any(row.branches for row in rows):
        return encoded
    shared, total, after = encoded.shared, sum(len(row.ids) for row in rows), encoded.size
    if shared < LEAST or after > WORTH * total or (limit is not None and after > limit):
        return encoded
    ids, labels, branches = list(rows[0].ids[:shared]), list[tuple[int, int, int]](), list[int]()
    for row in rows:
        moved = len(ids) - shared
        branches.append(len(ids))
        ids += row.ids[shared:]
        labels += [(t if t < shared else t + moved, token, option) for t, token, option in row.labels]
    return replace(encoded, rows=(Row(tuple(ids), tuple(labels), tuple(branches)),))
