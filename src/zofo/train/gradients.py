"""Gradients of theta on a few training batches, by which some masks are chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from zofo.data.batch import Batch
from zofo.data.multitask.mixture import Mixture
from zofo.data.stream import Stream
from zofo.objectives._loss import Loss
from zofo.zo.point import Point


def gradients(
    loss: Loss, theta: Point, streams: Mapping[str, Stream | Mixture], number: int
) -> Iterator[Callable[[], object]]:
    """Calls that add theta's gradient of the loss on one training batch each, where theta is trainable.

    The run's own batches stay what they are, and so do the gradients of what else is trained.
    """
    batches = next(iter(streams.values())).fork("mask")
    for _ in range(number):
        yield partial(_backward, loss, theta, next(batches))


def _backward(loss: Loss, theta: Point, batch: Batch) -> None:
    of_theta = {id(tensor) for tensor in theta.values()}
    others = [p for p in loss.scorer.model.parameters() if p.requires_grad and id(p) not in of_theta]
    try:
        for param in others:
            param.requires_grad_(False)
        loss.backward(batch, everywhere=True)
    finally:
        for param in others:
            param.requires_grad_(True)
