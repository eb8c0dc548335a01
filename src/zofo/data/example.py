"""What a task hands over: examples, and three lists of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from zofo.config import registry
from zofo.errors import InputError


class Learnt(NamedTuple):
    """An assistant's turn inside a conversation's prompt: prompt[start:stop], its end of turn with it, is learnt like
    the answer. header: where in the prompt what announces it begins, behind the turn before; characters all."""

    header: int
    start: int
    stop: int


@dataclass(frozen=True)
class Source:
    """What a reward of one's own is called with beside a text: the row, and its prompt as it was before chat template
    and demonstrations, a text or messages."""

    row: Mapping[str, Any]
    prompt: str | list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Example:
    """`gold`: indices of the right `answers`. A completion is an example with one answer.

    cuttable: None for plain text, to which the tokenizer adds its own specials, and of which a cut takes the beginning.
    A chat template has written its specials already; a cut may take prompt[start:stop] alone, without the headers.
    reference: what a generated text is compared with. null_prompt: the prompt without its input (calibrated scores).
    leads: text between the prompt and each answer, one for each, that is not scored (a channel model's options).
    group: of many tasks' examples, the task that it is of.
    learnt: earlier turns of the assistant's that are labels too (task.loss_on=all), in order; the last is the answer.
    source: where a reward measures. unanswered: nobody says what is right, so it has no loss; `answers` is one "".
    """

    id: str  # where it is from: "sst2/train/17", "rows.jsonl:17"
    prompt: str
    answers: tuple[str, ...]
    gold: tuple[int, ...]
    cuttable: tuple[int, int] | None = None
    reference: Any = None
    null_prompt: str | None = None
    place: str = field(default="", compare=False)  # "test.jsonl:18", for errors
    leads: tuple[str, ...] = ()
    group: str = ""
    learnt: tuple[Learnt, ...] = ()
    source: Source | None = field(default=None, compare=False, repr=False)
    unanswered: bool = False

    @property
    def where(self) -> str:
        """For an error: the file's line, and the name that predictions have."""
        return f"{self.place} ({self.id})" if self.place not in ("", self.id) else self.id


@dataclass(frozen=True)
class Decoding:
    """How a text is generated. temperature 0: greedy. stop: texts that end it and are no part of it."""

    max_new_tokens: int = field(default=50, metadata={"ge": 1})
    stop: tuple[str, ...] = ()
    temperature: float = field(default=0.0, metadata={"ge": 0})
    top_p: float = field(default=1.0, metadata={"gt": 0, "le": 1})
    samples: int = field(default=1, metadata={"ge": 1})

    def problems(self) -> list[str]:
        """As `config.typed.build` asks for it."""
        return ["stop: expected a list of texts, none of them empty"] if not all(self.stop) else []

    def idle(self) -> str:
        """What is set and does nothing, or ""."""
        greedy = self.temperature == 0 and self.top_p < 1
        return f"top_p: {self.top_p:g} changes no greedy text; give temperature too" if greedy else ""


TASK_MEAN = "task_mean"  # of many tasks' examples: the mean of the tasks' own metrics
Scoring = Literal["mean", "sum", "characters", "calibrated", "pmi"]


@dataclass(frozen=True)
class TaskData:
    """metrics: of the task's kind; the first one leads. labels: names of the options where all examples share them.

    repeated: how many examples of dev and of test have the prompt and answers of a training example. given: rows of
    each split's file. bad_rows: {why: how many} rows were left out, since they could not be used.
    groups: of many tasks' examples, {task: its metric}. max_length: tokens of an example that the task itself allows.
    unread: columns of rows of one's own that nothing is made of.
    """

    name: str
    version: int
    objective: str  # of `objectives/`: what is trained and what the dev loss is
    metrics: tuple[str, ...]
    train: list[Example]
    dev: list[Example]
    test: list[Example]
    labels: tuple[str, ...]
    kind: Literal["options", "completion", "generation"] = "options"
    decoding: Decoding = Decoding()
    scoring: Scoring = "mean"
    repeated: Mapping[str, int] = field(default_factory=dict)
    given: Mapping[str, int] = field(default_factory=dict)
    bad_rows: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    max_length: int | None = None
    unread: tuple[str, ...] = ()

    @property
    def encodes(self) -> Literal["options", "gold"]:
        """Which answers of a training example are computed, see `objectives._base.Objective`."""
        return objective_of(self.objective).encodes

    @property
    def ends(self) -> bool:
        """Whether an answer's end is learnt and scored as well: of what is written, and not of what is chosen."""
        return objective_of(self.objective).ends and self.kind != "options"

    @property
    def answered(self) -> bool:
        """Whether every example has an answer: else there is no loss, neither to descend nor to measure."""
        return not any(e.unanswered for split in (self.train, self.dev, self.test) for e in split)

    @property
    def metric(self) -> str:
        """The leading metric, by its name in an evaluation's values."""
        return "pass_at_1" if self.metrics[0] == "pass_at_k" else self.metrics[0]


def objective_of(name: str) -> Any:
    """The class of an objective by its name. Raises InputError for a name that is none."""
    return registry.load("objectives", name).Objective


def upper_part(train: int, share: float) -> int:
    """How many of 2 training examples or more are the upper level's; each level has one at least."""
    return min(max(round(train * share), 1), train - 1)


def split_levels(
    train: Sequence[Example], seed: int, ratio: tuple[float, float] = (1, 2), stratified: bool = False
) -> tuple[list[Example], list[Example]]:
    """(D_f, D_p): the upper and the lower level's training data, a random split fixed by the seed (appendix B.1.4).

    stratified: every label is split in the ratio, as far as whole examples go. The levels' sizes are the same.
    Raises InputError for fewer than 2 examples, and where a stratified split has no labels to go by.
    """
    if len(train) < 2:
        raise InputError(f"two levels need at least 2 training examples, got {len(train)}; give more")
    order = list(train)
    random.Random(f"{seed}/levels").shuffle(order)
    share = ratio[0] / sum(ratio)
    upper = upper_part(len(order), share)
    if not stratified:
        return order[:upper], order[upper:]
    room = _quotas(order, share, upper)
    chosen: tuple[list[Example], list[Example]] = ([], [])
    for example in order:
        room[example.gold] -= 1
        chosen[room[example.gold] < 0].append(example)
    return chosen


def _quotas(examples: Sequence[Example], share: float, total: int) -> dict[tuple[int, ...], int]:
    """{gold: how many of its examples go to the upper level}: shares rounded by largest remainder, `total` in sum."""
    odd = next((e for e in examples if e.answers != examples[0].answers or len(e.answers) < 2), None)
    if odd is not None:
        what = "is a completion" if len(odd.answers) < 2 else "has answers of its own"
        raise InputError(
            f"a stratified split of the levels goes by labels that all examples share; {odd.id} {what}: "
            "use the random split"
        )
    exact = {gold: n * share for gold, n in sorted(Counter(e.gold for e in examples).items())}
    quotas = {gold: int(n) for gold, n in exact.items()}
    missing = total - sum(quotas.values())
    for gold in sorted(exact, key=lambda g: quotas[g] - exact[g])[:missing]:
        quotas[gold] += 1
    return quotas
