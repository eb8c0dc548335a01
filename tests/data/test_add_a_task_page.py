"""docs/add_a_task.md: its example works, and it names every key, filter and metric."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from jinja2 import Environment

from tests.conftest import ROOT
from zofo.config.sections import TaskConfig
from zofo.data import Decoding, load_task
from zofo.data.jinja import ENV
from zofo.data.spec import METRICS, TaskSpec, Template


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


def test_the_document_names_every_key_filter_and_metric() -> None:
    text = (ROOT / "docs" / "add_a_task.md").read_text("utf-8")
    keys = [f.name for cls in (TaskSpec, Template, Decoding) for f in fields(cls) if f.name != "file"]
    ours = ENV.filters.keys() - Environment().filters.keys()
    for name in [*keys, *ours, *(m for of_kind in METRICS.values() for m in of_kind)]:
        assert f"`{name}`" in text, name
