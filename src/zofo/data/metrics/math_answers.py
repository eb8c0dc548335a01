r"""The answers of MATH (Hendrycks et al. 2021): found in a solution, and brought to a form in which equals are equal.

`key` maps an answer to a value that is the same for answers that count as equal, so equality is symmetric and
transitive by construction. It begins with the string normalisation the paper's evaluation describes (\left \right \!,
\$, %, degrees, units in \text, "x =", \dfrac, \frac12, \sqrt3, a/b, .5, blanks) and goes on where that is certain:

- numbers are exact fractions: 0.5, \frac12, 1/2, \frac{2}{4}; mixed 1\frac{4}{5}, 1 4/5; 1,000 (but (1,000) is a pair)
  and 1 000;
- a text behind a number is its unit: 5\,\text{cm}, 5 \text{m/s}, 5~\mathrm{kg}\cdot\text{m}^{-1}; \\frac is \frac (a
  text whose backslashes were doubled on the way);
- (a, b], [a, b), \langle a, b \rangle: the brackets and the elements, in order; (a) and {a} are a;
- \{a, b\}: elements in any order, repeats count once; a bare list a, b: in any order, as MATH asks for "all values,
  separated by commas", repeats count;
- matrices cell by cell; pmatrix and bmatrix are one, a vmatrix is another thing.

All else is compared as a string: nothing is computed, so 9^{9^{9}} costs as much as any seven characters.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Hashable, Iterable
from fractions import Fraction

_LONGEST = 10_000  # characters; a longer answer equals itself only
_DIGITS = 1_000  # of one number; Python refuses to read integers of more than 4300
_DEPTH = 8  # of brackets in brackets; what is deeper is compared as a string

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_TOKEN = re.compile(r"\\[A-Za-z]+|\\[!,] *|\\.|.", re.DOTALL)  # \! and \, in "10,\! 080" take the blank along

_DEGREES = re.compile(r" ?\^ ?(?:\\circ(?![A-Za-z])|\{ ?\\circ ?\})|°|\\degrees?(?![A-Za-z])")
_WORDS = r"\\(?:text|mbox|mathrm|textrm|textbf|textit|textnormal) ?\{(?! ?[ap]\.?m\b)"  # 3:00 \text{ p.m.} is no unit
_SPACE = r"(?: |~|\\[ ,;:!]|\\q?quad(?![A-Za-z]))"
_POWER = r"(?: ?\^ ?(?:[0-9]|\{ ?-? ?[0-9] ?\}))?"
_NAME = r"[A-Za-z][A-Za-z./ ^0-9-]+\}"  # of a unit; one letter alone may be a variable
_LETTER = r"[ACFJKLNVWghlms]\}"  # a unit where a space sets it off: not the e, i and d of \mathrm{e}^{\mathrm{i}x}
_ONE_UNIT = rf"{_WORDS} ?(?:{_NAME}|{_LETTER}){_POWER}"
_UNIT = re.compile(  # texts at the end, right behind a number, set off from it, or with a blank at their own start
    rf"(?:(?<=[0-9}}]){_WORDS}{_NAME}|(?<=[0-9}}.]){_SPACE}+{_WORDS}(?:{_NAME}|{_LETTER})"
    rf"|(?<=[^ ]) ?{_WORDS}[ ~][^{{}}\\]*\}})"
    rf"{_POWER}(?:{_SPACE}*(?:(?:/|\\cdot(?![A-Za-z])){_SPACE}*)?{_ONE_UNIT})* ?\.?$"
)
_ROWS = re.compile(r"(?<!\\)\\begin")  # in it \\ ends a row; elsewhere it is a backslash, doubled on the way
_PREFIX = re.compile(r"[A-Za-z]{1,2} ?(?:=|\\in(?![A-Za-z])) ?")
_MATRIX = re.compile(r"\\begin\{ ?([a-zA-Z]*matrix) ?\}(.*)\\end\{ ?\1 ?\}", re.DOTALL)

_NUMBER = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)"
_SPACED = r"[0-9]{1,3}(?: [0-9]{3})+(?:\.[0-9]*)?"
_PLAIN = re.compile(rf"{_SPACED}|{_NUMBER}")
_PART = rf"(?:- ?)?(?:{_SPACED}|{_NUMBER})"
_FRACTION = re.compile(rf"(?:(?P<whole>[0-9]+) ?)?\\frac\{{ ?(?P<up>{_PART}) ?\}} ?\{{ ?(?P<down>{_PART}) ?\}}")
_RATIO = re.compile(rf"(?:(?P<whole>[0-9]+) )?(?P<up>{_NUMBER}) ?/ ?(?P<down>{_NUMBER})")

_BLANKS = [r"\ ", r"\;", r"\:", "~", r"\quad", r"\qquad"]
_SAME = dict.fromkeys(_BLANKS, " ")
_SAME |= {r"\tfrac": r"\frac", r"\dfrac": r"\frac", r"\cfrac": r"\frac", r"\lbrace": r"\{", r"\rbrace": r"\}"}
_SAME |= {r"\le": r"\leq", r"\ge": r"\geq", r"\ne": r"\neq"}
_DROPPED = {r"\left", r"\right", r"\displaystyle", r"\$", r"\%", "$", "%", r"\(", r"\)", r"\[", r"\]"}
_DROPPED |= {rf"\{size}{side}" for size in ("big", "Big", "bigg", "Bigg") for side in ("", "l", "r")}
_TEXTS = {r"\text", r"\mbox", r"\mathrm", r"\textrm", r"\textbf", r"\textit", r"\textnormal", r"\mathbf"}
_ARGUMENTS = {r"\frac": 2, r"\binom": 2, r"\sqrt": 1, "^": 1, "_": 1}
_OPEN, _CLOSE = {"(", "[", "{", r"\{", r"\langle"}, {")", "]", "}", r"\}", r"\rangle"}


def boxed(text: str) -> str | None:
    r"""What stands in the last \boxed{...} or \fbox{...}; behind a \boxed without braces, up to "$" or the line's end.

    None where there is no box, or where the last one is not closed (an answer cut off is no answer).
    """
    last = deque(_BOX.finditer(text), maxlen=1)
    if not last:
        return None
    start, depth = last[0].end(), 0
    if not text.startswith("{", start):
        return re.split(r"[$\n]", text[start:], maxsplit=1)[0].strip()
    for mark in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(mark[0], 0)
        if depth == 0:
            return text[start + 1 : mark.start()]
    return None


def equal(one: str, other: str) -> bool:
    """Whether two answers count as the same; one of which nothing is left equals itself only."""
    if one.strip() == other.strip():
        return True
    if max(len(one), len(other)) > _LONGEST:
        return False
    left, right = form(one), form(other)
    return bool(left and right) and key(left) == key(right)


def exact(text: str) -> Fraction | None:
    """A decimal number with or without commas as a fraction; None where it has too many digits."""
    return Fraction(text.replace(",", "").replace(" ", "")) if len(text) <= _DIGITS else None


def form(text: str) -> str:
    """The normalised string; blanks are left in, as "1 1/2" and "1, 234" need them, until `key` drops them."""
    if not _ROWS.search(text):
        text = text.replace("\\\\", "\\")
    text = " ".join(text.replace("{,}", ",").replace("−", "-").split())
    if (inner := re.fullmatch(r"\$+([^$]*)\$+", text)) is not None:
        text = inner[1].strip()
    text = _UNIT.sub("", _DEGREES.sub("", text))
    tokens: list[str] = [t for t in _TOKEN.findall(text) if t not in _DROPPED and t[:2] not in (r"\!", r"\,")]
    text = _braced(_SAME.get(t, t) for t in tokens).strip().rstrip(". ")
    return _PREFIX.sub("", text, count=1) if _PREFIX.match(text) and text.count("=") <= 1 else text


def _braced(tokens: Iterable[str]) -> str:
    r"""Arguments of \frac, \sqrt, ^ and _ in braces (\frac12, x^2), words out of their \text{...}."""
    out: list[str] = []
    outer: list[tuple[int, bool]] = []  # per open brace: arguments still due behind it, whether it is written
    due, words, index = 0, False, False
    for token in tokens:
        if index or (token == "[" and out[-1:] == [r"\sqrt"]):  # the 3 of \sqrt[3]{2}
            out.append(token)
            index = token != "]"
        elif token == " " and (due or words):
            continue
        elif token == "{":
            written = bool(due) or not words
            outer.append((max(due - 1, 0), written))
            out.extend([token] * written)
            due, words = 0, False
        elif token == "}":
            due, written = outer.pop() if outer else (0, True)
            out.extend([token] * written)
        elif token in _TEXTS:
            words = True
        elif due:
            out.extend(["{", token, "}"])
            due, words = due - 1, False
        else:
            out.append(token)
            due, words = _ARGUMENTS.get(token, 0), False
    return "".join(out)


def number(text: str) -> Fraction | None:
    """The value of a form that is one number, a fraction of two, or a mixed number."""
    sign, body = (-1 if text.startswith("-") else 1), text.removeprefix(text[:1] if text[:1] in "+-" else "").strip()
    if _PLAIN.fullmatch(body):
        value = exact(body)
        return None if value is None else sign * value
    match = _FRACTION.fullmatch(body) or _RATIO.fullmatch(body)
    if match is None:
        return None
    whole, up, down = (exact(match[part] or "0") for part in ("whole", "up", "down"))
    if whole is None or up is None or not down or (match["whole"] and (up < 0 or down < 0)):
        return None
    return sign * (whole + up / down)


def key(text: str, depth: int = 0) -> Hashable:
    """Equal for forms that count as the same answer; see the head of this file."""
    text = text.strip()
    if (value := number(text)) is not None:
        return "number", value
    if depth < _DEPTH:
        parts = _split(text)
        if len(parts) > 1:
            return "list", frozenset(Counter(key(p, depth + 1) for p in parts).items())
        if (brackets := _brackets(text)) is not None:
            first, inner, last = brackets
            keys = [key(p, depth + 1) for p in _split(inner)]
            if first == r"\{":
                return "set", frozenset(keys)
            if first == "{" or (len(keys) == 1 and (first, last) == ("(", ")")):  # these group only
                return key(inner, depth + 1)
            return "tuple", first, *keys, last
        if (matrix := _MATRIX.fullmatch(text)) is not None and r"\begin" not in matrix[2]:
            rows = matrix[2].strip().removesuffix(r"\\").split(r"\\")
            kind = "matrix" if matrix[1] in ("pmatrix", "bmatrix") else matrix[1]
            return kind, tuple(tuple(key(cell, depth + 1) for cell in row.split("&")) for row in rows)
    return "text", text.replace(" ", "").removeprefix("+")


def _split(text: str) -> list[str]:
    """The text at its commas that stand in no bracket."""
    parts, depth = [[]], 0
    for token in _TOKEN.findall(text):
        depth += (token in _OPEN) - (token in _CLOSE)
        if token == "," and depth == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return ["".join(p) for p in parts]


def _brackets(text: str) -> tuple[str, str, str] | None:
    """First bracket, inside, last bracket, where the first one is closed by the last character and not before."""
    tokens = _TOKEN.findall(text)
    if len(tokens) < 2 or tokens[0] not in _OPEN or tokens[-1] not in _CLOSE:
        return None
    depth = 0
    for i, token in enumerate(tokens):
        depth += (token in _OPEN) - (token in _CLOSE)
        if depth == 0 and i < len(tokens) - 1:
            return None
    return (tokens[0], "".join(tokens[1:-1]), tokens[-1]) if depth == 0 else None
