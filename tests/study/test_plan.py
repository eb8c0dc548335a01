"""A sweep's plan: rows of its axes, points of its trials, faults before anything runs, the plans that are there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT, sentiment_rows, write_rows
from zofo.config import registry
from zofo.errors import InputError
from zofo.study.plan import Plan
from zofo.study.plan_check import check, config_of
from zofo.study.plan_read import read_plan

SHORT = """\
model: model
task: {name: rows.jsonl}
methods: [mezo, fo-peft]
adapters: [lora, prefix]
search: {method.lr: [1e-5, 1e-3]}
seeds: [0, 1, 2]
train: {max_steps: 100, eval_steps: 50, batch_size: 4}
"""


@pytest.fixture
def folder(tmp_path: Path, tiny_model_dir: Path) -> Path:
    (tmp_path / "model").symlink_to(tiny_model_dir)
    write_rows(tmp_path / "rows.jsonl", sentiment_rows(40))
    return tmp_path


def plan_of(folder: Path, content: str | dict[str, Any], **options: Any) -> Plan:
    path = folder / "plan.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return read_plan(path, **options)


def points(plan: Plan) -> dict[str, list[dict[str, Any]]]:
    return {row.name: [dict(point) for point in row.points] for row in plan.rows}


def faults(folder: Path, content: str | dict[str, Any], **options: Any) -> list[str]:
    with pytest.raises(InputError) as error:
        check(plan_of(folder, content, **options), folder / "study")
    return str(error.value).split("\n")


def test_seven_lines_are_methods_adapters_rates_and_seeds(folder: Path) -> None:
    plan = plan_of(folder, SHORT)
    rates = [{"method.lr": 1e-5}, {"method.lr": 1e-3}]
    assert points(plan) == {"mezo": rates, "fo-peft-lora": rates, "fo-peft-prefix": rates}
    assert plan.runs == 3 * (2 + 2)
    configs = check(plan, folder / "study")
    assert configs["mezo"].adapter is None
    assert configs["fo-peft-prefix"].names["adapter"] == "prefix"
    assert configs["mezo"].train.max_steps == 100
    config = config_of(plan, plan.row("mezo"), rates[1], folder / "out", 2, score_test=False)
    assert (config.method.lr, config.train.seed, config.train.score_test) == (1e-3, 2, False)
    assert config.train.output_dir == str(folder / "out")
    assert config.model.name == str(folder / "model"), "a path is taken from the plan's folder"


def test_each_axis_has_settings_and_a_search_of_its_own(folder: Path) -> None:
    content = {
        "model": "model",
        "tasks": {"rows.jsonl": {"task.train_examples": 8}, "sst2": "rows.jsonl"},
        "adapters": {"lora": {"adapter.r": 4}},
        "methods": {
            "mezo": {"adapters": ["none", "lora"], "train.max_steps": 50},
            "q4": {"method.name": "mezo", "estimator.q": 4, "forwards": 8},
            "bilevel-zofo": {},
        },
        "search": {"mezo": {"method.lr": [1e-6]}, "bilevel-zofo": {"method.lr_s": [1e-3, 1e-2], "method.lam": [1, 10]}},
        "shared": {"train.max_steps": 100, "train.eval_steps": 10},
    }
    plan = plan_of(folder, content)
    names = ["mezo-none", "mezo-lora", "q4", "bilevel-zofo"]
    assert [row.name for row in plan.rows] == [f"{task}-{name}" for task in ("rows.jsonl", "sst2") for name in names]
    rows = {row.name.partition("-")[2]: row for row in plan.rows[:4]}
    assert (rows["mezo-lora"].settings["adapter.r"], "adapter.r" in rows["mezo-none"].settings) == (4, False)
    assert [rows[name].settings["train.max_steps"] for name in names] == [50, 50, 25, 100]
    assert rows["q4"].settings["train.eval_steps"] == 2, "evaluations at the same shares of fewer steps"
    assert [rows[name].trials for name in names] == [1, 1, 1, 4]
    assert rows["bilevel-zofo"].points[1] == {"method.lr_s": 1e-3, "method.lam": 10}
    assert plan.rows[4].settings["task.data"] == "rows.jsonl"


def test_rows_written_out_their_trials_and_what_is_like_a_chosen_one(folder: Path) -> None:
    content = {
        "model": "model",
        "task": "rows.jsonl",
        "seeds": [5, 6],
        "shared": {"train.max_steps": 100},
        "rows": {
            "a": {"method.name": "mezo", "trials": [{"method.lr": 1e-6}, {}]},
            "b": {"method": "zero-shot", "seeds": [0]},
        },
        "extra": [{"name": "longer", "like": "a", "change": {"train.max_steps": 200}}],
        "reduced": {"seeds": [5], "trials": [1], "shared": {"train.max_steps": 2}},
    }
    plan = plan_of(folder, content)
    assert points(plan) == {"a": [{"method.lr": 1e-6}, {}], "b": [{}], "longer": [{}]}
    assert [row.seeds for row in plan.rows] == [(5, 6), (0,), (5,)]
    longer = config_of(plan, plan.row("longer"), {"method.lr": 1e-3}, folder / "out", 5)
    assert (longer.method.lr, longer.train.max_steps) == (1e-3, 200)
    short = plan_of(folder, content, reduced=True)
    assert points(short)["a"] == [{}]
    assert (short.row("a").settings["train.max_steps"], short.row("a").seeds) == (2, (5,))
    assert short.digest() != plan.digest()
    assert [row.name for row in plan_of(folder, content, only=["longer"]).rows] == ["a", "longer"]


def test_random_points_are_of_the_seed_and_the_number_alone(folder: Path) -> None:
    content = yaml.safe_load(SHORT) | {"sampler": "random", "trials": 5}
    content["search"] = {"method.lr": {"low": 1e-6, "high": 1e-2, "log": True}, "train.batch_size": [2, 4]}
    plan, longer = plan_of(folder, content), plan_of(folder, content | {"trials": 9})
    assert points(longer)["mezo"][:5] == points(plan)["mezo"] != points(plan)["fo-peft-lora"]
    assert all(1e-6 <= point["method.lr"] <= 1e-2 for point in points(longer)["mezo"])
    assert sum(point["method.lr"] < 1e-4 for point in points(longer)["mezo"]) in range(1, 9), "evenly in the logarithm"
    assert points(plan_of(folder, content | {"seed": 1}))["mezo"] != points(plan)["mezo"]
    few = plan_of(folder, content | {"search": {"method.lr": [1e-3, 1e-4, 1e-5]}})
    assert sorted(point["method.lr"] for point in points(few)["mezo"]) == [1e-5, 1e-4, 1e-3], "none twice"


def test_every_fault_is_said_before_anything_runs(folder: Path) -> None:
    content = (
        SHORT.replace("adapters:", "adaptors:").replace("batch_size: 4", "batch_size: 4, seed: 3") + "samplr: tpe\n"
    )
    lines = faults(folder, content)
    assert [line.partition("plan.yaml: ")[2] for line in lines] == [
        'unknown key "adaptors"; did you mean "adapters"?',
        'unknown key "samplr"; did you mean "sampler"?',
        "train.seed: leave it out; give seeds: [0, 1, 2]",
    ]
    content = SHORT.replace("fo-peft", "fo-pef").replace("batch_size", "batch_sise").replace("lora, prefix", "lora")
    lines = faults(folder, content.replace("method.lr", "method.rl"))
    assert any("row fo-pef: method.name" in line and 'did you mean "fo-peft"?' in line for line in lines)
    assert any(line.startswith("plan plan.yaml, every row: train.batch_sise: ") for line in lines)
    assert any("row mezo: method.rl: " in line for line in lines)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"search": {"method.lr": {"low": 1e-6, "high": 1e-3}}}, "a grid needs [values]"),
        ({"sampler": "random"}, "sampler random needs how many"),
        ({"sampler": "tpee"}, 'did you mean "tpe"?'),
        ({"trials": 7}, "the grid of mezo has 2 points"),
        ({"search": {"mezzo": {"method.lr": [1]}}}, 'did you mean "mezo"?'),
        ({"search": {"methd.lr": [1]}}, 'did you mean "method"?'),
        ({"seeds": [0, 0]}, "expected different whole numbers"),
        ({"methods": {"a/b": {"method.name": "mezo"}}}, "no name of a directory"),
        ({"extra": [{"name": "x", "like": "mezoo", "change": {}}]}, 'did you mean "mezo"?'),
        ({"methods": {"mezo": {"forwards": 0}}}, "expected a number above 0"),
        ({"methods": []}, "methods: required"),
        ({"shared": 3}, "shared: expected a mapping"),
        ({"prune": "yes"}, "prune: expected true or false"),
    ],
)
def test_a_plan_that_is_none(change: dict[str, Any], message: str, folder: Path) -> None:
    assert any(message in line for line in faults(folder, yaml.safe_load(SHORT) | change))


def test_the_command_line_goes_over_the_plan(folder: Path) -> None:
    (folder / "rows").mkdir()
    content = SHORT.replace("rows.jsonl", "sst2").replace("model: model\n", "")
    plan = plan_of(
        folder, content, model="model", data="rows", overrides=["train.max_steps=7", "task.train_examples=9"]
    )
    for row in plan.rows:
        assert (row.settings["train.max_steps"], row.settings["task.train_examples"]) == (7, 9)
        assert row.settings["task.data"] == str(folder / "rows")
    assert "max_steps: 7" in plan.text, "what is kept is what is run"
    (folder / "rows" / "sst2").mkdir()
    plan = plan_of(folder, content, data="rows")
    assert plan.rows[0].settings["task.data"] == str(folder / "rows" / "sst2")
    with pytest.raises(InputError, match=r'no row "mez"; did you mean "mezo"'):
        plan_of(folder, content, only=["mez"])
    with pytest.raises(InputError, match="has no short form"):
        plan_of(folder, content, reduced=True)


OF_OTHER_SCRIPTS = {
    "federated_plan",
    "half_batch_smollm2",
    "meta_smollm2",
    "signal_map_smollm2",
    "tasks_smollm2",
}  # experiments that are no sweeps
EXPERIMENTS = [p for p in sorted((ROOT / "experiments").glob("*.yaml")) if p.stem not in OF_OTHER_SCRIPTS]
REDUCED = [*registry.names("plans"), *(str(path) for path in EXPERIMENTS if "\nreduced:" in path.read_text("utf-8"))]


@pytest.mark.parametrize(
    ("name", "reduced"),
    [(name, False) for name in (*registry.names("plans"), *map(str, EXPERIMENTS))] + [(name, True) for name in REDUCED],
)
def test_every_run_of_our_plans_is_a_configuration(name: str, reduced: bool, folder: Path) -> None:
    content = Path(name).read_text("utf-8") if name.endswith(".yaml") else ""
    rows_here = ["task.name=sst2"] if "movie-reviews" in content else []  # the other's come with the quick start
    plan = read_plan(name, model=str(folder / "model"), reduced=reduced, overrides=rows_here)
    configs = check(plan, folder / "study")
    assert set(configs) == {row.name for row in plan.rows}


def test_adapters_beside_one_method_are_its_rows(folder: Path) -> None:
    base = {"model": "model", "task": {"name": "rows.jsonl"}, "adapters": ["lora", "prefix"], "seeds": [0]}
    for method in ("fo-peft", {"name": "fo-peft", "optimizer": "sgd"}):
        plan = plan_of(folder, {**base, "method": method, "search": {"lora": {"method.lr": [1e-3, 1e-2]}}})
        assert {row.name: row.trials for row in plan.rows} == {"lora": 2, "prefix": 1}
        configs = check(plan, folder / "study")
        assert {name: config.names["adapter"] for name, config in configs.items()} == {
            "lora": "lora",
            "prefix": "prefix",
        }
    assert [row.name for row in plan_of(folder, {**base, "preset": "quickstart"}).rows] == ["lora", "prefix"]
    for method in ({"method": "mezo"}, {"methods": ["mezo", "fo-ft"]}):
        (fault,) = faults(folder, {**base, **method})
        assert "adapters: no method of the plan takes one" in fault


def test_every_layer_of_faults_is_said_at_once(folder: Path) -> None:
    search = {"fo-peft-lora": {"method.lr": [1e-3]}, "fo-peft-prefix": {"method.lr": [1e-3]}}
    content = {"model": "model", "task": {"name": "rows.jsonl"}, "methods": ["fo-peft"], "search": search}
    found = faults(folder, {**content, "adapters": ["lora", "prefx"], "train": {"eval_step": 50}, "task_examples": 9})
    text = "\n".join(found)
    assert 'no "section.field", and no method or row' in text
    assert "prefx" not in next(line for line in found if "search:" in line), "no typo is offered"
    assert 'did you mean "prefix"' in text
    assert 'did you mean "eval_steps"' in text
    assert re.search(r'unknown key "task_examples"; did you mean task\.(train|dev|test)_examples, as in shared:', text)
    (fault,) = faults(folder, {**content, "search": {}, "adapters": ["lora"], "max_steps": 9})
    assert "did you mean train.max_steps, as in shared: {train.max_steps: ...} or train: {max_steps: ...}?" in fault


@pytest.mark.parametrize("key", ["sampler: random", "trials: 4", "prune: true"])
def test_a_key_without_effect_is_refused(key: str, folder: Path) -> None:
    without = SHORT.replace("search: {method.lr: [1e-5, 1e-3]}", key)
    assert any("nothing is searched" in fault for fault in faults(folder, without))
