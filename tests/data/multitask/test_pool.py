"""One task's rows, in MetaICL's files and in plain ones: which rows are drawn, and folders that are no task's."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_rows
from tests.pool_rows import TOPICS, free, plain, riddle, topic
from zofo.data.multitask.pool import open_pool
from zofo.errors import InputError

TARGET_SEEDS = (13, 21, 42, 87, 100)


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """MetaICL's form: a training task with one big file, a target task with 16 rows for each of five seeds."""
    big = [topic(i, "tool-notes") for i in range(200)]
    write_rows(tmp_path / "tool-notes" / "tool-notes_16384_100_train.jsonl", big)
    for seed in TARGET_SEEDS:
        for split, start in (("train", 1000 * seed), ("dev", 1000 * seed + 500)):
            rows = [topic(start + i, "unifiedqa:home-topics") for i in range(16)]
            write_rows(tmp_path / "unifiedqa:home-topics" / f"unifiedqa:home-topics_16_{seed}_{split}.jsonl", rows)
        tests = [topic(i, "unifiedqa:home-topics") for i in range(30)]
        write_rows(tmp_path / "unifiedqa:home-topics" / f"unifiedqa:home-topics_16_{seed}_test.jsonl", tests)
    return tmp_path


# --------------------------------------------------------------------------------------------------------- plain files


def test_plain_files_and_the_rows_ids_and_places(tmp_path: Path) -> None:
    pool = plain(tmp_path, train=[*map(topic, range(9))], test=[*map(topic, range(20, 26))])
    row = sorted(pool.test(99, 0), key=lambda r: r.id)[1]
    assert (row.id, row.place) == ("home_topics/test/1", "home_topics/test.jsonl:2")
    assert (row.input, row.output, row.options) == ("Note 21: the beans want water", "garden", tuple(TOPICS))
    assert len(pool.test(4, 0)) == 4
    assert len(pool.test(99, 0)) == 6
    assert pool.test(6, 0) == pool.test(6, 0) != pool.test(6, 1)
    assert len(pool.train(5, 0)) == 5
    assert pool.train(9, 0) != pool.train(9, 1)
    assert pool.train(3, 0) == pool.train(9, 0)[:3]


def test_kinds_labels_and_metrics(tmp_path: Path) -> None:
    topics = plain(tmp_path, train=[*map(topic, range(4))])
    assert (topics.kind, topics.labels, topics.metric) == ("classification", tuple(TOPICS), "macro_f1")
    riddles = plain(tmp_path, "riddles", train=[*map(riddle, range(4))])
    assert (riddles.kind, riddles.labels, riddles.metric) == ("multiple-choice", (), "accuracy")
    sums = plain(tmp_path, "sums", train=[*map(free, range(4))])
    assert (sums.kind, sums.labels, sums.metric) == ("free-form", (), "accuracy")


def test_options_come_in_the_first_rows_order(tmp_path: Path) -> None:
    turned = topic(1, options=TOPICS[::-1])
    pool = plain(tmp_path, train=[topic(0), turned], test=[turned])
    assert {row.options for row in pool.train(2, 0) + pool.test(1, 0)} == {tuple(TOPICS)}


def test_without_a_test_file_dev_is_and_without_dev_the_other_train_rows(tmp_path: Path) -> None:
    pool = plain(tmp_path, train=[*map(topic, range(9))], validation=[*map(topic, range(40, 43))])
    assert {row.id.split("/")[1] for row in pool.test(9, 0)} == {"dev"}
    alone = plain(tmp_path, "riddles", train=[*map(riddle, range(9))])
    shown = alone.demonstrations(4, 13)
    assert len(set(shown)) == 4
    assert sorted(shown + alone.test(99, 0, without=shown), key=lambda r: r.id) == alone._train()


def test_a_test_file_alone_is_enough_to_measure(tmp_path: Path) -> None:
    pool = plain(tmp_path, test=[*map(topic, range(6))])
    assert pool.kind == "classification"
    assert len(pool.test(9, 0)) == 6
    with pytest.raises(InputError, match=r"home_topics: no train rows of home_topics; expected train.jsonl or home_"):
        pool.train(1, 0)


def test_a_file_that_is_not_needed_is_not_read(tmp_path: Path) -> None:
    pool = plain(tmp_path, train=[*map(topic, range(6))], test=[{"bad": 1}])
    assert len(pool.train(6, 0)) == 6
    with pytest.raises(InputError, match=r'^home_topics/test.jsonl:1: no "input"; .* this one: bad$'):
        pool.test(1, 0)


def test_a_file_is_read_once_unless_it_is_forgotten(tmp_path: Path) -> None:
    pool = plain(tmp_path, train=[*map(topic, range(6))])
    before = pool.train(6, 0)
    (tmp_path / "home_topics" / "train.jsonl").unlink()
    assert pool.train(6, 0) == before
    pool.forget()
    assert pool.kind == "classification"
    with pytest.raises(InputError, match="No such file"):
        pool.train(6, 0)


def test_few_of_every_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [topic(i) for i in range(30) if i % 3 != 2 or i < 8]  # two of the workshop
    pool = plain(tmp_path, train=[*rows, topic(2, input="Note 99")])
    assert Counter(row.output for row in pool.few(3, 0)) == dict.fromkeys(TOPICS, 3)
    assert pool.few(3, 0) != pool.few(3, 1)
    assert not caplog.records
    assert Counter(row.output for row in pool.few(5, 0)) == {"garden": 5, "kitchen": 5, "workshop": 3}
    assert 'home_topics, seed 0: fewer than 5 rows to tune on in some classes: "workshop" has 3' in caplog.text
    riddles = plain(tmp_path, "riddles", train=[*map(riddle, range(9))])
    assert len(riddles.few(4, 0)) == 4
    with caplog.at_level(logging.WARNING):
        assert len(riddles.few(10, 0)) == 9
    assert "riddles, seed 0: 9 rows to tune on, where 10 are asked for" in caplog.text


def test_drawn_demonstrations_differ_in_their_text(tmp_path: Path) -> None:
    pool = plain(tmp_path, train=[topic(0), topic(0), topic(1), topic(2)])
    assert len({row.text for row in pool.demonstrations(3, 13)}) == 3
    with pytest.raises(InputError, match=r"home_topics: 4 demonstrations \(num_fewshot\), and the train rows .* has 3"):
        pool.demonstrations(4, 13)
    assert pool.demonstrations(0, 13) == []


# ----------------------------------------------------------------------------------------------------- MetaICL's files


def test_metaicls_training_task(theirs: Path) -> None:
    pool = open_pool(theirs, "tool_notes")  # - and _ are the same
    assert len(pool.train(50, 0)) == 50
    assert pool.demonstrations(5, 100) == [r for i in range(5) for r in pool._train() if r.id.endswith(f"/{i}")]
    assert pool._train()[3].place == "tool-notes_16384_100_train.jsonl:4"
    assert pool._train()[3].id == "tool_notes/train-16384-100/3"
    drawn = pool.demonstrations(5, 13)
    assert drawn != pool.demonstrations(5, 14)
    assert not {r.text for r in drawn} & {r.text for r in pool.test(200, 0, without=drawn)}


def test_metaicls_target_task(theirs: Path) -> None:
    pool = open_pool(theirs, "unifiedqa:home_topics")
    for seed in TARGET_SEEDS:
        shown = pool.demonstrations(4, seed)
        assert [row.input.split(":")[0] for row in shown] == [f"Note {1000 * seed + i}" for i in range(4)]
        assert [row.id.split("/")[1] for row in pool.few(2, seed)] == [f"train-16-{seed}"] * 6
    assert {row.id.split("/")[1] for row in pool.train(99, 0)} == {"train-16-13"}  # of the lowest seed
    assert sorted(int(row.id.split("/")[2]) for row in pool.test(99, 0)) == list(range(30))
    assert {row.place.split(":")[1] for row in pool.test(99, 0)} == {"home-topics_16_13_test.jsonl"}


def test_metaicls_demonstrations_are_of_the_smallest_file_that_has_enough(tmp_path: Path) -> None:
    for k in (4, 16):
        rows = [topic(100 * k + i) for i in range(k)]
        write_rows(tmp_path / "home_topics" / f"home_topics_{k}_42_train.jsonl", rows)
    pool = open_pool(tmp_path, "home_topics")
    assert {row.id.split("/")[1] for row in pool.demonstrations(4, 42)} == {"train-4-42"}
    assert {row.id.split("/")[1] for row in pool.demonstrations(5, 42)} == {"train-16-42"}
    assert {row.id.split("/")[1] for row in pool.few(1, 42)} == {"train-16-42"}
    with pytest.raises(InputError, match="17 demonstrations"):
        pool.demonstrations(17, 42)


@pytest.mark.parametrize(
    ("name", "rows", "odd", "message"),
    [
        ("home_topics", [topic(0), topic(1)], topic(0, options=["garden", "attic"]), "options garden, attic; .* have"),
        ("home_topics", [topic(0), topic(1)], topic(0, options=[]), "options none; .* have garden, kitchen"),
        ("riddles", [riddle(0), riddle(1)], riddle(2) | {"options": []}, "options none; .* have two or more"),
        ("sums", [free(0), free(1)], free(2) | {"options": ["4", "5"]}, "options 4, 5; .* have none"),
    ],
)
def test_a_test_row_of_another_kind(tmp_path: Path, name: str, rows: list[Any], odd: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"^{name}/test.jsonl:1: {message}"):
        plain(tmp_path, name, train=rows, test=[odd]).test(1, 0)


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such directory; expected one with a directory for each task"):
        open_pool(tmp_path / "nowhere", "home_topics")
    plain(tmp_path, train=[topic(0)])
    with pytest.raises(InputError, match=r'no directory of the task home_topic; did you mean "home_topics"\?'):
        open_pool(tmp_path, "home_topic")
    (tmp_path / "home-topics").mkdir()
    with pytest.raises(InputError, match="home-topics and home_topics are one task's name; keep one of them"):
        open_pool(tmp_path, "home_topics")


# ------------------------------------------------------------------------------------------------------------ real rows


REAL = {
    "ag_news": "classification",
    "trec": "classification",
    "codah": "multiple-choice",
    "openbookqa": "multiple-choice",
}


@pytest.mark.parametrize(("name", "kind"), REAL.items())
def test_real_rows(shared_data: Path, name: str, kind: str) -> None:
    pool = open_pool(shared_data / "meta", name.replace("_", "-"))
    assert pool.kind == kind
    shown, tests = pool.demonstrations(16, 13), pool.test(10**6, 0)
    assert len({row.id for row in shown}) == 16
    assert len({row.id for row in tests}) == len(tests) > 100
    assert all(row.output in row.options for row in tests)
    if pool.labels:
        assert Counter(row.output for row in pool.few(2, 42)) == dict.fromkeys(pool.labels, 2)
