"""`task.metric=FILE.py:FUNCTION`: a reward of one's own, by the name it is given with. Nothing is run here."""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple

GIVEN = "python"  # in the place of a file, of a function that a call in Python was given


class RewardName(NamedTuple):
    """file: None where a call in Python gave the function."""

    file: str | None
    function: str


def reward_name(metric: object) -> RewardName | None:
    """What a `task.metric` names in a Python file; None for a metric that zofo knows, or is none at all."""
    if not isinstance(metric, str):
        return None
    file, colon, function = metric.rpartition(":")
    if colon and file == GIVEN:
        return RewardName(None, function)
    return RewardName(file, function) if colon and file.endswith(".py") else None


def fault(metric: str) -> str:
    """What is wrong with the way a reward is named, or ""."""
    if metric.endswith(".py"):
        return f"which function of {metric}? give {metric}:FUNCTION"
    named = reward_name(metric)
    if named is not None and not re.fullmatch(r"[^\W\d]\w*", named.function):
        return f'expected FILE.py:FUNCTION, got "{metric}"'
    return ""


def asked_again(code: bool, metric: str | None) -> str:
    """What a command line has to ask for again, since no file of a run may: " model.trust_remote_code=true".

    code: whether the model needs code of its own.
    """
    words = " model.trust_remote_code=true" if code else ""
    named = reward_name(metric)
    return words + (f" {shlex.quote(f'task.metric={metric}')}" if named is not None and named.file is not None else "")
