"""The fuzz: a fixed part of each target in every run of the suite, all of it among the slow tests."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.conftest import read_rows, write_rows
from tests.fuzz.case import Case, judge
from tests.fuzz.suite import TARGETS, count, run_case
from tests.fuzz.targets import templates
from tests.fuzz.world import World

# The files of runs and of meta-tests are judged among the slow tests alone: making them takes seconds
QUICK = {"configs": 9, "overrides": 8, "data_files": 9, "task_files": 9, "settings": 14, "models": 9, "adapters": 15}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("fuzz"))


def faults(world: World, target: str, numbers: range) -> list[str]:
    judged = [(number, *run_case(world, target, 0, number)) for number in numbers]
    return [f"{number} {case.name}: {v.why}" for number, case, v in judged if v.outcome == "fault"]


@pytest.mark.parametrize("target", QUICK)
def test_a_part_of_each_target(target: str, world: World) -> None:
    assert faults(world, target, range(0, count(target), QUICK[target])) == []


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_every_case(target: str, world: World) -> None:
    assert faults(world, target, range(count(target))) == []


@pytest.mark.parametrize("number", [2, 3])
def test_right_templates_come_out_as_in_plain_jinja(number: int, world: World, tmp_path: Path) -> None:
    """A task's and a chat's are accepted, and another text or another number would be found."""
    case = templates.make(world, tmp_path, random.Random(f"7/{number}"), number)
    assert judge(case, tmp_path).outcome == "accepted"
    path = case.out / "eval/predictions-theta.jsonl"
    rows = read_rows(path)
    changes = {"prompt": rows[0]["prompt"] + "!", "loss": rows[0]["loss"] * 1.01}
    for key in ("prompt", "loss") if number == 2 else ("prompt",):
        write_rows(path, [{**rows[0], key: changes[key]}, *rows[1:]])
        assert case.check("") != ""
    write_rows(path, rows)
    assert case.check("") == ""


def test_it_is_large_enough() -> None:
    assert sum(map(count, TARGETS)) >= 600


def test_the_same_seed_spoils_the_same(world: World) -> None:
    for target in ("data_files", "models"):
        one, other, another = (run_case(world, target, seed, count(target) - 1)[0].name for seed in (0, 0, 1))
        assert one == other != another


RIGHT = ["validate", "--model", "m", "--task", "sst2", "--method", "mezo", "--output-dir", "out"]


@pytest.mark.parametrize(
    ("args", "expect", "names", "outcome", "why"),
    [
        (RIGHT, "either", (), "accepted", ""),
        (RIGHT, "refused", (), "fault", "accepted without a word"),
        ([*RIGHT, "train.seed=x"], "refused", ("train.seed",), "clear", ""),
        ([*RIGHT, "train.seed=x"], "accepted", ("train.seed",), "fault", "refused: "),
        ([*RIGHT, "train.seed=x"], "refused", ("model.name",), "fault", "names none of model.name"),
    ],
)
def test_outcomes(args: list[str], expect: str, names: tuple[str, ...], outcome: str, why: str, tmp_path: Path) -> None:
    verdict = judge(Case("", args, names, tmp_path / "out", expect), tmp_path)  # type: ignore[arg-type]
    assert verdict.outcome == outcome
    assert verdict.why.startswith(why)


def test_faults_of_the_judged_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug, a hang, files left behind, an input that is changed, a line that steers the terminal."""
    from tests.fuzz import case as fuzz

    (tmp_path / "rows").write_text("a")

    def of(work: object) -> str:
        monkeypatch.setattr(fuzz.cli, "run", work)
        return judge(Case("", [], ("x",), tmp_path / "out"), tmp_path).why

    def says(line: str, code: int) -> object:
        import typer

        return lambda args: typer.echo(f"error: {line}", err=True) or code

    def leaves(args: list[str]) -> int:
        (tmp_path / "out").mkdir(exist_ok=True)
        return says("x: no", 2)(args)  # type: ignore[operator]

    def changes(args: list[str]) -> int:
        (tmp_path / "rows").write_text("other")
        return says("x: no", 2)(args)  # type: ignore[operator]

    def leaves_by_a_relative_name(args: list[str]) -> int:
        Path("{{ 7 * 7 }}").mkdir(exist_ok=True)
        Path("{{ 7 * 7 }}", "run.json").touch()
        return says("x: no", 2)(args)  # type: ignore[operator]

    def raises(args: list[str]) -> int:
        raise KeyError("a")

    def hangs(args: list[str]) -> int:
        while True:
            pass

    assert of(says("KeyError: 'a' (this is a bug or a missing check)", 1)).startswith("says a bug")
    assert of(says("x: went wrong", 1)).startswith("exit code 1")
    assert of(says("x: \x07", 2)).startswith("control characters")
    assert of(says("x" * 2000, 2)).startswith("a line of 2000 characters")
    assert of(says("x: no", 2)) == ""
    assert of(raises).startswith("escapes: KeyError")
    assert of(changes).startswith("changes ")
    assert of(leaves_by_a_relative_name).endswith("here/{{ 7 * 7 }}/run.json")
    assert of(leaves) == "is refused and leaves files"
    monkeypatch.setattr(fuzz, "SECONDS", 0.2)
    assert of(hangs).startswith("hangs at ")
