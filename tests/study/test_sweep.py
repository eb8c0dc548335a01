"""A sweep: two workers and kills on one study, and what it leaves: nothing run twice, nothing lost, dev chooses."""

from __future__ import annotations

import json
import math
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import forked
from tests.conftest import read_rows, sentiment_rows, write_rows
from tests.cut import cut
from zofo.cli import main as cli
from zofo.study.results import read, runs_in
from zofo.study.sweep_jobs import PRUNED

PLAN = {
    "model": "model",
    "task": {"name": "rows.jsonl", "train_examples": 12, "dev_examples": 8, "test_examples": 6},
    "methods": ["mezo", "fo-ft"],
    "search": {"method.lr": [1e-5, 1e-4]},
    "seeds": [3, 4],
    "train": {"max_steps": 4, "eval_steps": 2, "save_steps": 2, "logging_steps": 1, "batch_size": 2},
}
RUNS = [f"{row}/{run}" for row in ("fo-ft", "mezo") for run in ("seed-4", "trial-0", "trial-1")]


class Bench:
    """A folder with a model and rows; `plan` writes a plan there, `sweep` runs the command in this process."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.study = folder, folder / "study"
        (folder / "model").symlink_to(model)
        write_rows(folder / "rows.jsonl", sentiment_rows(40))
        self.plan()

    def plan(self, **changes: Any) -> None:
        (self.folder / "plan.yaml").write_text(yaml.safe_dump(PLAN | changes, sort_keys=False))

    def args(self, *more: str) -> list[str]:
        return ["sweep", str(self.folder / "plan.yaml"), "--output-dir", str(self.study), "--no-estimate", *more]

    def sweep(self, *more: str) -> int:
        return cli.run(self.args(*more))

    def info(self, run: str) -> dict[str, Any]:
        return json.loads((self.study / run / "run.json").read_text())

    def events(self, run: str, event: str) -> list[dict[str, Any]]:
        return [line for line in read_rows(self.study / run / "metrics.jsonl") if line["event"] == event]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Bench:
    """A study that one worker ran to its end."""
    bench = Bench(tmp_path_factory.mktemp("sweep"), tiny_model_dir)
    assert bench.sweep() == 0
    return bench


@pytest.fixture
def bench(tmp_path: Path, tiny_model_dir: Path) -> Bench:
    return Bench(tmp_path, tiny_model_dir)


def names(bench: Bench) -> list[str]:
    return sorted(str(run.relative_to(bench.study)) for run in runs_in(bench.study))


def numbers(bench: Bench, run: str) -> tuple[Any, ...]:
    """What a run came to, without times and places."""
    info = bench.info(run)
    steps = [line["step"] for line in bench.events(run, "train")]
    return info["dev"], info["test"], info["best_step"], info["study"]["trial"] if "study" in info else None, steps


def test_dev_chooses_and_the_test_set_is_measured_for_the_chosen_alone(whole: Bench) -> None:
    assert names(whole) == RUNS
    for row in ("mezo", "fo-ft"):
        losses = [whole.info(f"{row}/trial-{n}")["dev"]["theta"]["loss"] for n in (0, 1)]
        best = losses.index(min(losses))
        chosen, other = whole.info(f"{row}/trial-{best}"), whole.info(f"{row}/trial-{1 - best}")
        assert chosen["test"]["theta"]["n"] == 6
        assert not any(other["test"].values())
        assert not (whole.study / row / f"trial-{1 - best}" / "eval").exists()
        seed = read(whole.study / row / "seed-4")
        assert (seed.trials, seed.seed, seed.test["n"]) == (2, 4, 6)
        assert seed.settings["method.lr"] == read(whole.study / row / f"trial-{best}").settings["method.lr"]
        assert chosen["study"] | {"plan": ""} == {
            "row": row,
            "label": row,
            "trial": best,
            "trials": 2,
            "plan": "",
            "sampler": "grid",
            "search": {"method.lr": [1e-5, 1e-4]},
        }
        assert "study" not in other


def test_given_again_it_runs_nothing(whole: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.study.rglob("*") if path.is_file()}
    assert whole.sweep() == 0
    after = {path: path.stat().st_mtime_ns for path in whole.study.rglob("*") if path.is_file()}
    assert {path.name for path in after if after[path] != before.get(path)} <= {"cost.json"}
    out = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in out] == ["row", "mezo", "fo-ft", "", "row", *["mezo"] * 2, *["fo-ft"] * 2]
    assert out[1].split("\t")[5:] == ["2", "2", "0", "0"]


def test_every_run_is_whole(whole: Bench) -> None:
    for run in RUNS:
        assert cli.run(["validate", str(whole.study / run)]) == 0


def test_another_plan_is_refused_naming_what_differs(
    whole: Bench, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.plan(seeds=[3, 5], train={**PLAN["train"], "max_steps": 6})
    bench.study = whole.study
    assert bench.sweep() == 2
    error = capsys.readouterr().err
    assert "seeds is [3, 4] there and [3, 5] in this plan; train.max_steps is 4 there and 6 in this plan" in error
    (bench.folder / "mine").mkdir()
    (bench.folder / "mine" / "notes.txt").write_text("mine")
    bench.study = bench.folder / "mine"
    assert bench.sweep() == 2
    assert "holds other files (notes.txt)" in capsys.readouterr().err
    assert sorted(path.name for path in bench.study.iterdir()) == ["notes.txt"]


def test_seeds_and_rows_are_added_to_a_study(whole: Bench, bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(whole.study, bench.study)
    before = {path: path.read_bytes() for path in bench.study.rglob("*") if path.is_file() and path.name != "run.json"}
    more = {"seeds": [3, 4, 5], "methods": ["mezo", "fo-ft", "zero-shot"]}
    for search in ({"method.lr": [1e-5, 1e-4, 1e-3]}, {"method.lr": [1e-4, 1e-5]}):
        bench.plan(**more, search=search)
        assert bench.sweep() == 2
        assert "seeds and rows may be added to a study" in capsys.readouterr().err
    bench.plan(**more, search={"mezo": PLAN["search"], "fo-ft": PLAN["search"]})
    assert bench.sweep() == 0
    new = {f"{row}/seed-5" for row in ("mezo", "fo-ft")} | {
        f"zero-shot/{run}" for run in ("trial-0", "seed-4", "seed-5")
    }
    assert set(names(bench)) == {*RUNS, *new}
    ours = ("plan.yaml", "study.json", "trials.log", "cost.json")
    changed = [str(path) for path, content in before.items() if path.read_bytes() != content and path.name not in ours]
    assert not changed, "no run is made again"
    for run in RUNS:
        assert numbers(bench, run) == numbers(whole, run)
    assert bench.info("mezo/seed-5")["study"]["trial"] == bench.info("mezo/seed-4")["study"]["trial"]
    capsys.readouterr()
    assert bench.sweep() == 0, "the plan as it is now is the study's"
    bench.plan()
    assert bench.sweep() == 2, "and the one before it is not"


def killed(bench: Bench, call: str, holding: str, nth: int, sent: int = signal.SIGKILL) -> int:
    done = forked.run(cut, str(int(sent)), call, holding, str(nth), *bench.args())
    return done.returncode


# Where a worker dies: as it trains, between a run's end and what optuna is told, before the test set, at a file
PLACES = {
    "in a step": ("zofo.train.progress:Progress.step", "", 7),
    "as it saves": ("zofo.train.run_dir:RunDir.claim", "checkpoint-4", 1),
    "before it is told": ("zofo.train.run_dir:RunDir.write_info", "", 1),
    "as it is told": ("zofo.study.trials:Trials.begin", "", 5),
    "before the note": ("zofo.api.finetune:score_test", "", 1),
}


SLOW = ("in a step", "as it saves", "as it is told", "before the note")


@pytest.mark.parametrize(
    "place", [pytest.param(place, marks=pytest.mark.slow) if place in SLOW else place for place in PLACES]
)
def test_a_worker_that_is_killed_is_gone_on_from(place: str, bench: Bench, whole: Bench) -> None:
    assert killed(bench, *PLACES[place]) == -signal.SIGKILL
    there = {run: bench.info(run) for run in names(bench) if (bench.study / run / "run.json").is_file()}
    assert bench.sweep() == 0
    assert names(bench) == RUNS
    for run in RUNS:
        assert numbers(bench, run) == numbers(whole, run), run
        assert numbers(bench, run)[4] == [1, 2, 3, 4], "each step once"
    for run, info in there.items():
        for key in ("seconds", "environment"):
            assert bench.info(run)[key] == info[key], f"{run} was run twice"


def test_two_workers_and_one_is_killed(bench: Bench, whole: Bench) -> None:
    with ThreadPoolExecutor(2) as pool:
        dies = pool.submit(killed, bench, "zofo.train.progress:Progress.step", "", 6)
        lives = pool.submit(forked.run, forked.zofo_main, *bench.args())
        assert dies.result() == -signal.SIGKILL
        assert lives.result().returncode == 0, lives.result().stderr
    assert names(bench) == RUNS
    for run in RUNS:
        assert numbers(bench, run) == numbers(whole, run), run
    told = [line for line in read_rows(bench.study / "trials.log") if line["op_code"] == 6 and line["state"] == 1]
    assert sorted(line["trial_id"] for line in told) == [0, 1, 2, 3], "each trial was told once"


@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_stop_saves_and_says_how_to_go_on(sent: int, bench: Bench) -> None:
    done = forked.run(cut, str(int(sent)), "zofo.train.progress:Progress.step", "", "3", *bench.args())
    assert done.returncode == 128 + sent
    assert "the same command goes on" in done.stderr
    assert "zofo train" not in done.stderr, "which would go on with one run alone"
    assert (bench.study / "mezo" / "trial-0" / "checkpoint-3").is_dir()


def test_a_run_that_fails_is_a_failed_trial_and_the_sweep_goes_on(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.plan(methods=["fo-ft"], search={"method.lr": [1e30, 1e-4]}, seeds=[3])
    assert bench.sweep() == 0
    line = capsys.readouterr().out.splitlines()[1].split("\t")
    assert (line[1], line[6:]) == ("lr 0.0001", ["2", "1", "0"])
    assert not (bench.study / "fo-ft" / "trial-0" / "run.json").exists()
    bench.plan(methods=["fo-ft"], search={"method.lr": [1e30]}, seeds=[3])
    bench.study = bench.folder / "none"
    assert bench.sweep() == 1
    assert "row fo-ft: no result; " in capsys.readouterr().err


def test_a_worse_trial_is_pruned(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    rates = [1e-4, 1e-3, 3e-3, 10.0]
    bench.plan(methods=["fo-ft"], search={"method.lr": rates}, seeds=[3], prune=True)
    assert bench.sweep() == 0
    assert capsys.readouterr().out.splitlines()[1].split("\t")[8] in ("1", "2"), "never of the first two"
    manifest = json.loads((bench.study / "fo-ft" / "trial-3" / "manifest.json").read_text())
    assert manifest["outcome"]["reason"].startswith(PRUNED)
    assert [line["step"] for line in bench.events("fo-ft/trial-3", "dev")] == [2]
    size = (bench.study / "trials.log").stat().st_size
    assert bench.sweep() == 0
    assert (bench.study / "trials.log").stat().st_size == size


@pytest.mark.slow
def test_tpe_has_as_many_trials_over_all_workers(bench: Bench) -> None:
    search = {"method.lr": {"low": 1e-6, "high": 1e-2, "log": True}}
    bench.plan(methods=["mezo"], search=search, sampler="tpe", trials=4, seeds=[3])
    assert killed(bench, "zofo.train.progress:Progress.step", "", 6) == -signal.SIGKILL
    rate = read(bench.study / "mezo" / "trial-1").settings["method.lr"]
    assert bench.sweep() == 0
    results = [read(run) for run in runs_in(bench.study)]
    assert [result.name for result in results] == [f"trial-{n}" for n in range(4)]
    assert results[1].settings["method.lr"] == rate, "a trial that was begun keeps what it drew"
    assert len({result.settings["method.lr"] for result in results}) == 4
    assert sum(math.isfinite(result.test.get("loss", math.nan)) for result in results) == 1


def test_what_is_like_a_chosen_trial(bench: Bench) -> None:
    extra = [{"name": "longer", "like": "mezo", "change": {"train.max_steps": 6}}]
    bench.plan(methods=["mezo"], extra=extra, seeds=[3])
    assert bench.sweep() == 0
    longer = read(bench.study / "longer" / "trial-0")
    best = next(run for run in map(read, runs_in(bench.study / "mezo")) if run.test)
    assert (longer.settings["method.lr"], longer.counted_steps) == (best.settings["method.lr"], 6)
    assert (longer.trials, longer.test["n"]) == (2, 6)


def test_a_fault_of_one_row_is_said_before_anything_runs(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.plan(methods={"mezo": {}, "fo-ft": {"task.template": "defalt"}})
    assert cli.run([arg for arg in bench.args() if arg != "--no-estimate"]) == 2
    assert "row fo-ft: " in capsys.readouterr().err
    assert not bench.study.exists()


@pytest.mark.slow
def test_ten_runs_take_no_more_memory_than_two(bench: Bench) -> None:
    import psutil

    process, rates = psutil.Process(), [n * 1e-6 for n in range(1, 11)]
    bench.plan(methods=["fo-ft"], search={"method.lr": rates[:2]}, seeds=[3])
    assert bench.sweep() == 0
    before = process.memory_info().rss
    bench.plan(methods=["fo-ft"], search={"method.lr": rates}, seeds=[3])
    bench.study = bench.folder / "ten"
    assert bench.sweep() == 0
    assert process.memory_info().rss < before + 50 * 2**20
