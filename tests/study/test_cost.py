"""What a plan takes: runs and steps counted, and a step measured before the first run, or by the runs there are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.conftest import sentiment_rows, write_rows
from zofo.cli import main as cli
from zofo.study import cost
from zofo.study.cost import Cost
from zofo.study.plan import Row

PLAN = {
    "task": {"name": "rows.jsonl", "train_examples": 12, "dev_examples": 8, "test_examples": 6},
    "methods": {"zero-shot": {"search": {}}, "mezo": {}},
    "search": {"mezo": {"method.lr": [1e-5, 1e-4]}},
    "seeds": [3, 4],
    "train": {"max_steps": 4, "eval_steps": 2, "save_steps": 2, "batch_size": 2},
}


def test_a_plans_runs_and_steps() -> None:
    tuned = Cost(Row("a", {}, 12, seeds=(0, 1, 2)), 5000, 4000, 0.5, cost.STEP, 2**30)
    assert (tuned.runs, tuned.training) == (14, 35000)
    unknown = Cost(Row("b", {}), 100, 200, None, "not measured")
    assert cost.words([tuned]) == (
        "1 row, 14 runs, 70,000 counted steps, 56,000 examples of dev and test scored; training takes about 9:43:20 on "
        "this machine with one worker, evaluations not counted"
    )
    assert "not known before a run of each row" in cost.words([tuned, unknown])


def test_it_is_measured_by_a_step_then_by_the_runs(
    tmp_path: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "rows.jsonl", sentiment_rows(40))
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN, sort_keys=False))
    study = tmp_path / "study"
    args = ["sweep", str(tmp_path / "plan.yaml"), "--model", str(tiny_model_dir), "--output-dir", str(study)]
    assert cli.run([*args, "--dry-run"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[:4] for line in lines[1:3]] == [["zero-shot", "1", "1", "4"], ["mezo", "2", "1", "4"]]
    assert (float(lines[1][4]), lines[2][7]) == (0.0, cost.STEP)
    assert lines[3][0].startswith("2 rows, 5 runs, 20 counted steps, ")
    assert not study.exists(), "nothing was begun"
    assert cli.run([*args, "--only", "mezo"]) == 0
    assert set(json.loads((study / "cost.json").read_text())) == {"mezo"}
    assert cli.run([*args, "--dry-run", "--only", "mezo"]) == 0
    line = capsys.readouterr().out.splitlines()[-2].split("\t")
    assert line[7] == "2 finished runs"
    seconds = sorted(
        json.loads((study / "mezo" / f"trial-{n}" / "run.json").read_text())["seconds_per_step"] for n in (0, 1)
    )
    assert float(line[4]) == pytest.approx(sum(seconds) / 2, rel=0.01)
