"""Chat templates: an example as a user's turn and the assistant's answer, written by the tokenizer's own template.

Prompt, answer and end of turn are, token by token, what `tokenizer.apply_chat_template` gives for the whole
conversation. The prompt of an option is all that the template writes before the assistant's text there: mostly the
prompt of `add_generation_prompt=True`, and where a template puts more between the two (a space in Llama 2's, an empty
thinking block in Qwen 3's) that is no part of the option. In a completion it is, for the model has to write it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from zofo.data.chat_template import render
from zofo.data.ending import MARK, of_tail
from zofo.data.example import Example
from zofo.data.files import Record
from zofo.errors import InputError

Turn = dict[str, Any]  # {"role": ..., "content": ...}
Make = Callable[[Record], Example]


class NoTokenizerYet:
    """In the place of a tokenizer where rows are looked at before a model is there: every chat can be written."""

    chat_template = "of a model that is not loaded"


@dataclass(frozen=True)
class Chat:
    """A tokenizer's chat template. system: a system turn for conversations that have none."""

    tokenizer: Any
    system: str | None = None

    @property
    def missing(self) -> bool:
        return self.tokenizer is None or not getattr(self.tokenizer, "chat_template", None)

    def checked(self, make: Make) -> Make:
        """`make`, refusing what no chat can be made of. Raises InputError where the model has no chat template."""
        if self.missing:
            raise InputError(
                "task.apply_chat_template: the model's tokenizer has no chat template; take an instruction-tuned "
                "model, or set it to false"
            )

        def made(record: Record) -> Example:
            plain = make(record)
            if plain.cuttable is None and not plain.prompt.strip():
                raise InputError(
                    f"{record.place}: the prompt is empty and a chat needs a user's turn; mend or drop the row"
                )
            return plain

        return made

    def dress(self, plain: Example, ends: bool) -> Example:
        """The prompt as the user's turn, each answer as the assistant's; `ends`: with the end of the turn.

        An example that is a conversation already stays as it is.
        """
        if plain.cuttable is not None:
            return plain
        turns = [{"role": "user", "content": plain.prompt.strip()}]
        answers = [answer.lstrip() for answer in plain.answers]
        place = plain.place or plain.id
        null = plain.null_prompt
        written = self._written(plain.id, turns, answers, plain.gold, ends, place)
        if null is not None:
            turns = [{"role": "user", "content": null.strip()}]
            null = self._written(plain.id, turns, answers, plain.gold, ends, place).prompt
        return replace(written, reference=plain.reference, null_prompt=null, place=plain.place)

    def conversation(self, id: str, turns: Sequence[Turn], place: str) -> Example:
        """The last turn, the assistant's, is the completion, with its end of turn."""
        return self._written(id, turns[:-1], [turns[-1]["content"]], (0,), True, place)

    def asked(self, id: str, turns: Sequence[Turn], place: str) -> Example:
        """The conversation up to where the assistant writes, as before a completion; an answer at its end is left out.

        Raises InputError where there is nothing to answer.
        """
        turns = turns[:-1] if turns and turns[-1]["role"] == "assistant" else turns
        if not turns:
            raise InputError(f"{place}: no turn to answer")
        turns = self._with_system(turns)
        opening, _ = self._opening(turns, place)
        prompt = self._prompt(turns, opening, place)
        return Example(id, prompt, ("",), (0,), self._cuttable(turns, opening, place), place=place)

    def _with_system(self, turns: Sequence[Turn]) -> Sequence[Turn]:
        if self.system is None or turns[0]["role"] == "system":
            return turns
        return [{"role": "system", "content": self.system}, *turns]

    def _opening(self, turns: Sequence[Turn], place: str) -> tuple[str, str]:
        """What the template writes before the assistant's text, and behind it."""
        opening, mark, tail = self._render([*turns, _assistant(MARK)], place).rpartition(MARK)
        if not mark:
            raise InputError(f"{place}: the model's chat template leaves out the assistant's turn")
        return opening, tail

    def _prompt(self, turns: Sequence[Turn], opening: str, place: str) -> str:
        """Of a completion: what the template puts more between the two is for the model to write."""
        generation = self._render(turns, place, add_generation_prompt=True)
        return generation if opening.startswith(generation) else opening

    def _written(
        self, id: str, turns: Sequence[Turn], answers: Sequence[str], gold: tuple[int, ...], ends: bool, place: str
    ) -> Example:
        if isinstance(self.tokenizer, NoTokenizerYet):
            return Example(id, "\n".join(turn["content"] for turn in turns), tuple(answers), gold, (0, 0), place=place)
        turns = self._with_system(turns)
        opening, tail = self._opening(turns, place)
        prompt = self._prompt(turns, opening, place) if len(answers) == 1 else opening
        end = of_tail(tail, self.tokenizer) if ends else ""
        said = tuple(self._said(turns, answer, prompt, tail, place) + end for answer in answers)
        return Example(id, prompt, said, gold, self._cuttable(turns, opening, place))

    def _said(self, turns: Sequence[Turn], answer: str, prompt: str, tail: str, place: str) -> str:
        """What the template makes of an answer: some trim it."""
        whole = self._render([*turns, _assistant(answer)], place)
        if not whole.startswith(prompt) or not whole.endswith(tail) or len(whole) < len(prompt) + len(tail):
            raise InputError(
                f"{place}: the model's chat template writes another prompt before this answer than before others; "
                "write the prompts yourself (columns prompt and completion)"
            )
        return whole[len(prompt) : len(whole) - len(tail)]

    def _cuttable(self, turns: Sequence[Turn], opening: str, place: str) -> tuple[int, int]:
        """(start, stop) of the turns' texts, from the first that is not the system's to the last."""
        first = next((i for i, turn in enumerate(turns) if turn["role"] != "system"), len(turns) - 1)
        marked = [{**t, "content": MARK} if i in (first, len(turns) - 1) else t for i, t in enumerate(turns)]
        parts = self._render([*marked, _assistant(MARK)], place).split(MARK)
        start, stop = len(parts[0]), len(opening) - len(parts[-2])
        return (start, stop) if opening[:start] == parts[0] and opening[stop:] == parts[-2] else (0, 0)

    def _render(self, turns: Sequence[Turn], place: str, **options: Any) -> str:
        try:
            return render(self.tokenizer, turns, **options)
        except Exception as e:  # a template is the model's own program: it may raise anything
            hint = "; leave out task.system?" if self.system is not None else ""
            raise InputError(f"{place}: the model's chat template refuses these messages: {e}{hint}") from None


def _assistant(content: str) -> Turn:
    return {"role": "assistant", "content": content}
