"""The benchmark of meta-training: which rows it takes, and that it runs through with a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from benchmarks._meta import Grouped, choose

from tests.conftest import ROOT


def fake(sizes: dict[str, int]) -> Any:
    """A method's rows: {id: tokens}; a row's task is what stands before the slash."""
    return SimpleNamespace(
        rows={
            i: SimpleNamespace(size=n, example=SimpleNamespace(id=i, group=i.split("/")[0])) for i, n in sizes.items()
        }
    )


def test_the_rows_are_the_nearest_to_an_average_batch_in_every_methods_text() -> None:
    lengths = {f"{task}/{i}": 10 for task in "abc" for i in range(4)} | {"a/9": 100, "b/9": 1}
    plain, shown = fake(lengths), fake({i: 5 * n for i, n in lengths.items()})
    ids = choose({"plain": plain, "shown": shown}, 6)  # type: ignore[dict-item]
    assert ids == choose({"plain": plain, "shown": shown}, 6)  # type: ignore[dict-item]
    assert len(set(ids)) == 6
    assert sorted(i[0] for i in ids) == ["a", "a", "b", "b", "c", "c"]
    assert "a/9" not in ids


def test_made_up_rows_are_of_all_tasks_in_turn() -> None:
    rows = Grouped(7, 1, 2, tasks=("x", "y"))
    encoded = rows.encoded(3, 100)
    assert [e.example.group for e in encoded] == ["x", "y", "x"]
    assert [(len(e.rows[0].ids), len(e.rows[0].labels)) for e in encoded] == [(7, 2)] * 3
    assert set(rows.task(2).groups) == {"x", "y"}


@pytest.mark.slow
def test_it_runs_through(tmp_path: Path, stories_dir: Path, shared_data: Path) -> None:
    """Two methods; the meter's counts are Algorithm 2's with T = 2: an iteration is three counted steps."""
    file = tmp_path / "meta.json"
    command = [sys.executable, "-m", "benchmarks.meta_training", "--smoke", "--json", str(file), "--shots", "1"]
    command += ["--model", str(stories_dir), "--data", str(shared_data / "meta")]
    command += ["--only", "bilevel, bank", "--only", "metaicl, direct"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(file.read_text())
    bank, metaicl = results["steps"]["bilevel, bank"], results["steps"]["metaicl, direct"]
    assert bank["counted_steps"] == 3
    assert bank["a_step"]["backward_passes"] == pytest.approx(4 / 3)  # T, and two of p
    assert metaicl["a_step"]["forwards"] == metaicl["a_step"]["backward_passes"] == 1
    assert metaicl["a_step"]["examples_seen"] == 4
    assert set(results["memory"]) == {"bilevel, bank", "metaicl, direct"}
    assert all(
        row["predicted_mib"]["total"] > 0 and row["over_mib"]["median"] > 0 for row in results["memory"].values()
    )
    assert results["inference"]["tasks"]["hate_speech18"]["tokens_read_once"] >= 32
    assert results["inference"]["largest difference of a score"] < 1e-3
    assert "inference, k = 1" in done.stdout
