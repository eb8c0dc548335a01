"""A run's numbers from its directory and from the file that is kept of it are the same; older kept files are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, sentiment_rows, write_rows
from zofo import InputError, finetune
from zofo.study.results import kept, read, runs_in


@pytest.fixture(scope="module")
def run(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    rows = write_rows(root / "rows.jsonl", sentiment_rows(60))
    options: dict[str, Any] = {"max_steps": 6, "batch_size": 2, "eval_steps": 3, "logging_steps": 3, "seed": 3}
    method = {"name": "bilevel-zofo", "inner_steps": 2}
    return finetune(str(tiny_model_dir), str(rows), method, "lora", output_dir=root / "runs" / "a", **options).path


def test_a_directory_and_its_kept_file_say_the_same(run: Path, tmp_path: Path) -> None:
    whole = read(run)
    info = json.loads((run / "run.json").read_text())
    assert (whole.method, whole.adapter, whole.seed, whole.metric) == ("bilevel-zofo", "lora", 3, "accuracy")
    assert whole.test == info["test"][info["deployed"]]
    assert whole.counted_steps == 6
    assert whole.forward_equivalents == info["examples_seen"] / 2 + 2 * info["backward_passes"]
    rows = [json.loads(line) for line in (run / "eval" / f"predictions-{info['deployed']}.jsonl").open()]
    assert [(one.id, one.score, one.loss) for one in whole.outcomes()] == [
        (row["id"], float(row["correct"]), row["loss"]) for row in rows
    ]
    assert sum(one.score or 0 for one in whole.outcomes()) / len(rows) == whole.test["accuracy"]
    file = kept(whole, tmp_path / "a.json")
    again = read(file)
    assert (again.settings, again.info, again.events) == (whole.settings, whole.info, whole.events)
    assert {c: again.outcomes(c) for c in ("s", "p")} == {c: whole.outcomes(c) for c in ("s", "p")}
    assert rows[0]["prompt"] not in file.read_text(), "no text of a row"
    assert runs_in(run.parent) == [run]
    assert runs_in(tmp_path) == [file]


def test_a_run_that_goes_on_has_its_curves(run: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (cut / "metrics.jsonl").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20])
    result = read(cut)
    assert not result.finished
    assert len(result.of("dev", "s")) + len(result.of("dev", "p")) == len(result.of("dev")) >= 3
    assert (result.test, result.counted_steps, result.outcomes()) == ({}, None, ())
    with pytest.raises(InputError, match="not at its end"):
        kept(result, tmp_path / "b.json")
    (cut / "metrics.jsonl").write_text("{\n" + lines[0] + "\n")
    with pytest.raises(InputError, match=r"metrics.jsonl:1: is no JSON"):
        read(cut)


def test_what_earlier_experiments_kept_is_read() -> None:
    files = runs_in(ROOT / "results" / "sst2_smollm2")
    assert len(files) > 20
    for file in files:
        result = read(file)
        assert result.test["accuracy"] > 0.4
        assert result.metric == "accuracy"
        assert result.of("dev")


def test_what_is_no_run_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "no")
    with pytest.raises(InputError, match=r"there are runs in it: a, \.\.\. \(1\)"):
        read(run.parent)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(InputError, match="neither a run's directory nor"):
        read(tmp_path / "x.json")
