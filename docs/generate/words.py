"""words.md: every word of other trainers that zofo answers, from the table that answers them."""

from __future__ import annotations

from docs.generate.tables import cell, code, table
from zofo.config.known_words import NAMES, VALUES, WORDS, Word


def grouped() -> dict[Word, list[str]]:
    """{what is said: the words that it is said to}, in the table's order."""
    said: dict[Word, list[str]] = {}
    for word, answer in WORDS.items():
        said.setdefault(answer, []).append(word)
    return said


def page() -> str:
    """The text of words.md."""
    rows = [
        (", ".join(map(code, words)), ", ".join(map(code, (*answer.fields, *answer.options))), cell(answer.why))
        for answer, words in grouped().items()
    ]
    parts = [
        """# Words of other trainers

What transformers, TRL, PEFT, lm-eval and MeZO call it, and which setting does it here. Typed on a command line, in a
YAML file or in Python, each is answered so; with `-` or `_`, in any case. An empty middle: zofo has none of it.
The commands side by side: [coming_from.md](coming_from.md).
""",
        table(("there", "here", "what differs"), rows),
    ]
    for kind, names in NAMES.items():
        found: dict[tuple[str, str], list[str]] = {}
        for name, answer in names.items():
            found.setdefault(answer, []).append(name)
        rows = [(", ".join(map(code, theirs)), code(answer[0]), cell(answer[1])) for answer, theirs in found.items()]
        parts += [f"## Names of {kind}\n", table(("there", "here", "what differs"), rows)]
    values = [(code(theirs), code(ours)) for theirs, ours in VALUES.items()]
    parts += ["## Values\n", table(("there", "here"), values)]
    return "\n".join(parts)
