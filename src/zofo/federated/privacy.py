"""Noise on what a client sends, and what it is worth. No torch.

A client's c is clipped to [-C, C]. Exchanging all its rows for others moves it by at most 2 C, so with Gaussian noise
of standard deviation `noise` x 2 C an answer is a Gaussian mechanism with that multiplier, for the client's data as a
whole (not for a row of them), against everybody, the server included. Every coefficient of every round counts; their
composition is dp-accounting's.

What it does not protect: adapters that a client hands out, what a lying client does, how many rows and when it answers.
"""

from __future__ import annotations

import random

from zofo.errors import InputError

_SYSTEM = random.SystemRandom()  # of the operating system: a noise that the run's seed gave could be taken off again


def noised(c: float, clip: float | None, noise: float) -> float:
    """c, within [-clip, clip], with noise added."""
    return c if not noise or clip is None else c + _SYSTEM.gauss(0.0, noise * 2 * clip)


def epsilon(noise: float, delta: float, answers: int) -> float:
    """The epsilon of so many coefficients of one client at this delta (Renyi accounting; Mironov, arXiv 1702.07476).

    Raises InputError where dp-accounting is not installed.
    """
    try:
        from dp_accounting import dp_event  # pyright: ignore[reportMissingImports]
        from dp_accounting.rdp import RdpAccountant  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError("federation.noise: its epsilon is dp-accounting's; pip install 'zofo[flower]'") from None
    accountant = RdpAccountant()
    accountant.compose(dp_event.GaussianDpEvent(noise), answers)
    return float(accountant.get_epsilon(delta))


def words(noise: float, clip: float | None, delta: float, answers: int) -> str:
    """What a federation says of its noise, or that it has none."""
    if not noise or clip is None:
        return "no noise: a client's coefficients say something of its rows"
    return (
        f"noise of {noise * 2 * clip:g} (standard deviation) on each of {answers} coefficients of a client, within "
        f"{clip:g}: epsilon {epsilon(noise, delta, answers):.3g} at delta {delta:g}, for all its rows together"
    )
