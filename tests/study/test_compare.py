"""Comparisons: which runs are one row, the numbers of the table beside the runs' files, noise, every format."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT, sentiment_rows, write_rows
from zofo import InputError, finetune
from zofo.cli import main as cli
from zofo.study import table_text, tables
from zofo.study.compare import compare
from zofo.study.diff import diff
from zofo.study.results import FORMAT, kept, read


@pytest.fixture(scope="module")
def runs(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, two seeds, one more rate."""
    root = tmp_path_factory.mktemp("compare")
    rows = write_rows(root / "rows.jsonl", sentiment_rows(60))
    plans: dict[str, Any] = {
        "mezo-a": ({"name": "mezo", "lr": 1e-3}, None, 0),
        "mezo-b": ({"name": "mezo", "lr": 1e-3}, None, 1),
        "mezo-c": ({"name": "mezo", "lr": 1e-2}, None, 0),
        "fo-a": ("fo-peft", "lora", 0),
        "fo-b": ("fo-peft", "lora", 1),
    }
    for name, (method, adapter, seed) in plans.items():
        options: dict[str, Any] = {"max_steps": 2, "batch_size": 2, "seed": seed, "output_dir": root / "runs" / name}
        finetune(str(tiny_model_dir), str(rows), method, adapter, **options)
    return root / "runs"


def made_up(folder: Path, row: str, seed: int, task: str, right: list[int], loss: float = 0.5) -> None:
    """A kept file with these outcomes."""
    folder.mkdir(exist_ok=True)
    test = {"accuracy": sum(right) / len(right), "loss": loss, "n": len(right)}
    info = {"task": task, "deployed": "theta", "metric": "accuracy", "test": {"theta": test}, "dev": {"theta": test}}
    info |= {"steps": {"upper": 10}, "examples_seen": 40, "backward_passes": 1, "seconds": 3.0, "study": {"row": row}}
    outcomes = {"theta": [[f"{task}/{i}", float(one), loss] for i, one in enumerate(right)]}
    settings = {"train.seed": seed, "method.name": row, "train.batch_size": 4, "task.name": task}
    content = {"format": FORMAT, "settings": settings, "info": info, "trials": 3, "events": [], "outcomes": outcomes}
    (folder / f"{row}-{task}-{seed}.json").write_text(json.dumps(content))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """good is 30 points above base on both tasks, same is base with other examples; five seeds."""
    draw = np.random.default_rng(5)
    for seed in range(5):
        for task in ("one", "two"):
            base = [int(draw.random() < 0.5) for _ in range(200)]
            made_up(tmp_path / "s", "base", seed, task, base)
            made_up(tmp_path / "s", "good", seed, task, [1 if draw.random() < 0.6 else one for one in base])
            made_up(tmp_path / "s", "same", seed, task, [int(draw.random() < 0.5) for _ in range(200)])
    return tmp_path / "s"


def test_rows_are_settings_and_cells_the_files_numbers(runs: Path) -> None:
    found = compare([runs])
    assert list(found.rows) == ["fo-peft lora", "mezo (lr 0.001)", "mezo (lr 0.01)"]
    (task,) = found.tasks
    cell = found.rows["mezo (lr 0.001)"][task]
    infos = [json.loads((runs / name / "run.json").read_text()) for name in ("mezo-a", "mezo-b")]
    assert cell.values == {info["seed"]: info["test"]["theta"]["accuracy"] for info in infos}
    assert cell.mean == pytest.approx(np.mean(list(cell.values.values())))
    assert cell.sd == pytest.approx(np.std(list(cell.values.values()), ddof=1))
    assert found.underpowered
    loss = compare([runs / "mezo-a", runs / "fo-a"], metric="loss", split="dev", against="mezo")
    assert loss.rows["mezo"][task].values == {0: infos[0]["dev"]["theta"]["loss"]}
    assert loss.best(task) == {min(loss.rows, key=lambda row: loss.rows[row][task].mean)}


def test_kept_files_say_what_the_runs_do(runs: Path, tmp_path: Path) -> None:
    for path in runs.iterdir():
        kept(read(path), tmp_path / f"{path.name}.json")
    assert compare([tmp_path]).to_dict() == compare([runs]).to_dict()


def test_what_differs_and_what_is_noise(study: Path) -> None:
    found = compare([study], against="base")
    assert not found.underpowered
    assert found.best("one") == found.best("two") == {"good"}
    for task in ("one", "two"):
        good, same = found.differences["good", task], found.differences["same", task]
        assert not good.within_noise
        assert good.mean == pytest.approx(0.3, abs=0.05)
        assert good.seeds is not None
        assert good.examples is not None
        assert (good.seeds.n, good.examples.n) == (5, 200)
        assert same.within_noise
    assert found.average("good") == pytest.approx(np.mean([found.rows["good"][task].mean for task in ("one", "two")]))
    text = tables.markdown(tables.tables(found))
    assert "| good" in text
    assert "within noise" in text
    costs = next(line for line in text.split("cost of a run")[1].splitlines() if line.startswith("| good"))
    assert [part.strip() for part in costs.split("|")[1:-1]] == ["good", "10", "10", "12", "3", "3"]


def test_one_seed_is_called_so(study: Path) -> None:
    found = compare(sorted(study.glob("*-one-0.json")), against="base")
    good = found.differences["good", "one"]
    assert (good.seeds is not None and good.seeds.known) is False
    assert not good.within_noise, "the examples alone tell it"
    text = tables.markdown(tables.tables(found))
    assert "differs (noise of seeds not known)" in text
    assert "underpowered: 1 seed" in text


def test_every_format(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["compare", str(study), "--against", "base", "--format", "csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    found = compare([study], against="base")
    value = next(line for line in lines if (line["row"], line["column"]) == ("good", "one (accuracy)"))
    assert float(value["value"]) == found.rows["good"]["one"].mean
    assert value["best"] == "1"
    assert cli.run(["compare", str(study), "--output", str(tmp_path / "t.tex")]) == 0
    tex = (tmp_path / "t.tex").read_text()
    assert "\\toprule" in tex
    assert "\\textbf{" in tex
    assert tex.count("\\begin{tabular}") == tex.count("\\end{tabular}") == 3
    assert tex.count("\n  %") == 0, "what a mark means is printed"
    assert "Test set: accuracy on the test set in per cent, mean $\\pm$ standard deviation over the seeds." in tex
    assert "5 seeds a cell (0, 1, 2, 3, 4)." in tex
    assert "\\label{tab:test-set}" in tex
    assert "    $\\sim$: not shown to differ from base (see the differences).\\par" in tex
    assert "$-$" in tex
    assert not re.search(r"(?<![\w$])-\d", tex), "a hyphen is no minus"
    assert cli.run(["compare", str(study), "--output", str(tmp_path / "t.json"), "--against", "base"]) == 0
    assert json.loads((tmp_path / "t.json").read_text()) == json.loads(json.dumps(found.to_dict()))
    capsys.readouterr()
    for args, expected in (
        (["--output", str(tmp_path / "t.tex")], "is there already; give --overwrite"),
        (["--output", "t.xls"], "expected a name that ends in .md, .csv, .tex, .json"),
        (["--format", "latx"], 'did you mean "latex"?'),
        (["--against", "baze"], 'did you mean "base"?'),
        (["--metric", "acuracy"], 'did you mean "accuracy"?'),
        (["--split", "train"], "expected test or dev"),
    ):
        assert cli.run(["compare", str(study), *args]) == 2
        assert expected in capsys.readouterr().err


def test_names_with_markup_stay_text(tmp_path: Path) -> None:
    made_up(tmp_path / "s", "a|b*_$%&", 0, "one", [1, 0])
    made_up(tmp_path / "s", "c", 0, "one", [1, 1])
    parts = tables.tables(compare([tmp_path / "s"]))
    assert "a\\|b\\*\\_$%&" in tables.markdown(parts)
    assert "a|b*\\_\\$\\%\\&" in tables.latex(parts)


def test_a_minus_is_a_sign_and_a_hyphen_one_of_a_name() -> None:
    row = [table_text.Entry(text) for text in ("fo-peft-2 (lr 1e-06)", "-0.5 to -.25 (n 3)", "-", "1-2")]
    tex = table_text.latex([table_text.Table("A title, with-3 parts", ["", "a", "b", "c"], [row], ["x: -1"])])
    assert "fo-peft-2 (lr 1e-06) & $-$0.5 to $-$.25 (n 3) & - & 1-2" in tex
    assert "\\label{tab:a-title-with-3-parts}" in tex
    assert "\\caption{A title, with-3 parts}" in tex
    assert tex.index("\\end{tabular}") < tex.index("x: $-$1.\\par")


def test_n_over_examples_is_the_union_of_the_seeds(tmp_path: Path) -> None:
    for seed in range(3):
        for row, right in {"base": [0, 1] * 10, "good": [1, 1] * 10}.items():
            made_up(tmp_path / "s", row, seed, "one", right)
            file = tmp_path / "s" / f"{row}-one-{seed}.json"
            content = json.loads(file.read_text())
            for number, one in enumerate(content["outcomes"]["theta"]):
                one[0] = f"rows:{number + 15 * seed}"
            file.write_text(json.dumps(content))
    found = compare([tmp_path / "s"], against="base")
    examples = found.differences["good", "one"].examples
    assert examples is not None
    assert examples.n == 50, "of rows 0 to 49"
    assert "each seed drew its own" in tables.markdown(tables.tables(found))


def test_what_cannot_be_compared(runs: Path, study: Path, tmp_path: Path) -> None:
    made_up(tmp_path / "t", "base", 0, "one", [1])
    with pytest.raises(InputError, match="the same settings, task and seed twice"):
        compare([study, tmp_path / "t"])
    half = tmp_path / "half"
    half.mkdir()
    (half / "config.yaml").write_bytes((runs / "fo-a" / "config.yaml").read_bytes())
    with pytest.raises(InputError, match="no finished run to compare"):
        compare([half])
    assert list(compare([half, runs]).left_out) == [half]
    with pytest.raises(InputError, match="no such file or directory"):
        compare([tmp_path / "none"])


def test_numbers_that_are_not_finite_are_said(study: Path) -> None:
    file = study / "good-one-3.json"
    content = json.loads(file.read_text())
    content["info"]["test"]["theta"]["accuracy"] = None
    file.write_text(json.dumps(content))
    text = tables.markdown(tables.tables(compare([study], against="base")))
    assert "[4/5]" in text
    assert "k of n seeds gave a number" in text


def test_diff(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert diff(runs / "fo-a", runs / "fo-a") == []
    lines = {line.name: (line.first, line.second) for line in diff(runs / "mezo-a", runs / "mezo-c")}
    assert lines["method.lr"] == (1e-3, 1e-2)
    assert "train.seed" not in lines
    assert "train.output_dir" not in lines
    assert not any("sha256" in name for name in lines), "same inputs"
    assert cli.run(["diff", str(runs / "mezo-a"), str(runs / "mezo-b"), "--json"]) == 0
    named = {line["name"] for line in json.loads(capsys.readouterr().out)}
    assert {"train.seed", "examples.train.sha256"} <= named
    assert cli.run(["diff", str(runs / "mezo-a"), str(runs / "fo-a")]) == 0
    out = capsys.readouterr().out
    assert "method.name" in out
    assert "adapter.r" in out
    file = tmp_path / "base-one-0.json"
    made_up(tmp_path, "base", 0, "one", [1, 1, 0, 0])
    made_up(tmp_path, "good", 0, "one", [1, 0, 1, 1])
    assert cli.run(["diff", str(file), str(tmp_path / "good-one-0.json")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"test examples that this run alone gets right \(of 4 in both\) +1 +2\n", out)
    old = ROOT / "results" / "sst2_smollm2"
    kept_of_before = sorted(old.glob("*.json"))[:2]
    assert diff(*kept_of_before)
    with pytest.raises(InputError):
        diff(runs / "mezo-a", runs / "none")


def test_without_the_extra_it_says_what_to_install(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("zofo.study.statistics", "zofo.study.compare", "zofo.study.tables"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "statsmodels.stats.multitest", None)
    assert cli.run(["compare", str(study)]) == 2
    assert capsys.readouterr().err.strip() == (
        'error: zofo compare needs scipy and statsmodels: pip install "zofo[study]"'
    )


def test_a_verb_for_one_run_says_that_there_are_several(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["signal", str(runs)]) == 2
    assert f"is a directory of runs; name one, such as {runs / 'fo-a'}" in capsys.readouterr().err
