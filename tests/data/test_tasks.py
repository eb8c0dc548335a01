"""Task files, own files, hub data, splits: what comes out, and what the errors say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zofo.config import registry
from zofo.config.sections import TaskConfig
from zofo.data import Example, load_task, split_levels
from zofo.data.spec import load_spec
from zofo.errors import InputError

Write = Callable[[str, list[dict[str, Any]]], Path]


def task(name: str | Path, **changes: Any) -> TaskConfig:
    return TaskConfig(name=str(name), **changes)


def error(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(InputError) as caught:
        load_task(*args, **kwargs)
    return str(caught.value)


def sst2_rows(n: int) -> list[dict[str, Any]]:
    return [{"sentence": f"film {i} ", "label": i % 2, "idx": i} for i in range(n)]


@pytest.fixture
def sst2(write_jsonl: Write, tmp_path: Path) -> Path:
    for split, n in {"train": 80, "validation": 20, "test": 30}.items():
        write_jsonl(f"sst2/{split}.jsonl", [{**r, "sentence": f"{split} {r['sentence']}"} for r in sst2_rows(n)])
    return tmp_path / "sst2"


# ------------------------------------------------------------------------------------------------------ known tasks


@pytest.mark.parametrize("name", registry.names("tasks"))
def test_task_files_are_right(name: str) -> None:
    spec = load_spec(registry.load("tasks", name))
    assert {"default", "plain"} <= set(spec.templates)
    assert registry.describe("tasks", name) == spec.description


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
    assert 'did you mean "sentense"?' in text


def test_unknown_label_of_a_known_task(write_jsonl: Write, sst2: Path) -> None:
    rows = sst2_rows(10)
    rows[3]["label"] = 7
    write_jsonl("sst2/test.jsonl", rows)
    assert (
        error(task("sst2", data=str(sst2)), 0)
        == "test.jsonl:4: sst2.yaml: unknown label 7; known: 0 negative, 1 positive"
    )


# --------------------------------------------------------------------------------------------- a task file of one's own


TASK = """
version: 3
description: which of two
source: me
columns: [q, a, b, right]
kind: options
gold: right
objective: {objective}
metric: accuracy
templates:
  default: {{prompt: "{prompt}", answers: {answers}}}
"""


def own_yaml(
    folder: Path, prompt: str = "{{ q }}\\n", answers: str = '[" {{ a }}", " {{ b }}"]', objective: str = "lm"
) -> Path:
    path = folder / "which.yaml"
    path.write_text(TASK.format(prompt=prompt, answers=answers, objective=objective))
    return path


@pytest.mark.parametrize("answers", ['[" {{ a }}", " {{ b }}"]', "\"[' ' ~ a, ' ' ~ b]\""])
def test_answers_from_the_row(tmp_path: Path, write_jsonl: Write, answers: str) -> None:
    rows = [{"q": f"q{i}", "a": "one", "b": "two", "right": ["one", 1, "1", [0, 1]][i % 4]} for i in range(40)]
    data = load_task(task(own_yaml(tmp_path, answers=answers), data=str(write_jsonl("rows.jsonl", rows))), 0)
    assert (data.name, data.version, data.objective, data.labels) == ("which", 3, "lm", ())
    gold = {int(e.id.rpartition("/")[2]) % 4: e.gold for e in data.train}
    assert gold == {0: (0,), 1: (1,), 2: (1,), 3: (0, 1)}
    assert data.train[0].prompt.endswith("\n"), "a template's last newline is part of the prompt"
    assert data.train[0].answers == (" one", " two")


def test_all_errors_of_a_task_file_at_once(tmp_path: Path) -> None:
    path = own_yaml(tmp_path, prompt="{{ qq }}", objective="lm")
    path.write_text(path.read_text() + "metrik: accuracy\n")
    text = error(task(path), 0)
    assert 'unknown key "metrik"; did you mean "metric"?' in text
    assert 'template "default": no column "qq"; columns: q, a, b, right' in text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("version: [1", "bad YAML"),
        ("just words", "expected keys such as version"),
        (TASK.format(prompt="{{ q", answers="[a]", objective="lm"), "bad template"),
        (
            TASK.format(prompt="{{ q }}", answers="[a]", objective="best"),
            "objective: expected 'options' or 'lm', got 'best'",
        ),
    ],
)
def test_broken_task_files(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "which.yaml"
    path.write_text(content)
    assert expected in error(task(path), 0)


CHANGES = [
    ({"metric": None}, 'missing key "metric"'),
    ({"templates": {"default": {"prompt": "{{ q }}"}}}, 'missing key "templates.default.answers"'),
    (
        {"templates": {"default": {"prompt": "{{ q }}", "answers": ["a", "b"], "promt": "x"}}},
        'unknown key "templates.default.promt"; did you mean "prompt"?',
    ),
    ({"hub": {"path": "x", "nmae": "y"}}, 'unknown key "hub.nmae"; did you mean "name"?'),
    (
        {"templates": {"default": {"prompt": "{{ q }}", "answers": ["a", True]}}},
        "templates.default.answers.1: true is no text; YAML takes a bare yes or no for it: quote it",
    ),
    ({"labels": ["x", "y", "z"]}, 'template "default": 2 answers for 3 labels'),
    ({"labels": ["x", "x"]}, "labels: one occurs twice: x, x"),
    ({"splits": {"validation": "dev"}}, 'splits: unknown "validation"; known: train, dev, test'),
    ({"kind": "completion", "metric": "loss"}, "2 answers; kind completion has one answer"),
    (
        {"kind": "completion", "templates": {"default": {"prompt": "{{ q }}", "answers": ["a"]}}},
        'has no "accuracy"; use loss',
    ),
    ({"templates": {"default": {"prompt": "{{ q }}", "answers": ["a"]}}}, "kind options has two answers or more"),
    ({"gold": None}, 'missing key "gold": which option is right'),
    ({"version": "x"}, "version: expected a valid integer"),
]


@pytest.mark.parametrize(("changes", "expected"), CHANGES)
def test_one_fault_of_a_task_file_is_one_line(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    import yaml

    path = own_yaml(tmp_path)
    content = {**yaml.safe_load(path.read_text()), **changes}
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    text = error(task(path), 0)
    assert text.startswith(f"{path}: ")
    assert expected in text
    assert len(text.splitlines()) == 1


def test_a_task_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "which.yaml"
    path.write_bytes(b"description: caf\xe9")
    assert "not UTF-8" in error(task(path), 0)


@pytest.mark.parametrize(
    ("changes", "row", "expected"),
    [
        ({"prompt": "{% if a == 'x' %}{{ q }}{% endif %} "}, {}, "the prompt comes out empty; mend the template"),
        ({}, {"b": ""}, "answer 1 comes out empty; mend the template or drop the row"),
        ({}, {"b": "one"}, "needs two or more different answers, got ' one', ' one'"),
        ({"answers": '"[a, b][:n]"'}, {"n": 1}, "needs two or more different answers, got 'one'"),
        ({"answers": '"[a, b] * (1 // n)"'}, {"n": 0}, "by zero"),
        ({}, {"right": 2}, "unknown label 2; known: 0 one, 1 two"),
        ({}, {"right": "ome"}, "unknown label 'ome'; known: 0 one, 1 two; did you mean \"one\"?"),
    ],
)
def test_rows_a_template_cannot_use(
    tmp_path: Path, write_jsonl: Write, changes: dict[str, str], row: dict[str, Any], expected: str
) -> None:
    path = own_yaml(tmp_path, **changes)
    path.write_text(path.read_text().replace("[q, a, b, right]", "[q, a, b, right, n]"))
    rows = write_jsonl("rows.jsonl", [{"q": "q", "a": "one", "b": "two", "right": 0, "n": 2, **row}] * 9)
    text = error(task(path, data=str(rows)), 0)
    assert text.startswith("rows.jsonl:")
    assert expected in text
    assert len(text.splitlines()) == 1


def test_templates_run_in_a_sandbox(tmp_path: Path, write_jsonl: Write) -> None:
    path = own_yaml(tmp_path, prompt="{{ q.__class__.__mro__ }}")
    rows = [{"q": "q", "a": "one", "b": "two", "right": 0}] * 9
    assert "rows.jsonl:" in error(task(path, data=str(write_jsonl("rows.jsonl", rows))), 0)


def test_split_levels() -> None:
    train = [Example(str(i), "p", ("a",), (0,)) for i in range(1000)]
    upper, lower = split_levels(train, seed=0)
    assert (len(upper), len(lower)) == (333, 667)
    assert {e.id for e in upper} | {e.id for e in lower} == {e.id for e in train}
    assert split_levels(train, 0) == (upper, lower)
    assert split_levels(train, 1)[0] != upper
    assert [len(part) for part in split_levels(train, 0, ratio=(1, 1))] == [500, 500]
    assert [len(part) for part in split_levels(train[:2], 0)] == [1, 1]
    with pytest.raises(InputError, match="at least 2"):
        split_levels(train[:1], 0)


def labelled(*counts: int) -> list[Example]:
    """`counts[i]` examples of label i, in turn."""
    words = tuple(f" {i}" for i in range(len(counts)))
    found = [Example(f"{g}/{i}", f"p{i}", words, (g,)) for g, n in enumerate(counts) for i in range(n)]
    return sorted(found, key=lambda e: (e.prompt, e.id))


@pytest.mark.parametrize(
    ("counts", "ratio", "upper"),
    [
        ((30, 60), (1, 2), (10, 20)),
        ((70, 20, 10), (1, 2), (23, 7, 3)),  # 23.3, 6.7, 3.3 and 33 in all: the remainder of the second is largest
        ((5, 5), (1, 2), (2, 1)),  # 1.7 each and 3 in all: of equal remainders the first
        ((1, 1), (1, 2), (1, 0)),
        ((1, 99), (1, 1), (1, 49)),  # 0.5 and 49.5
        ((997, 3), (1 / 3, 2 / 3), (332, 1)),
        ((4,), (99, 1), (3,)),
    ],
)
def test_stratified_levels(counts: tuple[int, ...], ratio: tuple[float, float], upper: tuple[int, ...]) -> None:
    train = labelled(*counts)
    f, p = split_levels(train, 0, ratio, stratified=True) if len(counts) > 1 else ([], [])
    if len(counts) == 1:
        f, p = split_levels([Example(e.id, e.prompt, ("a", "b"), (0,)) for e in train], 0, ratio, stratified=True)
    assert tuple(sum(e.gold == (g,) for e in f) for g in range(len(counts))) == upper
    assert sorted(e.id for e in f + p) == sorted(e.id for e in train)
    assert (len(f), len(p)) == tuple(map(len, split_levels(train, 0, ratio))), "the totals of the random split"


def test_stratified_levels_depend_on_the_seed_alone() -> None:
    train = labelled(70, 20, 10)
    one = split_levels(train, 0, stratified=True)
    assert one == split_levels(train, 0, stratified=True)
    other = split_levels(train, 1, stratified=True)
    assert {e.id for e in one[0]} != {e.id for e in other[0]}
    assert [e.gold for e in one[0]] != sorted(e.gold for e in one[0]), "labels come mixed"


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([("a",), ("b",)], "x0 is a completion: use the random split"),
        ([("a", "b"), ("c", "d")], "x1 has answers of its own: use the random split"),
    ],
)
def test_a_stratified_split_needs_shared_labels(answers: list[tuple[str, ...]], expected: str) -> None:
    train = [Example(f"x{i % 2}", f"p{i}", answers[i % 2], (0,)) for i in range(10)]
    seed = next(s for s in range(99) if split_levels(train, s)[0][0].id == "x0")  # whose shuffle starts with x0
    with pytest.raises(InputError, match=expected):
        split_levels(train, seed, stratified=True)


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
