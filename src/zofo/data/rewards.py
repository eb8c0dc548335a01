"""A reward of one's own: a function in a Python file, called as TRL's GRPO calls its reward functions.

    def reward(completions, **columns) -> list[float]: ...

`completions` and `prompts` are lists, an item for each text that was written; every column of the rows is a list beside
them. A row that is a conversation has its prompt as messages, and its completion as a list of one message, as there.
The file is run where a command line or a caller names it: `load_reward` asks nobody, its callers have to.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import math
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from zofo.config.reward_name import GIVEN, reward_name
from zofo.data.example import Example, Source, TaskData
from zofo.data.metrics import METRICS
from zofo.data.metrics.text import TEXT_METRICS
from zofo.errors import InputError, did_you_mean, printable

ARGUMENTS = ("prompts", "completions")
TAKEN = {*METRICS, *TEXT_METRICS, "pass_at_k", "pass_at_1", "loss", "n", "unpredicted", "perplexity", "task_mean"}
TRIED = 3  # examples on which a reward is tried before anything is trained
Function = Callable[..., Any]


@dataclass(frozen=True)
class Reward:
    """name: of the metric, in results. shown: as it was named. sha256: of its file (of its own source text, where a
    call in Python gave it; None where that is not to be had). columns: of the rows it is called with."""

    name: str
    shown: str
    function: Function
    sha256: str | None
    columns: tuple[str, ...] = ()

    @property
    def recorded(self) -> dict[str, Any]:
        """Of a run's inputs."""
        return {"function": self.name, "sha256": self.sha256}

    def __call__(self, texts: Sequence[Sequence[str]], examples: Sequence[Example]) -> list[list[float]]:
        """The reward of each text of each example, higher is better. Raises InputError naming function and row."""
        each = [example for example, written in zip(examples, texts) for _ in written]
        rewards = iter(self._of([text for written in texts for text in written], each) if each else [])
        return [[next(rewards) for _ in written] for written in texts]

    def fitted(self, data: TaskData) -> Reward:
        """Itself for the rows of a task, whose columns it is given. Raises InputError where it does not take them, and
        for all that can be found wrong by calling it: on the rows' own answers, twice."""
        examples = [*data.train, *data.dev, *data.test]
        rows = [example.source.row for example in examples if example.source is not None]
        columns = tuple(dict.fromkeys(str(column) for row in rows for column in row))
        fitted = replace(self, columns=columns)
        fitted._takes(columns, data.name)
        tried = [split[:TRIED] for split in (data.train, data.dev, data.test)]
        for some in filter(None, tried):
            fitted._twice(some)
        return fitted

    def _twice(self, examples: Sequence[Example]) -> None:
        texts = [[example.answers[example.gold[0]]] for example in examples]
        first, second = self(texts, examples), self(texts, examples)
        for (one,), (other,), example in zip(first, second, examples):
            if one != other:
                raise self._fault(
                    f"gave {one:g} and then {other:g} for the same text; a reward hangs on the text and its row alone",
                    example,
                )

    def _takes(self, columns: Sequence[str], data: str) -> None:
        if clash := [column for column in columns if column in ARGUMENTS]:
            raise InputError(
                f"task.metric: {self.shown}: {data} has a column {clash[0]}, as an argument is called: rename it"
            )
        try:
            parameters = inspect.signature(self.function).parameters.values()
        except (TypeError, ValueError):  # of what is written in C
            return
        if any(p.kind is p.VAR_POSITIONAL for p in parameters) and not any(p.kind is p.VAR_KEYWORD for p in parameters):
            raise self._signature("takes *args alone")
        known = (*ARGUMENTS, *columns)
        for p in parameters:
            if p.kind is p.POSITIONAL_ONLY:
                raise self._signature(f"takes {p.name} by its place alone")
            named = p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
            if named and p.default is p.empty and p.name not in known:
                near = did_you_mean(p.name, known)
                listed = printable(", ".join(columns), 300) or "none"
                raise self._signature(f"takes {p.name}, and {data} has no such column (columns: {listed}){near}")

    def _signature(self, what: str) -> InputError:
        return InputError(
            f"task.metric: {self.shown}: {what}; write def {self.name}(completions, **columns), which gives a list of "
            f"numbers"
        )

    def _arguments(self, texts: Sequence[str], sources: Sequence[Source]) -> dict[str, Any]:
        given: dict[str, Any] = {column: [source.row.get(column) for source in sources] for column in self.columns}
        given = copy.deepcopy(given)  # what a function does to its arguments changes no row
        given["prompts"] = [copy.deepcopy(source.prompt) for source in sources]
        given["completions"] = [
            text if isinstance(source.prompt, str) else [{"role": "assistant", "content": text}]
            for text, source in zip(texts, sources)
        ]
        try:
            parameters = inspect.signature(self.function).parameters
        except (TypeError, ValueError):
            return given
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return given
        return {name: value for name, value in given.items() if name in parameters}

    def _of(self, texts: Sequence[str], examples: Sequence[Example]) -> list[float]:
        sources = [example.source or Source({}, example.prompt) for example in examples]
        try:
            given = self.function(**self._arguments(texts, sources))
        except Exception as error:
            if len(examples) > 1:  # which row it was
                for text, example in zip(texts, examples):
                    self._of([text], [example])
            words = printable(" ".join(str(error).split()), 200)
            raise self._fault(f"raised {type(error).__name__}{words and f': {words}'}", examples[0]) from error
        return self._checked(given, examples)

    def _checked(self, given: Any, examples: Sequence[Example]) -> list[float]:
        if inspect.iscoroutine(given):
            given.close()
        to_list = getattr(given, "tolist", None)  # numpy's, torch's
        listed = given if to_list is None else to_list()
        if not isinstance(listed, (list, tuple)):
            raise self._fault(
                f"gave {_a(given)} for {len(examples)} texts, not a list with a number for each", examples[0]
            )
        if len(listed) != len(examples):
            raise self._fault(f"gave {len(listed)} numbers for {len(examples)} texts", examples[0])
        rewards = []
        for value, example in zip(listed, examples):
            number = value.item() if hasattr(value, "item") else value
            if not isinstance(number, (int, float)):
                raise self._fault(f"gave {_a(value)}, not a number", example)
            if not math.isfinite(number):
                raise self._fault(f"gave {number}, not a finite number", example)
            rewards.append(float(number))
        return rewards

    def _fault(self, what: str, example: Example) -> InputError:
        return InputError(f"task.metric: {self.shown}: {what} (row {example.where})")


def _a(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def load_reward(metric: str, given: Function | None = None) -> Reward:
    """The function that `task.metric` names; given: the one that a call in Python was given.

    Raises InputError for a file or a function that is not there, or cannot be run.
    """
    named = reward_name(metric)
    assert named is not None, metric
    if named.function in TAKEN:
        raise InputError(f"task.metric: {metric}: zofo has a measure of the name {named.function}; rename the function")
    if named.file is None:
        if given is None:
            raise InputError(
                f"task.metric: {metric} is a function that a call in Python gave; give it again (metric=FUNCTION), or "
                f"one in a file, FILE.py:FUNCTION"
            )
        return Reward(named.function, metric, given, _digest_of(given))
    path = Path(named.file)
    try:
        source = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"task.metric: no such file: {printable(named.file, 300)}") from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"task.metric: {printable(named.file, 300)}: {getattr(error, 'strerror', None) or error}"
        ) from None
    shown = printable(metric, 300)
    names = _run(path.resolve(), source, shown)
    function = names.get(named.function)
    if not callable(function):
        functions = [name for name, value in names.items() if inspect.isfunction(value)]
        near = did_you_mean(named.function, functions) or f"; it has: {printable(', '.join(functions), 200) or 'none'}"
        raise InputError(f"task.metric: {printable(named.file, 300)} has no function {named.function}{near}")
    return Reward(named.function, shown, function, hashlib.sha256(source).hexdigest())


@lru_cache(maxsize=8)  # looked at before the model is loaded, and used after it: what a file loads, it loads once
def _run(path: Path, source: bytes, shown: str) -> Mapping[str, Any]:
    """The names of a Python file that was run, as a module; nothing is written beside it."""
    module = types.ModuleType(f"zofo_reward_{hashlib.sha256(str(path).encode() + source).hexdigest()[:16]}")
    module.__file__ = str(path)
    sys.path.append(str(path.parent))  # last, so that a file beside it takes no library's place
    sys.modules[module.__name__] = module  # dataclasses and pickle look there
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        sys.path.remove(str(path.parent))
        line = error.lineno if isinstance(error, SyntaxError) else _line(error, str(path))
        words = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
        at = f" line {line}" if line else ""
        what = f"{type(error).__name__}{words and f': {printable(words, 200)}'}"
        raise InputError(f"task.metric: {shown}: the file cannot be run:{at} {what}") from error
    return module.__dict__


def _line(error: BaseException, path: str) -> int | None:
    """Of the file, where an error came of it."""
    lines, at = [], error.__traceback__
    while at is not None:
        lines += [at.tb_lineno] if at.tb_frame.f_code.co_filename == path else []
        at = at.tb_next
    return lines[-1] if lines else None


def name_given(function: Function) -> str:
    """What `task.metric` records of a function that a call in Python gives. Raises InputError for what is none."""
    name = getattr(function, "__name__", type(function).__name__)
    if not callable(function) or inspect.isclass(function):
        raise InputError(f"metric: expected a name, or a function, got {_a(function)}")
    return f"{GIVEN}:{'reward' if not name.isidentifier() else name}"


def _digest_of(function: Function) -> str | None:
    try:
        return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()
    except (OSError, TypeError):  # typed into a shell, or an object
        return None
