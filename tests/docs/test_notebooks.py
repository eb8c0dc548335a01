"""The notebooks run from top to bottom on a CPU: their code, in order, in a folder that has what a quick start leaves.

The model and the rows are small ones under the quick start's names, and SHORTER is all that is changed; with the real
ones the notebooks are a slow test.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, sentiment_rows, write_rows
from tests.page_world import make_model
from zofo.api.quickstart.pypi import STAMP

NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
SHORTER = [("max_steps=99", "max_steps=11, eval_steps=11"), ('"max_steps": 99', '"max_steps": 11, "eval_steps": 11')]


def cells(path: Path, kind: str = "code") -> list[str]:
    found = json.loads(path.read_text("utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `zofo quickstart` leaves in .cache: a model and rows, ready."""
    root = tmp_path_factory.mktemp("notebooks")
    cache = root / ".cache" / "quickstart"
    model = make_model(cache / "smollm2-135m-instruct")
    rows = [{"id": i, "text": r["text"], "label": int(r["label"] == "great")} for i, r in enumerate(sentiment_rows(90))]
    for split, some in (("train", rows[:60]), ("validation", rows[60:70]), ("test", rows[70:])):
        write_rows(cache / "movie-reviews" / f"{split}.jsonl", some)
    for ready in (model, cache / "movie-reviews"):
        (ready / STAMP).write_text("{}")
    return root


class Notebook:
    """Runs cells in their order, in names of their own; out[i] is what cell i printed."""

    def __init__(self, path: Path) -> None:
        self.names, self.out = types.ModuleType("notebook").__dict__, list[str]()
        for number, text in enumerate(cells(path)):
            for old, new in SHORTER:
                text = text.replace(old, new)
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                exec(compile(text, f"{path.name}, code cell {number + 1}", "exec"), self.names)
            self.out.append(printed.getvalue())

    def __getitem__(self, name: str) -> Any:
        return self.names[name]


@pytest.fixture
def ran(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Notebook:
    monkeypatch.chdir(folder)
    return Notebook(next(path for path in NOTEBOOKS if path.stem.startswith(request.param)))


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["1_five_lines", "2_csv_to_predictions", "3_inside_algorithm_2"]


@pytest.mark.parametrize("ran", ["1"], indirect=True)
def test_five_lines(ran: Notebook, folder: Path) -> None:
    assert ran["run"].test["n"] == 20
    assert "accuracy before 0." in ran.out[2]
    assert ran.out[3].count("'prediction': ") == 2
    assert "updates of theta: 1  of s: 10" in ran.out[4]
    assert (folder / "out" / "five-lines-export" / "model.safetensors").is_file()


@pytest.mark.parametrize("ran", ["2"], indirect=True)
def test_from_csv_to_predictions(ran: Notebook, folder: Path) -> None:
    assert "labels: ['bad', 'good']" in ran.out[3]
    assert "bad" in ran.out[4]
    answered = (folder / "out" / "answered.csv").read_text("utf-8").splitlines()
    assert answered[0] == "id,review,prediction,probability_bad,probability_good"
    assert len(answered) == 1 + len(ran["unseen"])
    assert re.search(r"\d+ of 20 are right", ran.out[5])


@pytest.mark.parametrize("ran", ["3"], indirect=True)
def test_inside_algorithm_2(ran: Notebook) -> None:
    """The notebook's own assertions hold c and theta's bits; here, that what it prints is what it says."""
    printed = "".join(ran.out)
    assert "theta is what it was: True" in printed
    assert "the same bits: True" in printed
    assert ran["c"] != 0
    assert ran["metrics"]["c"] == ran["estimate"].c
    assert ran["moved"].mean().item() > 0
    sums = re.search(r"^(\S+) \+ 10 \* \((\S+) - (\S+)\) = (\S+)$", ran.out[5], re.M)
    assert sums is not None
    f, p, s, c = map(float, sums.groups())
    assert f + 10 * (p - s) == pytest.approx(c, abs=0.02)
    assert c == pytest.approx(ran["c"], rel=1e-3, abs=0.02)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_plain(path: Path) -> None:
    """Of nbformat 4.5, without outputs, with a heading first; its links lead to files, its commands exist."""
    book = json.loads(path.read_text("utf-8"))
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"])
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in book["cells"] if "outputs" in cell)
    texts = cells(path, "markdown")
    assert texts[0].startswith("# ")
    for target in re.findall(r"\]\(([^)\s:]+)\)", "\n".join(texts)):
        assert (path.parent / target.partition("#")[0]).is_file(), target
    assert not any(re.match(r"[!%]", line) for code in cells(path) for line in code.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_with_the_real_model(path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """As it stands, in a process of its own; the quick start's model is fetched once, if it is not there."""
    folder = tmp_path_factory.getbasetemp() / "real-notebooks"
    (folder / ".cache").mkdir(parents=True, exist_ok=True)
    there = ROOT / ".cache" / "quickstart"
    if there.is_dir() and not (folder / ".cache" / "quickstart").exists():
        (folder / ".cache" / "quickstart").symlink_to(there)
    done = subprocess.run(
        [sys.executable, "-c", "\n\n".join(cells(path))], cwd=folder, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if path.stem.startswith("1"):
        before, after = re.search(r"before (\S+), after (\S+),", done.stdout).groups()  # pyright: ignore
        assert float(after) > float(before) + 0.1
