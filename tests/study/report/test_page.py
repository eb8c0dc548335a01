"""The page's numbers are those of the runs' files, its texts stay texts, and nothing in it leads outside."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import read_rows
from tests.report_pages import HOSTILE, Page, small_run
from zofo.errors import InputError
from zofo.study.report import page as module
from zofo.study.report.page import MOST, Found, find, render
from zofo.study.report.words import number
from zofo.study.results import kept, read


@pytest.fixture(scope="module")
def run(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of Bilevel ZOFO. Read only."""
    return small_run(tiny_model_dir, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def text(run: Path) -> str:
    return render(find([run]))


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "copy")


def info_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())


def test_the_headline_is_that_of_run_json(run: Path, page: Page) -> None:
    info = info_of(run)
    head, *rows = page.tables["Headline numbers"]
    assert head == ["what", "value", "95 % interval", "metric", "by", "loss", "examples"]
    found = {row[0].replace(" deployed", ""): row for row in rows}
    assert len(found) == 4
    for split in ("test", "dev"):
        for candidate, values in info[split].items():
            row = found[f"{split}: (theta, {candidate})"]
            assert row[1] == number(values["accuracy"])
            assert row[5:] == [number(values["loss"]), str(values["n"])]
            low, high = map(float, row[2].split(" to "))
            assert low < values["accuracy"] < high
            assert row[4] == "Wilson"
            assert ("deployed" in row[0]) == (candidate == info["deployed"])


def test_the_curves_are_those_of_the_metrics(run: Path, page: Page) -> None:
    train = [line for line in read_rows(run / "metrics.jsonl") if line["event"] == "train"]
    dev = [line for line in read_rows(run / "metrics.jsonl") if line["event"] == "dev"]
    assert page.tables["Training loss"][1:] == [
        [str(line["step"]), number(line["loss_s"]), number(line["loss_p"])] for line in train
    ]
    assert page.tables["Coefficient c"][1:] == [[str(line["step"]), number(line["c"])] for line in train]
    assert page.tables["The gap"][1:] == [[str(e["step"]), number(e["G_p"] - e["G_s"])] for e in train]
    losses = {(line["step"], line["candidate"]): number(line["loss"]) for line in dev}
    assert page.tables["Dev loss"][1:] == [
        [str(step), losses[step, "s"], losses[step, "p"]] for step in sorted({line["step"] for line in dev})
    ]


def test_G_is_the_sum_of_its_terms(run: Path) -> None:
    for line in read_rows(run / "metrics.jsonl"):
        if line["event"] == "train":
            assert line["G"] == pytest.approx(line["G_f"] + 10 * (line["G_p"] - line["G_s"]), rel=1e-6)


def test_time_memory_and_confusion_are_those_of_the_files(run: Path, page: Page) -> None:
    info = info_of(run)
    rows = {row[0]: row[1:] for row in page.tables["Phases of run"][1:]}
    assert set(rows) == {"setup", "training", "evaluation", "saving", "test", "all training steps"}
    for phase, values in info["phases"].items():
        assert rows[phase] == [f"{values['seconds']:.1f} s", f"{values['peak_bytes'] / 2**20:.0f} MiB"] or (
            values["peak_bytes"] >= 2**30
        )
    assert 0 < info["phases"]["training"]["seconds"] <= info["seconds"]
    report = json.loads((run / "eval" / f"report-{info['deployed']}.json").read_text())
    table = next(rows for caption, rows in page.tables.items() if caption.startswith("Test examples of what"))
    assert [[int(cell) for cell in row[1:]] for row in table[1:]] == report["confusion"]
    assert [row[0] for row in table[1:]] == report["labels"] == table[0][1:]


def test_predictions_are_the_wrong_ones_first(run: Path, page: Page) -> None:
    rows = read_rows(run / "eval" / f"predictions-{info_of(run)['deployed']}.jsonl")
    ordered = sorted(rows, key=lambda row: (row["correct"], -row["loss"]))
    assert len(page.rows) == len(rows) == 25
    for shown, row in zip(page.rows, ordered):
        assert row["id"] in shown
        assert shown.startswith("right" if row["correct"] else "wrong")
        assert number(row["loss"]) in shown


def test_texts_of_data_stay_texts(run: Path, text: str, page: Page) -> None:
    assert any("<script>alert(1)</script>" in row for row in page.rows), "the row is there, or this shows nothing"
    assert len(page.scripts) == 1
    assert "alert" not in page.scripts[0]
    assert "\u202e" not in text
    assert "\\u202egnp.exe" in text
    assert "{{ 7*7 }}" in page.text


STRANGE = ["\x00 nul", "\ud800 lone", "\u2067rtl\u2069", "</style><img src=x onerror=alert(1)>", "$x^2$", "x" * 100_000]


def test_strange_rows_are_shown_and_cut(copy: Path) -> None:
    deployed = info_of(copy)["deployed"]
    file = copy / "eval" / f"predictions-{deployed}.jsonl"
    rows = [
        {
            "id": one[:50],
            "prompt": one,
            "answers": [one, "b"],
            "gold": [0],
            "prediction": "b",
            "correct": False,
            "loss": 1.0,
        }
        for one in STRANGE
    ]
    rows[0]["loss"] = None
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = render(find([copy]))
    page = Page(text)
    assert len(page.rows) == len(STRANGE)
    assert "not finite" in page.rows[0], "a loss that is no number goes first"
    assert not re.search("[\x00-\x08\u2066-\u2069\u202a-\u202e\ud800-\udfff]", text)
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert "99,300 characters left out" in page.text
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_a_thousand_long_rows_stay_below_two_megabytes(copy: Path) -> None:
    file = copy / "eval" / f"predictions-{info_of(copy)['deployed']}.jsonl"
    row = {"answers": [" \u4e2d" * 500, " b"], "gold": [0], "prediction": "b", "correct": False}
    rows = [row | {"id": str(i), "loss": float(i), "prompt": f"{i} " + "\u4e2d<&\x1b" * 400} for i in range(1000)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = render(find([copy]))
    assert len(text.encode()) < MOST == 2_000_000
    page = Page(text)
    left = int(re.findall(r"The last (\d+) in this order", page.text)[0])
    assert 100 < len(page.rows) == 1000 - left < 1000
    assert page.rows[0].startswith("wrong · loss 999.0")


def test_the_same_files_give_the_same_bytes(run: Path, text: str) -> None:
    assert render(find([run])) == text


def test_nothing_leads_outside(text: str, page: Page) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action", "srcset", "data", "poster"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
    assert not re.search(r"@import|url\((?!#)|https?://", text)
    policy = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy
    assert (policy[0] or "").startswith("default-src 'none'")


def test_no_path_of_the_machine(run: Path, text: str) -> None:
    assert str(run.parent) not in text
    assert "./rows.jsonl" in text


def test_a_screen_reader_finds_its_way(page: Page) -> None:
    tags = [tag for tag, _ in page.tags]
    assert ("html", {"lang": "en"}) in page.tags
    assert {"header", "main", "nav", "footer"} <= set(tags)
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    plots = [given for tag, given in page.tags if tag == "svg" and given.get("class") == "plot"]
    assert len(plots) >= 7
    assert all(given["role"] == "img" and given["aria-label"] for given in plots)
    ids = [given["id"] for _, given in page.tags if "id" in given]
    assert len(ids) == len(set(ids))
    assert tags.count("table") == tags.count("caption")


def test_several_runs_are_laid_over_one_another(
    run: Path, tiny_model_dir: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = small_run(tiny_model_dir, tmp_path, "mezo", "mezo")
    text = render(find([run, other]), "both <b>")
    page = Page(text)
    assert "<title>both &lt;b&gt; · zofo report</title>" in text
    assert {row[0] for row in page.tables["Headline numbers"][1:]} == {"run", "mezo"}
    assert page.tables["Coefficient c"][0] == ["counted step", "run", "mezo"]
    infos = {name: json.loads((path / "run.json").read_text()) for name, path in {"run": run, "mezo": other}.items()}
    for title, key, unit in (("Seconds a step", "seconds_per_step", 1), ("Peak memory", "peak_bytes", 2**30)):
        shown = {row[0]: row[2] for row in page.tables[title][1:]}
        assert shown == {name: number(info[key] / unit) for name, info in infos.items()}
    assert [row[0] for row in page.tables["Weights of the adapter"][1:]] == ["run"], "mezo has none"
    assert text.count('class="run-1"') >= 3
    assert [given["data-run"] for _, given in page.tags if "data-run" in given] == ["0", "1"]


def test_a_kept_file_has_the_same_numbers(run: Path, page: Page, tmp_path: Path) -> None:
    file = kept(read(run), tmp_path / "run.json")
    other = Page(render(find([file])))
    assert other.tables["Headline numbers"] == page.tables["Headline numbers"]
    assert other.tables["Training loss"] == page.tables["Training loss"]
    assert other.rows == []
    assert "theta's movement by layer" not in other.tables


def test_a_run_before_its_end_says_so_and_has_no_test(copy: Path) -> None:
    (copy / "run.json").unlink()
    page = Page(render(find([copy])))
    assert "not finished" in page.text
    assert [row[0] for row in page.tables["Headline numbers"][1:]] == [
        "dev: (theta, s), step 8",
        "dev: (theta, p), step 8",
    ]
    assert page.tables["Phases of copy"][1][2] == "not measured"


def test_what_is_not_finite_is_not_zero(copy: Path) -> None:
    lines = read_rows(copy / "metrics.jsonl")
    next(line for line in lines if line["event"] == "train")["c"] = None
    (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    info = info_of(copy)
    info["test"][info["deployed"]]["loss"] = None
    del info["test"][info["deployed"]]["accuracy"]
    (copy / "run.json").write_text(json.dumps(info))
    page = Page(render(find([copy])))
    assert page.tables["Coefficient c"][1][1] == "not finite"
    row = page.tables["Headline numbers"][1]
    assert (row[1], row[2], row[5]) == ("not measured", "none", "not finite")


def test_of_a_study_what_cannot_be_read_is_named(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "a")
    shutil.copytree(run, tmp_path / "b")
    (tmp_path / "b" / "run.json").write_text("{")
    found = find([tmp_path])
    assert len(found.runs) == len(found.unread) == 1
    assert "b/run.json: is no JSON" in Page(render(found)).text
    with pytest.raises(InputError, match="no run in it"):
        find([tmp_path / "a" / "eval"])
    with pytest.raises(InputError, match="no such file"):
        find([tmp_path / "nothing"])


def test_texts_are_ordered_by_score_and_what_has_none_by_loss(copy: Path) -> None:
    info = info_of(copy)
    file = copy / "eval" / f"predictions-{info['deployed']}.jsonl"
    rows = [
        {"id": f"row-{i}", "prompt": "q", "reference": ["a", "b"], "generated": [f"text {i}"], "f1": f1, "loss": loss}
        for i, (f1, loss) in enumerate([(1.0, 0.1), (0.5, 9.0), (0.0, 1.0), (0.0, 2.0)])
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    info["test"][info["deployed"]] |= {"f1": 0.375, "n": 4}
    (copy / "run.json").write_text(json.dumps(info | {"metric": "f1"}))
    page = Page(render(find([copy])))
    assert [re.findall(r"row-\d", row)[0] for row in page.rows] == ["row-3", "row-2", "row-1", "row-0"]
    assert [row.split(" ")[0] for row in page.rows] == ["wrong", "wrong", "f1", "right"]
    assert "a | b" in page.rows[0]
    assert "text 3" in page.rows[0]
    row = page.tables["Headline numbers"][1]
    assert row[4] == "bootstrap, 2,000 samples, seed 0"
    low, high = map(float, row[2].split(" to "))
    assert 0 <= low < 0.375 < high <= 1
    (copy / "run.json").write_text(json.dumps(info | {"metric": "loss"}))
    page = Page(render(find([copy])))
    assert [re.findall(r"row-\d", row)[0] for row in page.rows] == ["row-1", "row-3", "row-2", "row-0"]
    assert "are not right" not in page.text


@pytest.mark.parametrize(("many", "shown"), [(6, 4), pytest.param(60, 24, marks=pytest.mark.slow)])
def test_of_many_runs_the_page_stays_small(run: Path, many: int, shown: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OVERLAID", shown)
    results = tuple(replace(read(run), path=run.parent / f"run-{i}") for i in range(many))
    text = render(Found(results))
    page = Page(text)
    assert len(text.encode()) < MOST
    assert len({row[0] for row in page.tables["Headline numbers"][1:]}) == many
    assert len(page.tables["Coefficient c"][0]) == 1 + shown
    assert f"{many - shown} more have their numbers alone" in page.text


def test_a_failed_run_says_why() -> None:
    from zofo.study.results import Result
    from zofo.train.ending import Ending

    ending = Ending("failed", HOSTILE, fix="start again", step=3, of=8)
    page = Page(render(Found((Result(Path("x"), {"method.name": "mezo"}, {}, (), ending),))))
    assert "failed at step 3 of 8: <script>alert(1)</script>" in page.text
    assert "What helps: start again" in page.text
    assert "Nothing is measured yet." in page.text
