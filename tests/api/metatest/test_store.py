"""The output directory: what is written, gone on with and refused, and what --overwrite takes away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import zofo
from tests.metatest_output import parts_in, predictions, results_in, scores
from tests.metatest_protocol import QUICK, SubjectCalls
from tests.setting_files import JsonRow, as_task, write_rows
from tests.small_setting import make_setting, quiz, train
from zofo.api.metatest.store import Store
from zofo.api.metatest.subject import Subject
from zofo.errors import InputError

BASE: dict[str, Any] = {"ways": ["zero-shot", "tuned"], **QUICK}


def test_results_parts_and_predictions(run_of: Any, tmp_path: Path) -> None:
    out, run = tmp_path / "out", run_of("shared")
    result = zofo.meta_test(run, output=out, **{**QUICK, "rates": (1e-3, 1e-2), "rate_runs": 1})
    ways = ["zero-shot", "zero-shot-s", "tuned", "tuned-fresh"]
    assert list(result["ways"]) == ways
    assert sorted(p.name for p in out.iterdir()) == ["parts", "plan.json", "predictions", "results.json"]
    targets = ["film", "kind", "quiz"]
    names = [
        f"{way}/{task}-{seed}" for way in ways for task in targets for seed in ((100,) if "zero" in way else (100, 13))
    ]
    rates = [f"{way}/rates/sort/{rate}-100" for way in ways[2:] for rate in ("0.001", "0.01")]
    assert sorted(parts_in(out)) == sorted(f"{name}.json" for name in names + rates)
    written = {str(p.relative_to(out / "predictions")) for p in (out / "predictions").rglob("*.jsonl")}
    assert written == {f"{name}.jsonl" for name in names}
    assert result["coverage"] == [
        "small: 4 of 4 training tasks (100 %), 3 of 4 target tasks (75 %)",
        "missing target tasks: absent",
    ]
    assert result["held_out"] == ["sort"]
    assert result["k"] == 4
    assert result["ways"]["zero-shot-s"]["all"]["mean"] != pytest.approx(
        result["ways"]["zero-shot"]["all"]["mean"], abs=1e-9
    )
    for row in predictions(out, "zero-shot", "film", 100):
        assert len(row["scores"]) == 2
        assert set(row) >= {"id", "prompt", "answers", "gold", "predicted", "correct", "loss"}


def test_the_same_command_does_no_part_twice(run_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, run = tmp_path / "out", run_of("bank")
    first = zofo.meta_test(run, output=out, **BASE)
    stamps = {path: path.stat().st_mtime_ns for path in (out / "parts").rglob("*.json")}
    lost = out / "parts" / "tuned" / "kind-13.json"
    lost.unlink()
    (out / "results.json").unlink()
    calls = SubjectCalls(monkeypatch)
    again = zofo.meta_test(run, output=out, **BASE)
    assert [(t["task"], t["seed"]) for t in calls.tunings] == [("kind", 13)]
    assert len(calls.measured) == 1
    assert scores(again) == scores(first)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items() if path != lost)


@pytest.fixture(scope="module")
def plan_of_bank(run_of: Any, tmp_path_factory: pytest.TempPathFactory) -> JsonRow:
    """plan.json of BASE, as a meta-test writes it."""
    out = tmp_path_factory.mktemp("plan") / "out"
    zofo.meta_test(run_of("bank"), output=out, **BASE)
    return json.loads((out / "plan.json").read_text())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": 2}, "steps"),
        ({"seeds": (100, 21)}, "seeds"),
        ({"rates": (1e-2,)}, "rates"),
        ({"each": 2}, "each"),
        ({"k": 3}, "k"),
        ({"test_examples": 5}, "test_examples"),
        ({"batch_size": 2}, "batch_size"),
        ({"ways": ["zero-shot"]}, "ways"),
        ({"overrides": ["task.scoring=pmi"]}, "scoring"),
        ({"overrides": ["task.template=spaces"]}, "template"),
        ({"target": "shared"}, "target"),
    ],
)
def test_another_plan_in_the_same_output_is_refused_by_name(
    change: dict[str, Any], named: str, run_of: Any, plan_of_bank: JsonRow, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    Store(out).claim(plan_of_bank, False)
    before = (out / "plan.json").read_text()
    target = run_of(change.get("target", "bank"))
    with pytest.raises(InputError) as error:
        zofo.meta_test(target, output=out, **{**BASE, **{k: v for k, v in change.items() if k != "target"}})
    assert f"(other {named}" in str(error.value) or f", {named}" in str(error.value)
    assert "--overwrite" in str(error.value)
    assert (out / "plan.json").read_text() == before


def test_overwrite(run_of: Any, tmp_path: Path) -> None:
    out, run = tmp_path / "out", run_of("bank")
    zofo.meta_test(run, output=out, **BASE)
    result = zofo.meta_test(run, ways=["zero-shot"], output=out, overwrite=True, test_examples=5)
    assert {name.split("/")[0] for name in parts_in(out)} == {"zero-shot"}
    assert not (out / "predictions" / "tuned").exists()
    assert scores(results_in(out)) == scores(json.loads(json.dumps(result)))


def test_overwrite_takes_away_what_a_kill_left_half_written(run_of: Any, tmp_path: Path) -> None:
    out, run = tmp_path / "out", run_of("bank")
    zofo.meta_test(run, ways=["zero-shot"], output=out, **QUICK)
    torn = ["parts/tuned/.film-13.json.tmp", "predictions/zero-shot/.film-100.jsonl.tmp", ".results.json.tmp"]
    for name in torn:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text('{"value": 0.', "utf-8")
    theirs = out / "parts" / "zero-shot" / ".notes.tmp"
    theirs.write_text("mine", "utf-8")
    zofo.meta_test(run, ways=["zero-shot"], output=out, overwrite=True, **{**QUICK, "test_examples": 3})
    assert [path.name for path in out.rglob("*.tmp")] == [".notes.tmp"]
    assert not (out / "parts" / "tuned").exists()


def test_overwrite_takes_the_old_results_away_at_once(
    run_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A measurement that is cut leaves no results of the one before beside its own plan."""
    out, run = tmp_path / "out", run_of("bank")
    zofo.meta_test(run, ways=["zero-shot"], output=out, **QUICK)

    def cut(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Subject, "measure", cut)
    with pytest.raises(KeyboardInterrupt):
        zofo.meta_test(run, ways=["zero-shot"], output=out, overwrite=True, **{**QUICK, "test_examples": 3})
    assert not (out / "results.json").exists()


def test_a_directory_of_something_else_is_never_taken(run_of: Any, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep me")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="no meta-test"):
            zofo.meta_test(run_of("bank"), ways=["zero-shot"], output=mine, overwrite=overwrite, **QUICK)
    with pytest.raises(InputError, match="no meta-test"):
        zofo.meta_test(run_of("bank"), ways=["zero-shot"], output=mine / "notes.txt", **QUICK)
    assert [p.name for p in mine.iterdir()] == ["notes.txt"]


def test_a_run_that_was_trained_again_is_another_target(
    tiny_model_dir: Path, small_setting: Path, tmp_path: Path
) -> None:
    """The parts of the model that was there before are not this one's."""
    run, out = tmp_path / "run", tmp_path / "out"
    train(tiny_model_dir, small_setting, run, "multi-task-ft")
    zofo.meta_test(run, ways=["zero-shot"], output=out, test_examples=4)
    train(tiny_model_dir, small_setting, run, "multi-task-ft", "method.lr=3e-2", "--overwrite")
    expected = zofo.meta_test(run, ways=["zero-shot"], test_examples=4)
    try:
        result = zofo.meta_test(run, ways=["zero-shot"], output=out, test_examples=4)
    except InputError:
        return
    assert result["ways"]["zero-shot"]["all"] == expected["ways"]["zero-shot"]["all"]


def test_rows_that_changed_are_another_measurement(tiny_model_dir: Path, tmp_path: Path) -> None:
    """A user who mends a row and starts the command again gets the numbers of the mended rows, or is told."""
    setting = make_setting(tmp_path, target=["quiz"], unseen_domain=None)
    fixed = {**as_task(setting), "ways": ["zero-shot"]}
    out = tmp_path / "out"
    zofo.meta_test(tiny_model_dir, output=out, **fixed)
    write_rows(setting.parent / "data" / "quiz" / "test.jsonl", quiz("quiz", 9, 77))
    expected = zofo.meta_test(tiny_model_dir, **fixed)
    try:
        result = zofo.meta_test(tiny_model_dir, output=out, **fixed)
    except InputError:
        return
    assert result["ways"]["zero-shot"]["all"] == expected["ways"]["zero-shot"]["all"]


def test_nothing_is_claimed_for_what_cannot_be_opened(small_setting: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="no such directory"):
        zofo.meta_test(tmp_path / "nowhere", **as_task(small_setting), ways=["zero-shot"], output=out)
    assert not out.exists()


def test_a_start_that_was_killed_at_its_plan_is_started_again(run_of: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".plan.json.tmp").write_text('{"k', "utf-8")
    zofo.meta_test(run_of("bank"), ways=["zero-shot"], output=out, **QUICK)
    assert (out / "results.json").is_file()
    assert not list(out.glob(".*"))
