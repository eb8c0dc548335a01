"""The model that a run started from, as a card names it: without a path, and with its licence where it is known."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zofo.config.paths import is_local, own_name
from zofo.config.sections import ModelConfig
from zofo.data.asking import span
from zofo.errors import out_of_memory
from zofo.models.load import hub_options

CARD = "README.md"
LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING")
HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?")
# What stands in the head of a licence's text, for a directory whose card names none
TEXTS = {
    "apache-2.0": r"Apache License\s+Version 2\.0",
    "mit": r"\bMIT License\b",
    "bsd-3-clause": r"BSD 3-Clause",
    "gpl-3.0": r"GNU GENERAL PUBLIC LICENSE\s+Version 3",
    "cc-by-4.0": r"Creative Commons Attribution 4\.0 International",
}


@dataclass(frozen=True)
class Base:
    """hub_id: None for a directory, whose own name is `name`. licence: the card's fields `license`, `license_name`,
    `license_link`; {} where neither the model's card nor its LICENSE says one. where: which of them said it."""

    name: str
    hub_id: str | None = None
    licence: dict[str, str] = field(default_factory=dict)
    where: str = ""

    @property
    def words(self) -> str:
        """Markdown."""
        if self.hub_id is None:
            return f"the model in a directory {span(self.name)}"
        return f"[{self.hub_id}](https://huggingface.co/{self.hub_id})"


def base_of(config: ModelConfig) -> Base:
    """What is known of a model that is there, or was: of one of the hub its card is asked for, as its weights were."""
    name = config.name
    if not is_local(name) and HUB_ID.fullmatch(name):
        licence = _of_card(_hub_card(config))
        return Base(name.rpartition("/")[2], name, licence, "card" if licence else "")
    if licence := _of_card(Path(name) / CARD):
        return Base(own_name(name), None, licence, "card")
    licence = _of_text(Path(name))
    return Base(own_name(name), None, licence, "LICENSE" if licence else "")


def _hub_card(config: ModelConfig) -> Path | None:
    """None where the hub gives none: it is away, or the model has no card."""
    from huggingface_hub import hf_hub_download

    options = {key: value for key, value in hub_options(config, config.name).items() if key != "trust_remote_code"}
    try:
        return Path(hf_hub_download(config.name, CARD, **options))
    except Exception as error:  # whatever the network does, the run is at its end
        if out_of_memory(error):
            raise
        return None


def _of_card(path: Path | None) -> dict[str, str]:
    """A card is somebody else's file, and may hold anything."""
    from huggingface_hub import metadata_load

    if path is None or not path.is_file():
        return {}
    try:
        content: Any = metadata_load(path)
    except Exception as error:
        if out_of_memory(error):
            raise
        return {}
    content = content if isinstance(content, dict) else {}
    licence = content.get("license")
    if isinstance(licence, list) and len(licence) == 1:
        licence = licence[0]
    if not isinstance(licence, str) or not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", licence):  # the hub takes no other
        return {}
    found, name, link = {"license": licence}, content.get("license_name"), content.get("license_link")
    if isinstance(name, str) and re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name):
        found["license_name"] = name
    if isinstance(link, str) and re.fullmatch(r"https://[!-~]+", link):  # "LICENSE" is a file that is not here
        found["license_link"] = link
    return found


def _of_text(directory: Path) -> dict[str, str]:
    for path in (directory / name for name in LICENCES):
        try:
            with path.open("rb") as file:
                head = file.read(2000).decode("utf-8", "replace")
        except OSError:
            continue
        said = [name for name, text in TEXTS.items() if re.search(text, head, re.IGNORECASE)]
        return {"license": said[0]} if len(said) == 1 else {}
    return {}
