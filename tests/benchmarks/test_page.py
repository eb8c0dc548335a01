"""The page of performance says what the results' files say, and what makes them are the benchmarks that there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import all as every
from benchmarks import page
from tests.conftest import ROOT
from zofo.config.json_text import dumps


def test_the_pages_are_as_the_results_are() -> None:
    texts = [each.read_text("utf-8") for each in page.PAGES]
    assert [page.written(text) for text in texts] == texts, "run `python -m benchmarks.page`"
    assert set(page.MAKERS) == {name for text in texts for _, name, _ in page.BLOCK.findall(text)}


def test_every_figure_has_a_place_in_the_result_of_a_benchmark() -> None:
    made = every.commands("MODEL", Path("DATA"), Path("TASKS"), Path("WORK"))
    for _, name, path, _ in page.WAITS:
        assert name in made, name
        if (page.RESULTS / f"{name}.json").is_file() and not path.startswith(("opt-", "llama-")):
            assert page.found(name, path) is not None, f"{name}.json: {path}"
    for module, *_ in made.values():
        assert (ROOT / "benchmarks" / f"{module}.py").is_file()


def test_what_a_table_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    machine = {"date": "2026-11-30 09:57 UTC", "capability": "AVX2", "threads": 1, "load": [0.4, 1, 2]}
    ratio = {"median": 1.314, "min": 1.2, "max": 12.34}
    (tmp_path / "scoring.json").write_text(dumps({"machine": machine, "sst2": {"HFLM / zofo": ratio}}))
    lines = page.waits().splitlines()
    (line,) = (line for line in lines if "scoring: sst2" in line)
    assert "| 1.31 (1.20 to 12.3) | at least 1.5: **missed** | `scoring`, 2026-11-30, AVX2, 1 thread, load 0 |" in line
    assert all("not measured" in other for other in lines[2:] if other != line and "`scoring`" not in other)
    assert page._judged(1.1, "< 1.1") == "at most 1.1"
    assert page._judged(1.11, "< 1.1") == "at most 1.1: **missed**"
    assert page.shown({"median": 250.4, "min": 250.4, "max": 250.4}) == "250"
    with pytest.raises(KeyError, match="speeds"):
        page.written("<!-- figures: speeds -->\n<!-- end -->")
