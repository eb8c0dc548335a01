"""docs/add_a_task.md: its example works, and it names every key, filter and metric."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from jinja2 import Environment

from tests.conftest import ROOT
from zofo.config.sections import TaskConfig
from zofo.data import Decoding, load_task
from zofo.data.jinja import ENV
from zofo.data.spec import METRICS, TaskSpec, Template
from zofo.errors import InputError


def test_the_example_of_the_document_works(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "add_a_task.md").read_text("utf-8")
    (tmp_path / "tickets.yaml").write_text(text.partition("```yaml\n")[2].partition("```")[0])
    (tmp_path / "train.jsonl").write_text(text.partition("```json\n")[2].partition("```")[0])
    data = load_task(TaskConfig(name=str(tmp_path / "tickets.yaml"), data=str(tmp_path)), 0)
    assert (len(data.train), len(data.dev), len(data.test)) == (2, 1, 1)
    by_id = {e.id: e for e in data.train + data.dev + data.test}
    urgent = by_id["tickets/train/1"]
    assert urgent.prompt == "Urgent! The app closes when I rotate the phone.\nThis mail is about"
    assert (urgent.answers, urgent.gold, urgent.null_prompt) == ((" money", " technology"), (1,), "This mail is about")


# What each line of the page's table of errors does to its example: (file, what stands there, what is written)
MISTAKES = {
    "a key misspelt": ("tickets.yaml", "metric:", "metrik:"),
    "a name that is no column": ("tickets.yaml", "{{ mail | trim }}\\nThis", "{{ male | trim }}\\nThis"),
    "the data has other columns": ("train.jsonl", '"mail"', '"text"'),
    "a label that is none": ("train.jsonl", 'true, "team": "billing"', 'true, "team": "biling"'),
    "a row that gives no answer": (
        "tickets.yaml",
        '" technology"',
        "\"{{ ' technology' if 'twice' not in mail }}\"",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_errors_of_the_document(mistake: str, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "add_a_task.md").read_text("utf-8")
    table = dict(re.findall(r"^\| ([^|]*) \| `(.*)` \|$", text.partition("| mistake | message |")[2], re.M))
    assert table.keys() == MISTAKES.keys()
    (tmp_path / "tickets.yaml").write_text(text.partition("```yaml\n")[2].partition("```")[0])
    (tmp_path / "train.jsonl").write_text(text.partition("```json\n")[2].partition("```")[0])
    name, old, new = MISTAKES[mistake]
    before = (tmp_path / name).read_text()
    assert old in before
    (tmp_path / name).write_text(before.replace(old, new))
    with pytest.raises(InputError) as error:
        load_task(TaskConfig(name=str(tmp_path / "tickets.yaml"), data=str(tmp_path)), 0)
    assert str(error.value).replace(f"{tmp_path}/", "") == table[mistake]


def test_the_document_names_every_key_filter_and_metric() -> None:
    text = (ROOT / "docs" / "add_a_task.md").read_text("utf-8")
    keys = [f.name for cls in (TaskSpec, Template, Decoding) for f in fields(cls) if f.name != "file"]
    ours = ENV.filters.keys() - Environment().filters.keys()
    for name in [*keys, *ours, *(m for of_kind in METRICS.values() for m in of_kind)]:
        assert f"`{name}`" in text, name
