"""The leaderboard: an entry made of real runs, what `check` refuses, and its numbers by hand."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, SST2, write_rows
from zofo.cli import main as cli
from zofo.config import registry
from zofo.config.json_text import read_json
from zofo.errors import InputError
from zofo.study.bench import check, plan
from zofo.study.bench.entry import Entry, Run, read_entry, schema
from zofo.study.bench.plan import common, contender, plan_for
from zofo.study.bench.table import forwards_to, standing, tables
from zofo.study.plan_check import check as check_plan

RESULTS = ROOT / "results" / "leaderboard"
ROWS: dict[str, dict[str, Any]] = {  # a row of each task
    "sst2": SST2[0],
    "movie-reviews": {"text": "not a dull minute in it", "label": 1},
    "copa": {
        "premise": "It rained.",
        "choice1": "We got wet.",
        "choice2": "We slept.",
        "question": "effect",
        "label": 0,
    },
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """Two contenders, run by the command in its short form; one is a file of somebody else's."""
    root = tmp_path_factory.mktemp("bench")
    rows = [dict(row, sentence=f"{row['sentence']} ({i})") for i in range(8) for row in SST2]
    write_rows(root / "data" / "sst2" / "train.jsonl", rows)
    write_rows(root / "data" / "sst2" / "test.jsonl", SST2)
    (root / "signs.yaml").write_text(
        "# signs of the estimate\npaper: none\nforwards: 4\n"
        "settings: {method.name: mezo, rule.name: sign, method.lr: 1e-4}\n"
    )
    args = ["--reduced", "--no-estimate", "--model", str(tiny_model_dir), "--data", str(root / "data")]
    args += ["--output-dir", str(root / "out"), "--by", "Ada L."]
    assert cli.run(["bench", "run", "mezo", str(root / "signs.yaml"), *args]) == 0
    return root


def test_an_entry_is_what_its_runs_say(made: Path) -> None:
    entry = read_entry(made / "out" / "mezo.json")
    task = entry.tasks["sst2"]
    assert [trial.set for trial in task.trials] == [{"method.lr": lr} for lr in (1e-5, 3e-5, 1e-4)]
    assert (entry.by, entry.forwards_a_step) == ("Ada L.", 2)
    for number, trial in enumerate(task.trials):
        run = read_json(made / "out/study/mezo/sst2-mezo" / f"trial-{number}" / "run.json")
        assert trial.dev_loss == run["dev"]["theta"]["loss"]
    (run,) = task.runs
    assert [point.forwards for point in run.dev] == [12, 24, 36, 48]
    assert (run.peak_bytes or 0) > 2**20
    assert run.seconds > 0
    assert set(run.test) >= {"loss", "accuracy"}
    half = read_entry(made / "out" / "signs.json")
    assert half.about == "signs of the estimate"
    assert half.tasks["sst2"].settings["train.max_steps"] == 12  # of four forwards each
    text = (made / "out" / "mezo.json").read_text()
    assert str(made) not in text
    assert SST2[0]["sentence"] not in text


def test_a_finished_bench_is_not_run_again(
    made: Path, capsys: pytest.CaptureFixture[str], tiny_model_dir: Path
) -> None:
    before = (made / "out" / "mezo.json").read_bytes()
    args = ["--reduced", "--no-estimate", "--model", str(tiny_model_dir), "--data", str(made / "data")]
    assert cli.run(["bench", "run", "mezo", *args, "--output-dir", str(made / "out"), "--by", "Ada L."]) == 0
    assert (made / "out" / "mezo.json").read_bytes() == before
    assert cli.run(["bench", "table", str(made / "out")]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("sst2:", "mezo", "signs"))


def test_a_short_form_is_no_entry(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "check", str(made / "out")]) == 2
    told = capsys.readouterr().err
    assert "mezo.json: common: was run by another common plan" in told
    assert "mezo.json: tasks: no movie-reviews, copa" in told


def entry(losses: Sequence[Sequence[float | None]], name: str = "mezo", each: float = 24.0) -> Entry:
    """As the common plan has it, with these dev losses of its seeds at 24, 48, ... forwards, on every task."""
    shared = common()["shared"]
    runs = [
        {
            "seed": seed,
            "dev": [{"forwards": each * (i + 1), "loss": value} for i, value in enumerate(values)],
            "test": {"loss": 0.5, "accuracy": 0.75},
            "seconds": 10.0,
            "peak_bytes": 2**30,
            "rows": dict.fromkeys(("train", "dev", "test"), f"{seed:064x}"),
            "environment": {},
        }
        for seed, values in enumerate(losses)
    ]
    trials = [{"set": {"method.lr": 1e-5}, "dev_loss": 0.5, "ending": "finished"}]
    task = {
        "metric": "accuracy",
        "settings": {"method.lr": 1e-5, **shared},
        "trials": trials,
        "chosen": 0,
        "runs": runs,
    }
    facts = {"name": name, "about": "a", "paper": "p", "by": "b", "code": "c", "model": "m", "base_sha256": "0" * 64}
    facts |= {"forwards_a_step": 2, "common": plan.digest(), "tasks": dict.fromkeys(common()["tasks"], task)}
    return Entry.model_validate(copy.deepcopy(facts))


BASE = [[0.9, 0.7, 0.5, 0.6], [0.8, 0.6, 0.4, 0.4], [0.9, 0.8, 0.7, 0.6]]


def test_forwards_to_a_loss_lie_on_the_line_between_two_evaluations() -> None:
    run = entry(BASE).tasks["sst2"].runs[0]
    assert forwards_to(run, 0.5) == 72
    assert forwards_to(run, 0.6) == pytest.approx(60)
    assert forwards_to(run, 0.95) == 24  # before the first evaluation nothing is known
    assert math.isinf(forwards_to(run, 0.4))
    gap = Run.model_validate(
        {**run.model_dump(), "dev": [{"forwards": 24, "loss": None}, {"forwards": 48, "loss": 0.5}]}
    )
    assert forwards_to(gap, 0.6) == 48


def test_times_fewer_by_hand() -> None:
    """A contender that is at MeZO's best after half, a third and two thirds of its forwards."""
    base = entry(BASE)
    other = entry([[0.9, 0.5 + 0.2 / 1e9, 0.4, 0.4], [0.4, 0.4, 0.4, 0.4], [0.9, 0.6 + 1e-9, 0.5, 0.5]], "fast")
    told = standing(other, base, ["sst2"])
    logs = [math.log(72 / 48), math.log(72 / 24), math.log(96 / 48)]
    assert told.fewer.mean == pytest.approx(math.exp(sum(logs) / 3), rel=1e-6)
    deviation = math.sqrt(sum((one - sum(logs) / 3) ** 2 for one in logs) / 2 / 3) * 4.302652729911275  # t, 2 degrees
    assert told.fewer.low == pytest.approx(math.exp(sum(logs) / 3 - deviation), rel=1e-5)
    assert (told.reached, told.of) == (3, 3)
    assert told.loss.mean == pytest.approx((-0.1 + 0.0 - 0.1) / 3, abs=1e-6)
    itself = standing(base, base, ["sst2"])
    assert (itself.fewer.mean, itself.loss.mean) == (1, 0)


def test_what_did_not_reach_it_is_counted_and_not_imputed() -> None:
    slow = entry([[0.9, 0.8, 0.7, 0.7], [0.8, 0.6, 0.4, 0.4], [0.9, 0.9, 0.9, 0.9]], "slow")
    told = standing(slow, entry(BASE), ["sst2", "copa"])
    assert math.isnan(told.fewer.mean)
    assert (told.reached, told.of) == (2, 6)
    (_, lines), *_ = tables({"mezo": entry(BASE), "slow": slow})
    assert lines[-1][:3] == ["slow", "not reached", "3 of 9"]
    assert lines[1][0] == "mezo"


def test_a_run_that_blew_up_is_no_winner() -> None:
    told = standing(entry([[None] * 4] * 3, "gone"), entry(BASE), ["sst2"])
    assert told.reached == 0
    assert not math.isfinite(told.loss.mean)


def test_other_rows_are_not_compared() -> None:
    other = entry(BASE, "other").model_dump()
    other["tasks"]["copa"]["runs"][1]["rows"]["dev"] = "f" * 64
    with pytest.raises(InputError, match="other: copa, seed 1: other rows than mezo's"):
        list(tables({"mezo": entry(BASE), "other": Entry.model_validate(other)}))


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "plan": (lambda e: e.update(common="1" * 64), "common: was run by another common plan"),
    "task": (lambda e: e["tasks"].pop("copa"), "tasks: no copa"),
    "weights": (lambda e: e.update(base_sha256="1" * 64), "base_sha256: other weights"),
    "trials": (lambda e: e["tasks"]["sst2"]["trials"].extend(e["tasks"]["sst2"]["trials"] * 3), "trials: 4, and"),
    "seeds": (lambda e: e["tasks"]["sst2"]["runs"].pop(), "runs: seeds [0, 1]"),
    "chosen": (lambda e: e["tasks"]["sst2"].update(chosen=1), "chosen: 1 is no number"),
    "forwards": (lambda e: e["tasks"]["sst2"]["runs"][0]["dev"][-1].update(forwards=300.0), "300 forwards, and all"),
    "rows": (lambda e: e["tasks"]["sst2"]["runs"][0]["rows"].update(dev="f" * 64), "seed 0 has other rows"),
    "order": (lambda e: e["tasks"]["sst2"]["runs"][0]["dev"].reverse(), "evaluations are not in their order"),
    "batch": (lambda e: e["tasks"]["sst2"]["settings"].update({"train.batch_size": 64}), "train.batch_size is 64"),
    "point": (
        lambda e: e["tasks"]["sst2"]["settings"].update({"method.lr": 1.0}),
        "method.lr is not that",
    ),
    "worse": (
        lambda e: e["tasks"]["sst2"]["trials"].append({"set": {}, "dev_loss": 0.1, "ending": "finished"}),
        "chosen: trial 0 has dev loss 0.5000, and the best 0.1000",
    ),
}


def test_a_right_entry_is_in_order() -> None:
    base = entry(BASE)
    assert list(check.faults(entry(BASE, "other"), {"mezo": base})) == []


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_not_alike_is_said(name: str) -> None:
    change, words = FAULTS[name]
    content = entry(BASE, "other").model_dump()
    change(content)
    told = list(check.faults(Entry.model_validate(content), {"mezo": entry(BASE)}))
    assert any(words in line for line in told), told


@pytest.mark.parametrize(
    ("key", "value"), [("extra", 1), ("name", "../x"), ("base_sha256", "0"), ("tasks", {}), ("by", ""), ("format", "2")]
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    content = entry(BASE).model_dump() | {key: value}
    (tmp_path / "mezo.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"mezo.json: {key}: "):
        read_entry(tmp_path / "mezo.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("paper: x\nsettings: {method.name: mezo, train.batch_size: 64}", "train.batch_size: is alike for all"),
        ("paper: x\nsettings: {rule.name: sgd}", "method.name among them"),
        ("settings: {method.name: mezo}", "paper: required"),
        ("paper: x\nsettings: {method.name: mezo}\nforward: 2", 'unknown key "forward"; did you mean "forwards"?'),
        ("paper: x\nsettings: {method.name: mezo}\nforwards: no", "forwards: expected the forwards of a step"),
    ],
)
def test_a_contender_of_ones_own_is_read_before_anything_runs(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(InputError) as told:
        contender(str(tmp_path / "mine.yaml"))
    assert words in str(told.value)


def test_more_trials_than_others_have_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("paper: x\nsettings: {method.name: mezo}\nsearch: {method.lr: [1, 2, 3, 4]}\n")
    with pytest.raises(InputError, match="sst2-mine: 4 trials, and 3 at most are had"):
        plan_for([contender(str(tmp_path / "mine.yaml"))])


@pytest.mark.parametrize("name", registry.names("contenders"))
def test_each_contender_is_a_plan_of_equal_forwards(name: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    for task, row in ROWS.items():
        first = next(iter(row))
        write_rows(tmp_path / task / "train.jsonl", [{**row, first: f"{row[first]} ({i})"} for i in range(40)])
    one = contender(name)
    read = plan_for([one], str(tiny_model_dir), str(tmp_path))
    configs = check_plan(read, tmp_path / "study")
    assert one.about != name
    steps = {config.train.max_steps for config in configs.values()}
    assert all(240 * 0.9 <= count * one.forwards <= 240 for count in steps)


def test_the_schema_is_the_codes() -> None:
    assert read_json(RESULTS / "schema.json") == json.loads(json.dumps(schema()))


def test_every_entry_is_in_order() -> None:
    """CI's check of what is sent."""
    entries = {path.stem: read_entry(path) for path in RESULTS.glob("*.json") if path.name != "schema.json"}
    assert all(name == one.name for name, one in entries.items())
    assert [line for one in entries.values() for line in check.faults(one, entries)] == []
