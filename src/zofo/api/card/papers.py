"""What a model's users are asked to cite: the papers that the docstrings of the run's parts name, and zofo."""

from __future__ import annotations

import re
from pathlib import Path

from zofo.config import registry
from zofo.config.resolve import Config

PARTS = {"method": "methods", "adapter": "adapters", "estimator": "estimators", "rule": "rules", "mask": "masks"}
NUMBER = re.compile(r"arXiv[ :](\d{4}\.\d{4,5})")


def cited(config: Config) -> list[str]:
    """arXiv numbers, the method's first: those in the docstring of each part that the run has."""
    numbers: dict[str, None] = {}
    for section, kind in PARTS.items():
        if (name := config.names.get(section)) is not None:
            numbers |= dict.fromkeys(NUMBER.findall(registry.docstring(kind, name)))
    return list(numbers)


def bibtex(number: str) -> str:
    """The entry of a paper; of one that papers.bib does not have, as a plug-in's, its number alone."""
    entry = entries().get(number)
    lines = [f"eprint = {{{number}}}", "archivePrefix = {arXiv}", f"url = {{https://arxiv.org/abs/{number}}}"]
    return entry or f"@misc{{arxiv{number},\n" + "".join(f"  {line},\n" for line in lines) + "}"


def entries() -> dict[str, str]:
    """{arXiv number: BibTeX}"""
    text = Path(__file__).with_name("papers.bib").read_text("utf-8")
    found = re.findall(r"^@\w+\{.*?^\}", text, re.MULTILINE | re.DOTALL)
    return {number: entry for entry in found for number in re.findall(r"eprint = \{(.+?)\}", entry)}


def of_zofo(version: str) -> str:
    """As CITATION.cff has it."""
    return (
        f"@software{{zofo,\n  title = {{zofo}},\n  author = {{{{The zofo authors}}}},\n  version = {{{version}}},\n"
        "  license = {Apache-2.0},\n}"
    )
