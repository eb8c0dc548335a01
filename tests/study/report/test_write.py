"""Where pages and kept files are written, what they never overwrite, and how a page follows a run."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.report_pages import Page, small_run
from tests.setting_files import as_task
from zofo.api.metatest.run import meta_test
from zofo.cli.main import run as cli
from zofo.cli.report import after_quick_start
from zofo.errors import InputError
from zofo.study.report import write as module
from zofo.study.report.page import find
from zofo.study.report.write import keep, report, watch
from zofo.study.results import read
from zofo.train.ending import Ending
from zofo.train.ownership import is_report
from zofo.train.run_dir import RunDir


@pytest.fixture(scope="module")
def made(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of MeZO. Read only."""
    return small_run(tiny_model_dir, tmp_path_factory.mktemp("written"), "run", "mezo")


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "run")


def test_the_verb_writes_into_the_run_and_says_where(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"wrote {run / 'report.html'}\n"
    assert is_report(run / "report.html")
    assert RunDir(run).ours()[-1] == run / "report.html", "so that --overwrite knows it"
    assert cli(["report", str(run), "--title", "again"]) == 0
    assert "<h1>again</h1>" in (run / "report.html").read_text()


def test_overwrite_takes_the_page_away_and_leaves_what_is_none(
    run: Path, tiny_model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report([run])
    small_run(tiny_model_dir, run.parent, "run", "mezo", overwrite=True, max_steps=2)
    assert not (run / "report.html").exists()
    assert "left there" not in caplog.text
    (run / "report.html").write_text("<html>mine</html>")
    small_run(tiny_model_dir, run.parent, "run", "mezo", overwrite=True, max_steps=2)
    assert (run / "report.html").read_text() == "<html>mine</html>"


def test_another_file_is_never_overwritten(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("<html>mine</html>")
    assert cli(["report", str(run), "--output", str(mine)]) == 2
    assert capsys.readouterr().err == (
        f"error: {mine}: no page of zofo report; move it away, or give another --output\n"
    )
    assert mine.read_text() == "<html>mine</html>"
    assert cli(["report", str(run), "--output", str(tmp_path)]) == 2
    assert "a directory; give a file" in capsys.readouterr().err
    assert cli(["report", str(tmp_path / "none")]) == 2
    assert "no such file or directory" in capsys.readouterr().err


def test_of_several_runs_the_page_is_in_the_working_directory(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, tmp_path / "other")
    assert report([run, "other"]) == Path("report.html")
    assert report([tmp_path]) == tmp_path / "report.html"
    assert f"<h1>{tmp_path.name}</h1>" in (tmp_path / "report.html").read_text()


def test_kept_files_are_read_again(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run, tmp_path / "other" / "run")
    files = keep(find([run, tmp_path / "other"]), tmp_path / "kept")
    assert [file.name for file in files] == [f"{tmp_path.name}-run.json", "other-run.json"]
    assert read(files[0]).test == read(run).test
    assert cli(["report", str(run), "--keep", str(tmp_path / "one.json")]) == 0
    assert f"kept {tmp_path / 'one.json'}" in capsys.readouterr().out
    assert len((tmp_path / "one.json").read_bytes()) < 60_000
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(InputError, match="no file that was kept"):
        keep(find([run]), tmp_path / "mine.json")
    with pytest.raises(InputError, match="one file for 2 runs"):
        keep(find([run, tmp_path / "other"]), tmp_path / "two.json")
    (run / "run.json").unlink()
    with pytest.raises(InputError, match="not at its end"):
        keep(find([run]), tmp_path / "more")


def test_a_watched_page_ends_with_the_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    ends = iter([Ending("going"), Ending("going"), Ending("finished")])

    def found(paths: list[Path]):
        whole = find(paths)
        return replace(whole, runs=(replace(whole.runs[0], ending=next(ends)),))

    monkeypatch.setattr(module, "find", found)
    monkeypatch.setattr(module, "_write", lambda target, page: written.append(page))
    said: list[Path] = []
    watch([run], said=said.append, every=0.01)
    assert said == [run / "report.html"]
    refreshes = ['http-equiv="refresh"' in page for page in written]
    assert refreshes == [True, True, False]
    assert "still going" in Page(written[0]).text


def test_without_matplotlib_the_error_says_what_to_install(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli(["report", str(run)]) == 2
    assert 'pip install "zofo[study]"' in capsys.readouterr().err
    after_quick_start(str(run.parent))
    assert capsys.readouterr().out.startswith("no report: the figures need matplotlib")


def test_the_quick_start_ends_with_a_page(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("bilevel-zofo", "zero-shot"):
        shutil.copytree(run, tmp_path / "quick" / name)
    after_quick_start(str(tmp_path / "quick"))
    page = tmp_path / "quick" / "report.html"
    assert capsys.readouterr().out == f"report in {page}: open it in a browser\n"
    assert Page(page.read_text()).tables["Headline numbers"][0][0] == "run"


def test_a_meta_test_has_a_section(tiny_model_dir: Path, small_setting: Path, tmp_path: Path) -> None:
    out = tmp_path / "tested"
    given = {**as_task(small_setting), "ways": ("zero-shot", "in-context"), "seeds": (1, 2), "test_examples": 4}
    result = meta_test(str(tiny_model_dir), output=str(out), **given)
    page = Page(report([out], tmp_path / "page.html").read_text())
    rows = {row[0]: row[1:] for row in page.tables["Ways of tested"][1:]}
    assert set(rows) == {"zero-shot", "in-context"}
    for way, values in result["ways"].items():
        assert rows[way][0].startswith(f"{100 * values['all']['mean']:.1f}")
        head, *cells = page.tables["Target tasks of tested"]
        for row in cells:
            cell = row[head.index(way)]
            assert cell.startswith(f"{100 * values['tasks'][row[0]]['mean']:.1f}")
            if values["tasks"][row[0]]["sd"] is not None:
                assert cell.endswith(f"worst {100 * values['tasks'][row[0]]['worst']:.1f}")
    assert not re.search("Curves|Predictions", page.text)
    (out / "results.json").write_text(json.dumps({"setting": "x", "ways": {"a": 1}}))
    with pytest.raises(InputError, match="no results of a meta-test"):
        report([out], tmp_path / "page.html")
