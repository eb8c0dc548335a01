"""In which sections a field is: what is given in a wrong place, or with dashes, is answered with the right one."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from zofo.config import registry
from zofo.config.known_words import Word, known
from zofo.config.layers import MODULE_SECTIONS, SECTIONS
from zofo.config.parallel import ParallelConfig
from zofo.config.sections import ModelConfig, TaskConfig, TrainConfig
from zofo.errors import nearest

NAMED = 3  # fields in a hint
ALIASES = {"learning_rate": "lr", "max_seq_length": "max_length", "torch_dtype": "dtype"}  # as other trainers have it


@dataclass
class Place:
    """A field of a section; entries: those of the section's kind that have it, where not all runs do."""

    section: str
    name: str
    config: type
    entries: list[str] = dataclasses.field(default_factory=list)

    @property
    def path(self) -> str:
        return f"{self.section}.{self.name}"


def every_place() -> list[Place]:
    """Of the sections that all runs have, then of those of the registry's entries, a place for each field: one for
    entries in which it is the same, default and all."""
    core: dict[str, type] = {"model": ModelConfig, "task": TaskConfig, "train": TrainConfig, "parallel": ParallelConfig}
    places = [Place(section, spec.name, cls) for section, cls in core.items() for spec in dataclasses.fields(cls)]
    for section in MODULE_SECTIONS:
        alike: dict[str, Place] = {}
        for entry in registry.names(f"{section}s"):
            config = getattr(registry.load(f"{section}s", entry), "Config", None)
            if config is None:
                continue
            for spec in dataclasses.fields(config):
                key = f"{spec.name} {spec.type} {spec.default} {spec.metadata}"
                alike.setdefault(key, Place(section, spec.name, config)).entries.append(entry)
        places += alike.values()
    return places


def answer(key: str, paths: Iterable[str], section: str = "") -> str:
    """What is said to a word of another trainer that is no field of these paths: "; did you mean ...?", or that zofo
    has none; "" for any other word. section: in which it was given."""
    paths = list(dict.fromkeys(paths))
    word = known(key, [path.partition(".")[2] for path in paths])
    if word is None and (theirs := known(key)) and any(f.startswith(f"{section}.") for f in theirs.fields if section):
        word = theirs  # adapter.rank, where the estimator has a rank too
    if word is None:
        return ""
    why = f" ({word.why})" if word.why else ""
    if not word.fields:
        return f"; zofo has none: {word.why}"
    if here := there(word, paths):
        return f"; did you mean {listed(here)}?{why}"
    return f"; in zofo that is {listed(list(word.fields))}, which is not among the settings here{why}"


def there(word: Word, paths: Iterable[str]) -> list[str]:
    """The fields of a word that are among these paths, or are whole sections of them; values stay behind them."""
    paths = [*paths]
    sections = {path.partition(".")[0] for path in paths}
    names = {*paths, *sections, *(f"{section}.name" for section in sections)}
    return [field for field in word.fields if field.partition("=")[0] in names]


def meant(key: str, paths: Iterable[str]) -> list[str]:
    """Which of the paths `section.field` a key stands for: those with that field, or with one that is made of it, as
    lr_theta of lr. No more than NAMED."""
    key, paths = ALIASES.get(key, key), list(paths)
    exact = [path for path in paths if path.partition(".")[2] == key]
    parts = [path for path in paths if key in path.partition(".")[2].split("_")]
    return (exact or parts)[:NAMED]


def somewhere_else(line: str, classes: Mapping[str, type]) -> str:
    """An error of an unknown field, with the section of the run that has it; any other line as it is."""
    match = re.match(r"(\w+)\.([\w-]+): unknown field; (did you mean|known: )", line)
    if match is None or match[1] not in classes:
        return line
    section, key = match[1], match[2].replace("-", "_")
    paths = [f"{other}.{spec.name}" for other, cls in classes.items() for spec in dataclasses.fields(cls)]
    if hint := answer(key, paths, section):
        return f"{section}.{match[2]}: unknown field{hint}"
    paths.sort(key=lambda path: (not path.startswith("method."), path.startswith("train.")))
    found = meant(key, paths)
    exact = bool(found) and found[0].partition(".")[2] == ALIASES.get(key, key)
    if not found and (near := nearest(key, [path.partition(".")[2] for path in paths])) is not None:
        found = meant(near, paths)
    if not found or (match[3] == "did you mean" and not exact):
        return line
    return f"{section}.{match[2]}: unknown field; did you mean {listed(found)}?"


def listed(paths: list[str]) -> str:
    quoted = [f'"{path}"' for path in paths]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def paths_in(sections: Sequence[str], method: str = "") -> list[str]:
    """`section.field` of all that there are in these sections. method: of this one alone, where one has that name."""
    named = [place for place in every_place() if place.section in sections]
    method = registry.canonical(method)
    if any(method in place.entries for place in named if place.section == "method"):
        named = [place for place in named if place.section != "method" or method in place.entries]
    return list(dict.fromkeys(place.path for place in named))


def of_a_word(option: str, own: Sequence[str], paths: Sequence[str]) -> str:
    """What to write in place of an option that is another trainer's word: one of the verb's `own`, or a setting of
    `paths`; "" where it has neither, and for any other word."""
    word = _word(option, own, paths)
    if word is None:
        return ""
    why = f" ({word.why})" if word.why else ""
    flags = [*(_flag(field) for field in word.fields), *word.options]
    if flag := next((flag for flag in flags if flag in own), None):
        return f'; did you mean "{flag}"?{why}'
    settings = [field if "=" in field else f"{field}=VALUE" for field in there(word, paths) if field not in SECTIONS]
    return f"; settings have no dashes: {' or '.join(settings)}{why}" if settings else ""


def of_no_option(option: str, own: Sequence[str], paths: Sequence[str]) -> str:
    """What another trainer's word is that this verb has not; "" for any other word."""
    word = _word(option, own, paths)
    if word is None:
        return ""
    why = f" ({word.why})" if word.why else ""
    return f"; of zofo train that is {' or '.join(word.fields)}{why}" if word.fields else f"; zofo has none: {word.why}"


def _word(option: str, own: Sequence[str], paths: Sequence[str]) -> Word | None:
    key = re.sub(r"^-+", "", option).rpartition(".")[2]
    return known(key, [*(path.partition(".")[2] for path in paths), *(name.lstrip("-") for name in own)])


def _flag(field: str) -> str:
    """The option that a field has where a verb has one: --max-steps, and --model for model.name."""
    section, _, name = field.partition("=")[0].partition(".")
    return f"--{section if name == 'name' else name.replace('_', '-')}"


def of_an_option(option: str, sections: Sequence[str], exactly: bool, method: str = "") -> str:
    """What to write in place of an unknown option such as --lr: a setting of one of these sections, "" for none.

    exactly: by that name, or one that is made of it, and not by the nearest. method: see `paths_in`.
    """
    path = re.sub(r"^-+", "", option).replace("-", "_")
    key = path.rpartition(".")[2]
    paths = paths_in(sections, method)
    found = [path] if path in paths else meant(key, paths)
    if not found and not exactly:
        near = nearest(key, [path.partition(".")[2] for path in paths])
        found = meant(near, paths) if near is not None else []
    return f"; settings have no dashes: {' or '.join(f'{path}=VALUE' for path in found)}" if found else ""
