"""The errors a user can meet: one clear line each, naming the place and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class ZofoError(Exception):
    """Base of all errors meant for the user. `str(error)` is one line, or one line per problem."""

    exit_code: ClassVar[int] = 1


class InputError(ZofoError):
    """Wrong configuration, data, model or directory: nothing was started."""

    exit_code: ClassVar[int] = 2


class RunError(ZofoError):
    """A run that had started failed: a NaN, no disk space, ..."""

    exit_code: ClassVar[int] = 1


class NonFiniteError(ArithmeticError):
    """A loss or a gradient is NaN or infinite. Raised before anything is updated; the update is refused or skipped."""


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that `word` was probably meant to be; None where none is near."""
    by_lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.6)
    return by_lower[near[0]] if near else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`; did you mean "lam"?` for the choice nearest to `word`, `""` where none is near."""
    near = nearest(word, choices)
    return f'; did you mean "{near}"?' if near else ""
