"""How a setting's rows read: MetaICL's text (Min et al. 2022, section 3), of a direct or of a channel model.

direct    input, newline, output; three newlines between rows; the output is scored, its newline with it
channel   output, newline, input; the input is scored, after each option in turn (noisy channel)
spaces    one blank in the place of either: what MetaICL gives a model that is not meta-trained

Every row has 256 tokens, two of them in reserve as in MetaICL: the end of a longer input is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from zofo.data.example import Example
from zofo.data.multitask.rows import Row
from zofo.errors import InputError, did_you_mean

TEMPLATES = ("default", "channel", "spaces", "channel-spaces")
ROOM = 254  # tokens of one row, input and output
NULL = "N/A"  # the input of a prompt without an input


def limit(k: int) -> int:
    """Tokens of an example with k demonstrations. More lose their beginning, as in MetaICL."""
    return 256 if k == 0 else min(256 * k, 1024)


def make_layout(template: str, tokenizer: Any) -> Layout:
    """tokenizer None: nothing is cut. Raises InputError for an unknown template."""
    if template not in TEMPLATES:
        near = did_you_mean(template, TEMPLATES)
        raise InputError(f'task.template: settings have no template "{template}"{near}; known: {", ".join(TEMPLATES)}')
    return Layout(template.startswith("channel"), template.endswith("spaces"), tokenizer)


class Layout:
    """Rows to examples. A row's cut is found once, for each of its places."""

    def __init__(self, channel: bool, spaces: bool, tokenizer: Any):
        self.channel, self.tokenizer = channel, tokenizer
        self.gap, self.turn = (" ", " ") if spaces else ("\n\n\n", "\n")
        self._inputs: dict[tuple[str, bool, bool], str] = {}
        self._counts: dict[str, int] = {}
        self._null: tuple[str, str] = ("", "")  # the last one and its context: all rows of a task share it

    def example(self, row: Row, shown: Sequence[Row] = (), group: str = "", train: bool = False) -> Example:
        """The row with answered ones before it. train: the cut leaves room for its own output, not for every option.

        Raises InputError naming a row whose output leaves no room for its input.
        """
        context = "".join(self._answered(other, i == 0) for i, other in enumerate(shown))
        first = not shown
        options = row.options or (row.output,)
        gold = tuple(i for i, option in enumerate(options) if option == row.output)  # data may list one twice
        text = self._input(row, first, own_output=train)
        if not self.channel:
            # MetaICL writes no newline before the output of a task without options (its test "all options are empty"
            # is true of no options), so that input and output run together; here it is written.
            answers = tuple(self.turn + option for option in options)
            null = None if train else self._without_input(context, first)
            return Example(row.id, context + text, answers, gold, null_prompt=null, place=row.place, group=group)
        # Every answer is the input. It is cut like all inputs, though it is what is scored: so does MetaICL. An empty
        # input has no token there and no loss; its newline is scored here.
        leads = tuple(self._output(option, first) for option in options)
        answers = (text or self.turn,) * len(options)
        return Example(row.id, context, answers, gold, place=row.place, leads=leads, group=group)

    def prepare(self, rows: Sequence[Row], train: bool = False, first: bool = True) -> None:
        """Find the cuts of many rows with one call of the tokenizer, where it is a fast one: ten times as quick."""
        if self.tokenizer is None or not getattr(self.tokenizer, "is_fast", False):
            return
        long = [row for row in rows if not self._is_short(self._plain(row, first), self._outputs(row, first, train))]
        outputs = {text: None for row in long for text in self._outputs(row, first, train) if text not in self._counts}
        if outputs:
            tokens_of = self._tokenize(list(outputs))["input_ids"]
            self._counts.update((text, len(ids)) for text, ids in zip(outputs, tokens_of))
        if long:
            inputs = self._tokenize([self._plain(row, first) for row in long], offsets=True)["offset_mapping"]
            for row, offsets in zip(long, inputs):
                with suppress(InputError):  # `example` will say it of the row
                    self._inputs[row.id, first, train] = self._cut(row, first, train, offsets)

    # ------------------------------------------------------------------------------------------------- parts of a text

    def _answered(self, row: Row, first: bool) -> str:
        text, output = self._input(row, first, own_output=True), self._output(row.output, first)
        return output + text if self.channel else text + output

    def _output(self, output: str, first: bool) -> str:
        before = self.turn if not self.channel else "" if first else self.gap
        return before + output

    def _outputs(self, row: Row, first: bool, own_output: bool) -> list[str]:
        """The texts that the input must leave room for, one at a time."""
        texts = row.options if row.options and not own_output else (row.output,)
        return [self._output(text, first) for text in texts]

    def _before(self, row: Row, first: bool) -> str:
        """What stands before an input: of an empty one a newline less, that there are no more of them in a row."""
        before = self.turn if self.channel else "" if first else self.gap
        return before if row.input or self.gap == " " else before[:-1]

    def _plain(self, row: Row, first: bool) -> str:
        return self._before(row, first) + row.input

    def _without_input(self, context: str, first: bool) -> str:
        if not self._null[1] or self._null[0] != context:
            self._null = (context, context + ("" if first else self.gap) + NULL)
        return self._null[1]

    # ------------------------------------------------------------------------------------------------------------ cuts

    def _input(self, row: Row, first: bool, own_output: bool) -> str:
        """The input with what stands before it, cut at its end, beside the row's output or else the longest option."""
        text = self._plain(row, first)
        if self.tokenizer is None or self._is_short(text, self._outputs(row, first, own_output)):
            return text
        key = (row.id, first, own_output)
        if key not in self._inputs:
            self._inputs[key] = self._cut(row, first, own_output)
        return self._inputs[key]

    def _is_short(self, text: str, outputs: Sequence[str]) -> bool:
        """Whether it fits in any case: a token is a byte or more, and a tokenizer may put a blank before each text."""
        return len(text) <= ROOM and len(text.encode()) + max(len(o.encode()) for o in outputs) + 2 <= ROOM

    def _cut(self, row: Row, first: bool, own_output: bool, offsets: Sequence[tuple[int, int]] | None = None) -> str:
        text, before = self._plain(row, first), self._before(row, first)
        longest = max(map(self._count, self._outputs(row, first, own_output)))
        start = self._keep(text, ROOM - longest, offsets)
        if longest > ROOM or (len(start) <= len(before) and start != text):
            raise InputError(
                f"{row.place}: the {'output' if own_output else 'longest option'} has {longest} tokens and leaves no "
                f"room for the input in the {ROOM} of a row; shorten it or drop the row"
            )
        return start

    def _keep(self, text: str, room: int, offsets: Sequence[tuple[int, int]] | None) -> str:
        """As much of the text as its first `room` tokens hold, whole characters only."""
        if not getattr(self.tokenizer, "is_fast", False):
            return _longest(text, lambda start: len(self._tokenize([start])["input_ids"][0]) <= room)
        spans = offsets if offsets is not None else self._tokenize([text], offsets=True)["offset_mapping"][0]
        if len(spans) <= room:
            return text
        # A character of several tokens is in the spans of all of them: it goes with the first that goes. And a span
        # may leave out the blank that its token begins with: then the one before says where it ends.
        return text[: min(spans[room - 1][1], spans[room][0])] if room > 0 else ""

    def _count(self, text: str) -> int:
        if text not in self._counts:
            self._counts[text] = len(self._tokenize([text])["input_ids"][0])
        return self._counts[text]

    def _tokenize(self, texts: list[str], offsets: bool = False) -> Mapping[str, list[Any]]:
        more = {"return_offsets_mapping": True} if offsets else {}
        return self.tokenizer(texts, add_special_tokens=False, truncation=False, padding=False, verbose=False, **more)


def _longest(text: str, fits: Callable[[str], bool]) -> str:
    """The longest start of a text that fits, by bisection: for a tokenizer that does not say where its tokens are."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(text[:middle]) else (low, middle - 1)
    return text[:low]
