"""Rows that are parsed once: the same rows as without, anew once a file changes, and gone at the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zofo.data import kept_rows
from zofo.data.files import read_file
from zofo.data.formats import rows_of
from zofo.data.kept_rows import rows_kept


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for each row that is parsed."""
    lines, loads = list[str](), json.loads
    monkeypatch.setattr("zofo.data.formats.json.loads", lambda line, **how: lines.append(line) or loads(line, **how))
    return lines


def test_a_file_is_parsed_once_inside_and_each_time_outside(tmp_path: Path, parsed: list[str]) -> None:
    (file := tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"text": "b"}\nno JSON\n')
    alone = rows_of(file)
    with rows_kept() as let_go:
        with rows_kept():
            assert rows_of(file) == alone
        assert rows_of(file) == alone, "kept by the outer one"
        assert len(parsed) == 2 * 3
        let_go()
        assert rows_of(file) == alone
        assert len(parsed) == 3 * 3
    rows_of(file)
    assert len(parsed) == 4 * 3


def test_a_file_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    (file := tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    with rows_kept():
        assert read_file(file)[0].row == {"text": "a"}
        (other := tmp_path / "other").write_text('{"text": "c"}\n')
        other.replace(file)
        assert read_file(file)[0].row == {"text": "c"}


def test_the_rows_of_a_large_file_are_not_kept(
    tmp_path: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (file := tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    monkeypatch.setattr(kept_rows, "MOST", 3)
    with rows_kept():
        assert rows_of(file) == rows_of(file)
    assert len(parsed) == 2
