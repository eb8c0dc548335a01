"""Which rows the meta-test shows, tunes on and measures: those of the seed's file, and never one as both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

import zofo
from tests.metatest_output import predictions
from tests.metatest_protocol import SubjectCalls
from tests.setting_files import JsonRow, as_task, read_rows, write_rows
from tests.small_setting import KINDS, make_setting, mood, quiz
from zofo.api.metatest.plan import SEEDS
from zofo.errors import InputError


def shown_text(rows: Sequence[JsonRow]) -> str:
    return "".join(f"{row['input']}\n{row['output']}\n\n\n" for row in rows)


def options_of(rows: Sequence[JsonRow], task: str) -> list[str]:
    return rows[0]["options"] if task == "film" else list(KINDS)


def test_the_demonstrations_are_the_first_k_of_the_seeds_file(
    small_setting: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    data, out = small_setting.parent / "data", tmp_path / "out"
    zofo.meta_test(tiny_model_dir, **as_task(small_setting), ways=["in-context"], k=3, output=out, test_examples=8)
    measured: dict[str, set[str]] = {}
    for task in ("film", "kind"):
        tests = read_rows(data / task / f"{task}_16_100_test.jsonl")
        for seed in SEEDS:
            context = shown_text(read_rows(data / task / f"{task}_16_{seed}_train.jsonl")[:3])
            rows = predictions(out, "in-context", task, seed)
            assert len(rows) == 8
            for row in rows:
                number = int(row["id"].rpartition("/")[2])
                assert row["prompt"] == context + tests[number]["input"]
                assert row["answers"] == ["\n" + option for option in options_of(tests, task)]
                assert row["answers"][row["gold"][0]] == "\n" + tests[number]["output"]
            measured.setdefault(task, set()).add(",".join(row["id"] for row in rows))
    assert all(len(ids) == 1 for ids in measured.values()), "the same test rows, in the same order, for every seed"


def test_k_below_and_above_what_the_files_hold(tmp_path: Path, tiny_model_dir: Path) -> None:
    """Of film_4_... and film_16_... the smaller that has k rows; where none has them, the seed's error says so."""
    setting = make_setting(tmp_path)
    folder = setting.parent / "data" / "film"
    for seed in SEEDS:
        write_rows(folder / f"film_4_{seed}_train.jsonl", mood("film", 4, 1000 + seed))
    fixed = {**as_task(setting), "ways": ["in-context"], "test_examples": 3}
    for k, size in ((4, 4), (5, 16)):
        out = tmp_path / f"out{k}"
        zofo.meta_test(tiny_model_dir, k=k, seeds=(21,), output=out, **fixed)
        context = shown_text(read_rows(folder / f"film_{size}_21_train.jsonl")[:k])
        rows = predictions(out, "in-context", "film", 21)
        assert all(row["prompt"].startswith(context) for row in rows)
    with pytest.raises(InputError, match=r"film: 17 demonstrations"):
        zofo.meta_test(tiny_model_dir, k=17, seeds=(21,), **fixed)


def test_a_seed_without_files_is_drawn_from_the_largest_train_file(
    small_setting: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """Seeds that MetaICL has no files of are no error: rows are drawn from the lowest seed's file, others for each."""
    out = tmp_path / "out"
    zofo.meta_test(
        tiny_model_dir, **as_task(small_setting), ways=["in-context"], k=2, seeds=(7, 8), test_examples=2, output=out
    )
    prompts = [predictions(out, "in-context", "film", seed)[0]["prompt"] for seed in (7, 8)]
    in_file = {row["input"] for row in read_rows(small_setting.parent / "data" / "film" / "film_16_13_train.jsonl")}
    assert prompts[0] != prompts[1]
    assert all(part.split("\n")[0] in in_file for prompt in prompts for part in prompt.split("\n\n\n")[:-1])


def with_train_rows_alone(tmp_path: Path, n: int) -> Path:
    """A setting with one target that has train rows alone."""
    setting = make_setting(tmp_path, target=["only"], unseen_domain=None)
    write_rows(setting.parent / "data" / "only" / "train.jsonl", mood("only", n, 4))
    return setting


def test_no_test_row_is_ever_shown_or_tuned_on(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a task without test rows: what any seed shows or tunes on is left out, for every way and seed alike."""
    setting, calls = with_train_rows_alone(tmp_path, 60), SubjectCalls(monkeypatch)
    fixed = {**as_task(setting), "rates": (1e-3,), "k": 2, "each": 2, "steps": 1}
    zofo.meta_test(tiny_model_dir, ways=["zero-shot", "in-context", "tuned-fresh"], output=tmp_path / "out", **fixed)
    used = {text for tuning in calls.tunings for text, _ in tuning["texts"]}
    measured = []
    for call in calls.measured:
        inputs = [example.prompt.split("\n\n\n")[-1] for example in call["examples"]]
        measured.append(inputs)
        used |= {part.split("\n")[0] for example in call["examples"] for part in example.prompt.split("\n\n\n")[:-1]}
    assert len(measured) == 1 + 5 + 5
    assert all(inputs == measured[0] for inputs in measured)
    assert len(used) > 15
    assert len(measured[0]) == 60 - len(used)
    assert not used & set(measured[0])


def test_a_task_whose_rows_are_all_shown_is_an_error_that_says_so(tmp_path: Path, tiny_model_dir: Path) -> None:
    setting = with_train_rows_alone(tmp_path, 6)
    with pytest.raises(InputError, match=r"only: .*(test\.jsonl|rows)"):
        zofo.meta_test(tiny_model_dir, **as_task(setting), ways=["tuned-fresh"], rates=(1e-3,))


def test_zero_shot_needs_no_train_rows(tmp_path: Path, tiny_model_dir: Path) -> None:
    setting = with_train_rows_alone(tmp_path, 6)
    folder = setting.parent / "data" / "only"
    (folder / "train.jsonl").rename(folder / "test.jsonl")
    result = zofo.meta_test(tiny_model_dir, **as_task(setting), ways=["zero-shot"])
    assert result["ways"]["zero-shot"]["all"]["mean"] >= 0


def test_a_row_in_train_and_test_is_not_measured_on(tmp_path: Path, tiny_model_dir: Path) -> None:
    """Or it is said, as a run says it ("... test examples are among the training ones")."""
    setting = make_setting(tmp_path, target=["quiz"], unseen_domain=None)
    folder = setting.parent / "data" / "quiz"
    rows = quiz("quiz", 12, 11)
    write_rows(folder / "train.jsonl", rows[:8])
    write_rows(folder / "test.jsonl", rows)
    out = tmp_path / "out"
    zofo.meta_test(tiny_model_dir, **as_task(setting), ways=["in-context"], k=2, output=out)
    shown, measured = set[str](), set[str]()
    for seed in SEEDS:
        for row in predictions(out, "in-context", "quiz", seed):
            *demonstrations, asked = row["prompt"].split("\n\n\n")
            shown |= {part.split("\n")[0] for part in demonstrations}
            measured.add(asked)
    assert not shown & measured


def test_a_target_of_free_text_is_refused(tiny_model_dir: Path, small_setting: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({"train": ["film"], "target": ["saga"]}))
    with pytest.raises(InputError, match="saga has rows without options"):
        zofo.meta_test(tiny_model_dir, task=str(other), data=str(small_setting.parent / "data"))
