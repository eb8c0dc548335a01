"""A JSON file that is one list of objects, item after item: a million of them need no more memory than one."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Generator, Iterator
from typing import Any

from zofo.errors import InputError, printable

CHUNK = 2**16  # characters that are read at once; more where an item is longer
LONGEST = 2**26  # characters of an item
WORD = 16  # more characters than a number's sign, an escape or a word such as -Infinity needs to be told from damage


class TwiceError(Exception):
    """A key that an object has twice."""


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For json's `object_pairs_hook`: what has a key twice is no object."""
    row = dict(pairs)
    if len(row) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise TwiceError(next(key for key in counts if counts[key] > 1))
    return row


class _Window:
    """What has been read of the file and not been taken yet."""

    def __init__(self, pieces: Iterator[str], name: str) -> None:
        self.pieces, self.name, self.text, self.at, self.ended = pieces, name, "", 0, False

    def more(self) -> bool:
        """Read on. False where the end of the file was reached before."""
        if self.ended:
            return False
        self.text, self.at = self.text[self.at :], 0
        if len(self.text) > LONGEST:
            raise InputError(f"{self.name}: an item of more than {LONGEST} characters; write JSON lines instead")
        wanted = max(CHUNK, len(self.text))  # as much again: an item is tried so often as its length doubles
        while wanted > 0 and not self.ended:
            piece = next(self.pieces, "")
            self.ended = not piece
            self.text, wanted = self.text + piece, wanted - len(piece)
        return True

    def sign(self) -> str:
        """The next character that is no blank, not taken; "" at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if self.ended:
                return ""
            self.more()


def items(file: io.TextIOBase, name: str, budget: int | None = None) -> Generator[tuple[int, Any, str]]:
    """(number from 1, the item or None, what is wrong with it) of each item of the list.

    name: of the file, for errors. budget: characters that are read at most; the items behind them are left out, and
    the last is (0, None, "").
    Raises InputError for what is no list, or no JSON.
    """
    left = [budget]

    def pieces() -> Iterator[str]:
        while piece := file.read(CHUNK if left[0] is None else min(CHUNK, left[0])):
            left[0] = None if left[0] is None else left[0] - len(piece)
            yield piece

    window = _Window(pieces(), name)
    if window.sign() != "[":
        raise InputError(f"{name}: expected a list of JSON objects, [{{...}}, ...]{_begins(window)}")
    window.at += 1
    number = 0
    try:
        while window.sign() != "]":
            number += 1
            item, fault = _item(window, number)
            yield number, item, fault
            if window.sign() == ",":
                window.at += 1
                if window.sign() == "]":
                    raise InputError(f"{name}: item {number + 1}: bad JSON: nothing between a comma and the list's end")
            elif window.sign() != "]":
                what = "the file ends within the list" if not window.sign() else "expected a comma or the list's end"
                raise InputError(f"{name}: behind item {number}: bad JSON: {what}")
    except InputError:
        if left[0] == 0:  # it was this reading that ended, perhaps, and not the file
            yield 0, None, ""
            return
        raise
    window.at += 1
    if rest := window.sign():
        raise InputError(f"{name}: bad JSON: {rest!r} behind the list's end; a file of JSON lines is named .jsonl")


def _begins(window: _Window) -> str:
    sign = window.sign()
    return f", found {sign!r}" if sign else "; it is empty"


def _item(window: _Window, number: int) -> tuple[Any, str]:
    window.sign()
    while True:
        try:
            return _decoded(window)
        except json.JSONDecodeError as error:
            may_go_on = "Unterminated" in error.msg or error.pos + WORD > len(window.text)
            if may_go_on and window.more():
                continue
            if error.pos >= len(window.text.rstrip()) or "Unterminated" in error.msg:
                raise InputError(f"{window.name}: item {number}: bad JSON: the file ends within it") from None
            raise InputError(f"{window.name}: item {number}: bad JSON: {error.msg}") from None
        except RecursionError:
            raise InputError(f"{window.name}: item {number}: bad JSON: nested too deep to be read") from None
        except ValueError:  # Python's own bound, against numbers that take minutes to read
            raise InputError(
                f"{window.name}: item {number}: bad JSON: a number of more than 4300 digits; write it as text"
            ) from None


def _decoded(window: _Window) -> tuple[Any, str]:
    try:
        item, end = _ONCE.raw_decode(window.text, window.at)
    except TwiceError as error:
        _, end = _PLAIN.raw_decode(window.text, window.at)
        item, fault = None, f'bad JSON: the key "{printable(str(error), 60)}" is given twice; keep one'
    else:
        fault = "" if isinstance(item, dict) else f"expected a JSON object, found a {type(item).__name__}"
    if not window.ended and end + WORD > len(window.text) and isinstance(item, (int, float)):  # a number may go on
        raise json.JSONDecodeError("cut", window.text, end)
    window.at = end
    return item, fault


_ONCE, _PLAIN = json.JSONDecoder(object_pairs_hook=once), json.JSONDecoder()
