"""Chat templates: an example as a user's turn and the assistant's answer, written by the tokenizer's own template.

Prompt, answer and end of turn are, token by token, what `tokenizer.apply_chat_template` gives for the whole
conversation. The prompt of an option is all that the template writes before the assistant's text there: mostly the
prompt of `add_generation_prompt=True`, and where a template puts more between the two (a space in Llama 2's, an empty
thinking block in Qwen 3's) that is no part of the option. In a completion it is, for the model has to write it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from zofo.data.chat_template import learnt_marks, render
from zofo.data.ending import MARK, of_tail
from zofo.data.example import Example, Learnt
from zofo.data.files import Record
from zofo.errors import InputError

Turn = dict[str, Any]  # {"role": ..., "content": ...}
Make = Callable[[Record], Example]


class NoTokenizerYet:
    """In the place of a tokenizer where rows are looked at before a model is there: every chat can be written."""

    chat_template = "of a model that is not loaded"


@dataclass(frozen=True)
class Chat:
    """A tokenizer's chat template. system: a system turn for conversations that have none. loss_on: which of the
    assistant's turns of a conversation are learnt."""

    tokenizer: Any
    system: str | None = None
    loss_on: Literal["last", "all"] = "last"
    tools: tuple[dict[str, Any], ...] = ()  # that a conversation offers, JSON schemas

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
        kept = {"source": plain.source, "unanswered": plain.unanswered}
        return replace(written, reference=plain.reference, null_prompt=null, place=plain.place, **kept)

    def with_tools(self, turns: Sequence[Turn], tools: Sequence[dict[str, Any]], place: str) -> Chat:
        """The chat of a conversation that offers tools, or calls them. Raises InputError where the template, asked with
        and without them, writes the same: the model would learn calls of what it was not shown, or nothing."""
        chat = replace(self, tools=tuple(tools))
        if isinstance(self.tokenizer, NoTokenizerYet):
            return chat
        if tools and chat._render(turns, place) == self._render(turns, place):
            raise InputError(
                f'{place}: "tools": the model\'s chat template writes nothing of them; take a model that was trained '
                f"with tools, or leave the column out"
            )
        for i, turn in enumerate(turns):
            if turn["role"] == "tool":
                other, what = {**turn, "content": MARK}, "what a tool answered"
            elif turn.get("tool_calls"):
                other = {key: value for key, value in turn.items() if key != "tool_calls"}
                what = "the assistant's tool_calls"
            else:
                continue
            before = turns[:i]
            if chat._render([*before, turn], place) == chat._render([*before, other], place):
                raise InputError(
                    f"{place}: the model's chat template writes nothing of {what}; take a model that was trained with "
                    f"tools, or drop the row"
                )
        return chat

    def conversation(self, id: str, turns: Sequence[Turn], place: str) -> Example:
        """The last turn, the assistant's, is the completion, with its end of turn; so are its earlier turns in the
        prompt, where `loss_on` is "all"."""
        last = turns[-1] if turns[-1].get("tool_calls") else turns[-1]["content"]
        written = self._written(id, turns[:-1], [last], (0,), True, place)
        if self.loss_on == "last":
            return written
        earlier = [turn for turn in turns[:-1] if turn["role"] == "assistant"]
        if any(not (turn["content"] or "").strip() and not turn.get("tool_calls") for turn in earlier):
            raise InputError(
                f"{place}: one of the assistant's messages before the last is empty, and task.loss_on=all learns each"
            )
        if isinstance(self.tokenizer, NoTokenizerYet):
            return written
        return replace(written, learnt=self._earlier(self._with_system(turns), written.prompt, place))

    def _earlier(self, turns: Sequence[Turn], prompt: str, place: str) -> tuple[Learnt, ...]:
        """Where in the prompt the assistant's earlier turns stand: each as were it the last one, its end with it.

        Some templates write a turn otherwise once others follow (Qwen 3's drops its thoughts), so that the model would
        learn what it never has to write: there the template's own `{% generation %}` marks say what is learnt. Raises
        InputError where it has none.
        """
        numbers = [i for i, turn in enumerate(turns[:-1]) if turn["role"] == "assistant"]
        found = [self._as_last(turns[:i], turns[i], prompt, place) for i in numbers]
        if None not in found:
            return tuple(turn for turn in found if turn is not None)
        marks = learnt_marks(self.tokenizer, turns, **self._offered)
        if len(marks) != len(numbers) + 1 or any(stop > len(prompt) for _, stop in marks[:-1]):
            number = found.index(None) + 1
            raise InputError(
                f"{place}: the chat template writes the assistant's turn {number} otherwise once others follow, and "
                "has no {% generation %} marks, so it would be learnt wrong; set task.loss_on to last"
            )
        _, end = self._opening(turns[:-1], place)
        return tuple(
            Learnt(self._header(turns[:i], prompt, place, before), start, _with_end(prompt, stop, end.rstrip()))
            for i, (start, stop), (_, before) in zip(numbers, marks, [(0, 0), *marks])
        )

    def _as_last(self, turns: Sequence[Turn], turn: Turn, prompt: str, place: str) -> Learnt | None:
        """The turn behind those turns, where the prompt has it as it is written when it is the last; None: it has not.

        White space behind the end of a turn is none of it, as of the last one.
        """
        opening, _ = self._opening(turns, place)
        start = len(self._prompt(turns, opening, place) if turns else opening)
        text = self._render([*turns, turn], place).rstrip()
        if len(text) <= start or not prompt.startswith(text) or not opening.startswith(text[:start]):
            return None
        return Learnt(self._header(turns, prompt, place, start), start, len(text))

    def _header(self, turns: Sequence[Turn], prompt: str, place: str, least: int) -> int:
        """Where the turns before the assistant's end in the prompt; `least` where the prompt has them otherwise."""
        before = self._render(turns, place).rstrip() if turns else ""
        return len(before) if prompt.startswith(before) else least

    def asked(self, id: str, turns: Sequence[Turn], place: str) -> Example:
        """The conversation up to where the assistant writes, as before a completion; an answer at its end is left out.

        Raises InputError where there is nothing to answer.
        """
        turns = turns[:-1] if turns and turns[-1]["role"] == "assistant" else turns
        if not turns:
            raise InputError(f"{place}: no turn to answer")
        if isinstance(self.tokenizer, NoTokenizerYet):
            return Example(id, "\n".join(turn["content"] for turn in turns), ("",), (0,), (0, 0), place=place)
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
        self,
        id: str,
        turns: Sequence[Turn],
        answers: Sequence[str | Turn],
        gold: tuple[int, ...],
        ends: bool,
        place: str,
    ) -> Example:
        """answers: texts, or an assistant's turn."""
        if isinstance(self.tokenizer, NoTokenizerYet):
            texts = tuple(a if isinstance(a, str) else a["content"] or str(a["tool_calls"]) for a in answers)
            return Example(id, "\n".join(turn["content"] for turn in turns), texts, gold, (0, 0), place=place)
        turns = self._with_system(turns)
        opening, tail = self._opening(turns, place)
        prompt = self._prompt(turns, opening, place) if len(answers) == 1 else opening
        end = of_tail(tail, self.tokenizer) if ends else ""
        said = tuple(self._said(turns, answer, prompt, tail, place) + end for answer in answers)
        return Example(id, prompt, said, gold, self._cuttable(turns, opening, place))

    def _said(self, turns: Sequence[Turn], answer: str | Turn, prompt: str, tail: str, place: str) -> str:
        """What the template makes of an answer: some trim it."""
        whole = self._render([*turns, _assistant(answer) if isinstance(answer, str) else answer], place)
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

    @property
    def _offered(self) -> dict[str, Any]:
        return {"tools": list(self.tools)} if self.tools else {}

    def _render(self, turns: Sequence[Turn], place: str, **options: Any) -> str:
        try:
            return render(self.tokenizer, turns, **self._offered, **options)
        except Exception as e:  # a template is the model's own program: it may raise anything
            hint = "; leave out task.system?" if self.system is not None else ""
            raise InputError(f"{place}: the model's chat template refuses these messages: {e}{hint}") from None


def check_loss_on(loss_on: str, columns: Sequence[str], file: str) -> None:
    """Raises InputError for task.loss_on=all where rows have one answer each, which their columns name."""
    if loss_on == "all" and not {"messages", "conversations"} & set(columns):
        raise InputError(
            f"task.loss_on: all is for a column messages; of {file}, with {' and '.join(columns)}, the answer alone is "
            "learnt; set it to last"
        )


def _with_end(prompt: str, stop: int, end: str) -> int:
    """A turn's stop with the end of turn behind it, where a template's marks leave that out; without white space."""
    if end and prompt.startswith(end, stop):
        return stop + len(end)
    return len(prompt[:stop].rstrip())


def _assistant(content: str) -> Turn:
    return {"role": "assistant", "content": content}
