"""Made-up rows, and what stands for a tokenizer where no text is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zofo.data import Example, TaskData
from zofo.data.tokenization import Encoded, Row


@dataclass(frozen=True)
class Rows:
    """Made-up rows in place of a task's: `length` tokens read, the last `answer` positions predict a label.

    options: the answers of an example, each with a row of its own; 1 for completions and for answers of one token.
    tasks: of a setting, its training tasks; the examples are of one after the other.
    """

    length: int
    options: int = 1
    answer: int = 1
    tasks: tuple[str, ...] = ()

    def _group(self, number: int) -> str:
        return self.tasks[number % len(self.tasks)] if self.tasks else ""

    def encoded(self, n: int, vocabulary: int) -> list[Encoded]:
        """n examples. Tokens differ as far as the vocabulary goes: most rows of the embedding are looked up."""
        examples = []
        for example in range(n):
            rows = []
            for option in range(self.options):
                first = (example * self.options + option) * self.length
                ids = tuple((first + t) % vocabulary for t in range(self.length))
                last = range(self.length - self.answer, self.length)
                rows.append(Row(ids, tuple((t, ids[t], option) for t in last)))
            plain = Example(str(example), "", ("",) * self.options, (0,), group=self._group(example))
            examples.append(Encoded(plain, tuple(rows), (0,), self.options))
        return examples

    def task(self, n: int) -> TaskData:
        """Stands for the data while a session is built: n short examples a split."""
        n = max(n, 4 * len(self.tasks))
        examples = [Example(str(i), "a b", (" c", " d"), (i % 2,), group=self._group(i)) for i in range(n)]
        objective = "options" if self.options > 1 else "lm"
        groups = dict.fromkeys(self.tasks, "accuracy")
        return TaskData("rows", 1, objective, ("loss",), examples, examples, examples, ("c", "d"), groups=groups)


class NoTokenizer:
    """Stands for a tokenizer where no text is read: each word is a token, those of the two options differ."""

    bos_token_id = eos_token_id = pad_token_id = 0
    model_max_length = int(1e30)
    all_special_ids = (0,)

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [1 + ord(word[0]) % 2 for word in text.split()]}
