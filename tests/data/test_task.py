"""From a task's name and a seed to its examples: local files, the hub's, a downloaded repository, and faults."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.loading import error, task
from zofo.data import Example, load_task

Write = Callable[[str, list[dict[str, Any]]], Path]


def sst2_rows(n: int) -> list[dict[str, Any]]:
    return [{"sentence": f"film {i} ", "label": i % 2, "idx": i} for i in range(n)]


@pytest.fixture
def sst2(write_jsonl: Write, tmp_path: Path) -> Path:
    for split, n in {"train": 80, "validation": 20, "test": 30}.items():
        write_jsonl(f"sst2/{split}.jsonl", [{**r, "sentence": f"{split} {r['sentence']}"} for r in sst2_rows(n)])
    return tmp_path / "sst2"


def test_sst2_reads_as_the_paper_has_it(sst2: Path) -> None:
    data = load_task(task("sst2", data=str(sst2)), seed=0)
    assert (data.name, data.objective, data.metric, data.labels) == (
        "sst2",
        "options",
        "accuracy",
        ("negative", "positive"),
    )
    assert (len(data.train), len(data.dev), len(data.test)) == (80, 20, 30)
    by_id = {e.id: e for e in data.train}
    expected = Example("sst2/train/17", "train film 17 It was", (" terrible", " great"), (1,), null_prompt="It was")
    assert by_id["sst2/train/17"] == expected
    plain = load_task(task("sst2", data=str(sst2), template="plain"), seed=0)
    assert {e.prompt for e in plain.test} == {f"test film {i}" for i in range(30)}


def test_movie_reviews(write_jsonl: Write) -> None:
    path = write_jsonl("reviews.jsonl", [{"id": i, "text": f"film {i}", "label": i % 2} for i in range(20)])
    data = load_task(task("movie_reviews", data=str(path)), seed=0)
    assert data.name == "movie-reviews"
    assert data.train[0].prompt.endswith(" It was")
    assert data.train[0].answers == (" terrible", " great")


def test_the_sample_depends_on_the_seed_alone(sst2: Path) -> None:
    cfg = task("sst2", data=str(sst2), train_examples=30, dev_examples=10, test_examples=10)
    one, two, other = load_task(cfg, 0), load_task(cfg, 0), load_task(cfg, 1)
    assert (one.train, one.dev, one.test) == (two.train, two.dev, two.test)
    assert one.train != other.train
    assert (len(one.train), len(one.dev), len(one.test)) == (30, 10, 10)
    assert len({e.id for e in one.train}) == 30


def test_without_validation_dev_is_cut_from_train(sst2: Path) -> None:
    (sst2 / "validation.jsonl").unlink()
    data = load_task(task("sst2", data=str(sst2), train_examples=60, dev_examples=50), 0)
    assert (len(data.train), len(data.dev), len(data.test)) == (60, 20, 30)
    assert all(e.id.startswith("sst2/train/") for e in data.dev)
    assert not {e.prompt for e in data.dev} & {e.prompt for e in data.train}


def test_repeated_rows_stay_on_one_side(write_jsonl: Write) -> None:
    rows = [{"text": f"film {i % 25}", "label": "ab"[i % 25 % 2]} for i in range(100)]
    data = load_task(task(write_jsonl("rows.jsonl", rows)), 0)
    sides = [{e.prompt for e in part} for part in (data.train, data.dev, data.test)]
    assert sum(map(len, sides)) == len(set().union(*sides)) == 25
    assert all(sides)


def test_hub_data_is_cut_like_local_data(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load_dataset(path: str, name: str, split: str, revision: str | None) -> Any:
        asked.append((path, name, split))
        return [{**r, "sentence": f"{split} {r['sentence']}"} for r in sst2_rows(3000 if split == "train" else 800)]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = load_task(task("sst2"), 0)
    assert asked == [("nyu-mll/glue", "sst2", "train"), ("nyu-mll/glue", "sst2", "validation")]
    assert (len(data.train), len(data.dev), len(data.test)) == (1000, 500, 800)
    assert all(e.prompt.startswith("train") for e in data.dev)
    assert all(e.id.startswith("sst2/validation/") for e in data.test)
    assert not {e.id for e in data.dev} & {e.id for e in data.train}


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(*_: Any, **__: Any) -> Any:
        raise ConnectionError("Couldn't reach the Hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    text = error(task("sst2"), 0)
    assert "cannot load nyu-mll/glue sst2 from the hub (Couldn't reach the Hub); give task.data=DIR" in text


def test_a_task_without_hub_says_where_its_data_comes_from() -> None:
    assert "zofo quickstart" in error(task("movie-reviews"), 0)


def test_real_extract(shared_data: Path) -> None:
    data = load_task(task("sst2", data=str(shared_data / "sst2")), 0)
    assert (len(data.train), len(data.dev), len(data.test)) == (1000, 500, 872)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"template": "plane"}, 'sst2.yaml: no template "plane"; did you mean "plain"?'),
        ({"data": "nowhere"}, "nowhere: no such file or directory"),
        ({"choices": ["a", "b"]}, "task.choices: is for own files"),
        ({"name": "sst3"}, 'did you mean "sst2"?'),
    ],
)
def test_wrong_config(sst2: Path, changes: dict[str, Any], expected: str) -> None:
    assert expected in error(task(**{"name": "sst2", "data": str(sst2), **changes}), 0)


def test_missing_column_of_a_known_task(write_jsonl: Write) -> None:
    path = write_jsonl("rows.jsonl", [{"sentense": "a", "label": 1}] * 5)
    text = error(task("sst2", data=str(path)), 0)
    assert 'sst2.yaml: template "default": no column "sentence" in rows.jsonl' in text
    assert text.endswith('; did you mean "sentense" for it? rename it to "sentence"')


def test_unknown_label_of_a_known_task(write_jsonl: Write, sst2: Path) -> None:
    rows = sst2_rows(10)
    rows[3]["label"] = 7
    write_jsonl("sst2/test.jsonl", rows)
    assert (
        error(task("sst2", data=str(sst2)), 0)
        == "test.jsonl:4: sst2.yaml: unknown label 7; known: 0 negative, 1 positive; or leave out such rows: "
        "task.on_bad_row=skip"
    )


def test_tasks_import_no_torch() -> None:
    code = "import sys, zofo.data; assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("folder", ["", "sst2", "data"])
def test_a_downloaded_hub_repository_is_read_by_the_hubs_splits(folder: str, tmp_path: Path) -> None:
    """GLUE's own test split has no labels (-1); its validation split is the test set."""
    import pyarrow
    import pyarrow.parquet

    def write(name: str, rows: list[dict[str, Any]]) -> None:
        (tmp_path / folder).mkdir(exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / folder / name)

    write("train-00000-of-00002.parquet", sst2_rows(50)[:25])
    write("train-00001-of-00002.parquet", sst2_rows(50)[25:])
    write("validation-00000-of-00001.parquet", [{**r, "sentence": f"later {r['sentence']}"} for r in sst2_rows(8)])
    write("test-00000-of-00001.parquet", [{**r, "label": -1} for r in sst2_rows(9)])
    data = load_task(task("sst2", data=str(tmp_path)), seed=0)
    assert (len(data.train) + len(data.dev), len(data.test)) == (50, 8)
    assert {e.prompt.partition(" ")[0] for e in data.test} == {"later"}
    assert {e.id for e in data.test} >= {"sst2/validation/validation-00000-of-00001/7"}
    assert next(e.place for e in data.train if e.prompt.startswith("film 25 ")) == "train-00001-of-00002.parquet:1"
