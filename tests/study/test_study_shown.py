"""A study as compare, sweep and report show it: rows spelled as in the plan, in the middle of the sweep and at its end;
the search on dev; the page's tables and its detailed runs."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import sentiment_rows, write_rows
from tests.report_pages import Page
from zofo import InputError
from zofo.cli import main as cli
from zofo.study import tables
from zofo.study.compare import compare
from zofo.study.labels import find_row
from zofo.study.plan import Row, Space
from zofo.study.report.page import find, render
from zofo.study.results import kept, read
from zofo.study.sweep_report import _edges

PLAN: dict[str, Any] = {
    "task": {"name": "rows.jsonl", "train_examples": 12, "dev_examples": 8, "test_examples": 6},
    "methods": ["mezo", "fo-peft"],
    "adapters": ["lora", "prompt"],
    "search": {"mezo": {"method.lr": [1e-5, 1e-4]}, "fo-peft": {"method.lr": [1e-4, 1e-3]}},
    "seeds": [3, 4],
    "train": {"max_steps": 2, "eval_steps": 2, "save_steps": 2, "logging_steps": 1, "batch_size": 2},
}
ROWS = ["fo-peft-lora", "fo-peft-prompt", "mezo"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """The study at its end. Read only."""
    folder = tmp_path_factory.mktemp("shown")
    write_rows(folder / "rows.jsonl", sentiment_rows(40))
    (folder / "plan.yaml").write_text(yaml.safe_dump({"model": str(tiny_model_dir), **PLAN}, sort_keys=False))
    assert sweep(folder / "study") == 0
    return folder / "study"


@pytest.fixture
def middle(done: Path, tmp_path: Path) -> Path:
    """Before anything is chosen: trials alone, one still without an end."""
    study = tmp_path / "study"
    shutil.copytree(done, study)
    for run in [*study.glob("*/trial-*/run.json"), *study.glob("*/seed-4/run.json")]:
        info = json.loads(run.read_text())
        if run.parent.name == "seed-4":
            shutil.rmtree(run.parent)
        elif "study" in info:
            info["test"] = {name: {} for name in info["test"]}
            del info["study"]
            run.write_text(json.dumps(info))
    (study / "mezo" / "trial-1" / "run.json").unlink()
    return study


def sweep(study: Path) -> int:
    return cli.run(["sweep", str(study.parent / "plan.yaml"), "--output-dir", str(study), "--no-estimate"])


def best_of(study: Path, row: str) -> int:
    return next(n for n in (0, 1) if read(study / row / f"trial-{n}").test)


def test_a_row_is_spelled_as_in_the_plan(
    done: Path, middle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(compare([done]).rows) == ROWS
    before = list(compare([middle], split="dev").rows)
    assert before == [
        "fo-peft-lora (lr 0.0001)",
        "fo-peft-lora (lr 0.001)",
        "fo-peft-prompt (lr 0.0001)",
        "fo-peft-prompt (lr 0.001)",
        "mezo",
    ]
    after = list(compare([done], split="dev").rows)
    assert [row.replace(", chosen", "") for row in after[:4]] == before[:4]
    assert sum("chosen" in row for row in after) == 3
    for number, row in enumerate(("fo-peft-lora", "fo-peft-prompt")):
        assert "chosen" in after[2 * number + best_of(done, row)]
    learnt = f"fo-peft-lora (lr {read(done / 'fo-peft-lora' / 'seed-4').settings['method.lr']:g})"
    for split, row in (("test", "fo-peft-lora"), ("dev", learnt.replace(")", ", chosen)"))):
        for wanted in (learnt, "fo-peft-lora"):
            assert cli.run(["compare", str(done), "--against", wanted, "--split", split, "--format", "json"]) == 0
            assert json.loads(capsys.readouterr().out)["against"] == row
    with pytest.raises(InputError, match="against: no row"):
        compare([done], against="fo-peft")
    monkeypatch.chdir(done / "mezo")
    assert list(compare(["."], split="dev").rows) == [row for row in after if row.startswith("mezo")]


def test_against_names_one_row_or_none() -> None:
    rows = ["a (lr 1)", "a (lr 2, chosen)", "b (lr 1)", "b (lr 2)", "c (chosen)", "d"]
    meant = {wanted: find_row(wanted, rows) for wanted in ("a", "a (lr 2)", "a (lr 1)", "b", "c", "d", "e")}
    assert meant == {
        "a": "a (lr 2, chosen)",
        "a (lr 2)": "a (lr 2, chosen)",
        "a (lr 1)": "a (lr 1)",
        "b": None,
        "c": "c (chosen)",
        "d": "d",
        "e": None,
    }


def test_in_the_middle_of_a_sweep_it_says_what_helps(middle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["compare", str(middle)]) == 2
    said = capsys.readouterr().err
    assert "test set not scored: fo-peft-lora/trial-0, fo-peft-lora/trial-1, fo-peft-prompt/trial-0 and 2 more" in said
    assert "mezo/trial-1: " in said
    assert "; --split dev compares those that are finished" in said
    for args, expected in ((["--layout", "mode"], 'did you mean "modes"'), (["--split", "de"], "--split: expected")):
        assert cli.run(["compare", str(middle), *args]) == 2
        assert expected in capsys.readouterr().err
    assert cli.run(["compare", str(middle), "--split", "dev"]) == 0
    assert capsys.readouterr().err.startswith("left out: mezo/trial-1 (")


def test_trials_without_a_test_score_are_counted_and_not_listed(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["compare", str(done)]) == 0
    assert capsys.readouterr().err == "left out: 3 trials that dev did not choose (--split dev)\n"
    assert cli.run(["compare", str(done), "--split", "dev"]) == 0
    assert capsys.readouterr().err == "left out: 3 runs of further seeds, which the trials do not have\n"
    cells = [cell for cells in compare([done], split="dev").rows.values() for cell in cells.values()]
    assert {seed for cell in cells for seed in cell.values} == {3}, "trials are compared by one seed"
    loss = {row: cells["rows"].mean for row, cells in compare([done], split="dev", metric="loss").rows.items()}
    for row in ROWS:
        best = min((name for name in loss if name.startswith(row)), key=lambda name: loss[name])
        assert "chosen" in best
    other = 1 - best_of(done, "mezo")
    assert cli.run(["compare", str(done / "mezo" / "seed-4"), str(done / "mezo" / f"trial-{other}")]) == 0
    assert capsys.readouterr().err == f"left out: mezo/trial-{other} (its test set was not scored)\n", (
        "it was asked for"
    )


def test_the_sweep_shows_its_search_and_the_edges(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(done) == 0
    said = capsys.readouterr()
    lines = [line.split("\t") for line in said.out.split("\n\n")[1].splitlines()]
    assert lines[0][:5] == ["row", "trial", "settings", "dev loss", "dev metric"]
    assert [(line[0], line[1]) for line in lines[1:]] == [
        (row, n) for row in ("mezo", "fo-peft-lora", "fo-peft-prompt") for n in "01"
    ]
    for line in lines[1:]:
        run = read(done / line[0] / f"trial-{line[1]}")
        assert line[2:5] == [
            f"lr {run.settings['method.lr']:g}",
            f"{run.dev['loss']:.4f}",
            f"accuracy {run.dev['accuracy']:.4f}",
        ]
        assert (line[5:] == ["chosen"]) == bool(run.test)
    warnings = [line for line in said.err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 3, "of two values one is always at an end"
    rate, end = (1e-05, "lowest") if best_of(done, "mezo") == 0 else (1e-04, "highest")
    assert f"row mezo: the best method.lr, {rate:g}, is the {end} that was tried (1e-05, 0.0001)" in warnings[0]


def test_the_edge_is_that_of_numbers_of_a_grid() -> None:
    points = tuple({"a.b": value} for value in (3, 1, 2))
    space = {"a.b": Space((3, 1, 2)), "a.c": Space(("x", "y")), "a.d": Space(low=0.0, high=1.0), "a.e": Space((5,))}
    searched = Row("r", {}, 3, (), space)
    assert list(_edges(searched, {"a.b": 2, "a.c": "x", "a.d": 0.0, "a.e": 5})) == []
    assert "the best a.b, 1, is the lowest that was tried (1, 2, 3)" in next(_edges(searched, {"a.b": 1}))
    assert "a higher one may be better" in next(_edges(Row("r", {}, 3, points), {"a.b": 3}))
    assert list(_edges(Row("r", {}, 2, ({"a.b": True}, {"a.b": False})), {"a.b": True})) == []


def test_the_page_of_a_study_has_its_chosen_runs(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = render(find([done]))
    page = Page(text)
    chosen = {f"{row}/{run}" for row in ROWS for run in ("seed-4", f"trial-{best_of(done, row)}")}
    section = text.split('<section id="predictions"')[1]
    assert {name for name in chosen if f"<h3>{name}</h3>" in section} == chosen
    assert section.count("<h3>") == 6, "the others have no test score"
    assert "not shown of 3 of the runs" in page.text
    assert text.count("chosen on dev</span>") == 6
    assert "fo-peft with lora on rows" in page.text
    assert ", seed 3, lr 0.0001" in page.text
    assert ", seed 3, lr 0.001" in page.text
    found = [rows for caption, rows in page.tables.items() if caption.startswith(("Test set", "Differences from"))]
    parts = tables.measured(compare([done]))
    assert {tuple(row) for row in found[0][1:]} == {tuple(cell.text for cell in row) for row in parts[0].rows}
    assert [row[-1] for row in found[1][1:]], "verdicts"
    assert text.index('id="headline"') > text.index("Differences from")
    monkeypatch.setattr("zofo.study.report.page.LISTED", 3)
    section = render(find([done])).split('<section id="predictions"')[1]
    assert [section.count(f"<h3>{row}/") for row in ROWS] == [1, 1, 1], "one of each row first"
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "statsmodels.stats.multitest", None)
    without = Page(render(find([done])))
    assert not [caption for caption in without.tables if caption.startswith("Differences")]
    assert len(without.tables["Headline numbers"]) > 6


def test_a_trial_by_itself_has_its_whole_page(done: Path, middle: Path, tmp_path: Path) -> None:
    other = done / "mezo" / f"trial-{1 - best_of(done, 'mezo')}"
    assert 'id="movement"' in render(find([other]))
    assert 'id="movement"' in render(find([middle]))
    files = [kept(read(run), tmp_path / f"{run.parent.name}-{run.name}.json") for run in done.glob("*/seed-4")]
    assert list(compare(files).rows) == list(compare(list(done.glob("*/seed-4"))).rows)
