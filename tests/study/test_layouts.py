"""The papers' layouts: each number beside the files' own, what is missing is named."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from zofo import InputError
from zofo.api.metatest.results import summary
from zofo.cli import main as cli
from zofo.study.compare import compare
from zofo.study.layouts import LAYOUTS, lay_out
from zofo.study.results import FORMAT
from zofo.study.tables import Table

TASKS = ("boolq", "copa")


def file(folder: Path, name: str, task: str, seed: int, value: float, **settings: Any) -> None:
    """A kept file of 100 test examples, of which the first value * 100 are right."""
    folder.mkdir(exist_ok=True)
    test = {"accuracy": value, "loss": 1 - value, "n": 100}
    info: dict[str, Any] = {
        "task": task,
        "deployed": "p",
        "metric": "accuracy",
        "test": {"p": test},
        "dev": {"p": test},
    }
    info |= {"steps": {"upper": 10}, "examples_seen": 40, "backward_passes": 1, "seconds": 3.0}
    info |= {"seconds_per_step": 0.1 + seed / 100, "peak_bytes": 2**30, "parameters": {"theta": 9, "adapter": 1234}}
    info |= {"study": {"row": name, "label": name}, "environment": {"device_name": "one"}}
    outcomes = {"p": [[f"{task}/{i}", float(i < round(100 * value)), 1 - value] for i in range(100)]}
    own = {"train.seed": seed, "train.batch_size": 4, "task.name": task, "model.name": "a/b", **settings}
    content = {"format": FORMAT, "settings": own, "info": info, "trials": 3, "events": [], "outcomes": outcomes}
    (folder / f"{name}-{task}-{seed}.json").write_text(json.dumps(content))


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in line] for line in table.rows]


def test_modes_are_each_trainers_adapters_and_their_average(tmp_path: Path) -> None:
    values = {("mezo", None): (0.5, 0.6), ("mezo", "lora"): (0.7, 0.4), ("fo-peft", "lora"): (0.9, 0.8)}
    for (method, adapter), pair in values.items():
        for task, value in zip(TASKS, pair):
            for seed in range(3):
                given = {"method.name": method, "adapter.name": adapter}
                file(tmp_path / "s", f"{method}-{adapter}", task, seed, value + (seed - 1) / 100, **given)
    table = lay_out(compare([tmp_path / "s"], against="mezo-lora"), "modes")
    assert list(table.head) == ["trainer", "mode", "boolq (accuracy)", "copa (accuracy)", "average"]
    lines = {(line[0], line[1]): line[2:] for line in texts(table)}
    assert lines["mezo", "ft"] == ["50.0 ± 1.0", "60.0 ± 1.0", "55.0"]
    assert lines["mezo", "lora"] == ["70.0 ± 1.0", "40.0 ± 1.0", "55.0"]
    assert lines["mezo", "average"] == ["60.0", "50.0", "55.0"]
    assert lines["fo-peft", "lora"] == ["90.0 ± 1.0", "80.0 ± 1.0", "85.0"]
    assert ("fo-peft", "average") not in lines, "of one mode there is no average"
    assert [cell.text for line in table.rows for cell in line if cell.best] == ["90.0 ± 1.0", "80.0 ± 1.0"]
    assert table.notes == ["underpowered: 3 seeds in a cell; with fewer than five, only large differences can be shown"]


def test_prompts_are_paired_by_method_task_and_seed(tmp_path: Path) -> None:
    for method, pair in {"mezo": (0.8, 0.5), "bilevel-zofo": (0.9, 0.89)}.items():
        for template, value in zip(("default", "plain"), pair):
            for seed in range(5):
                given = {"method.name": method, "adapter.name": "lora", "task.template": template}
                file(tmp_path / "s", f"{method}-{template}", "sst2", seed, value + seed % 2 / 100, **given)
    table = lay_out(compare([tmp_path / "s"]), "prompts")
    lines = {line[0]: line[1:] for line in texts(table)}
    assert lines["mezo lora"][:5] == ["sst2", "default", "80.4 ± 0.5", "50.4 ± 0.5", "-30.0"]
    assert lines["bilevel-zofo lora"][4] == "-1.0 ~", "one example in a hundred is noise of the examples"
    (tmp_path / "s" / "mezo-plain-sst2-0.json").unlink()
    (tmp_path / "one").mkdir()
    with pytest.raises(InputError, match=r"task.template=plain"):
        lay_out(compare(sorted((tmp_path / "s").glob("*-default-*.json"))), "prompts")


def test_stages(tmp_path: Path) -> None:
    rows = {"bilevel-zofo": 0.8, "two-stage-1e-3": 0.5, "two-stage-1e-6": 0.74, "stage-1": 0.75}
    for name, value in rows.items():
        method = {"stage-1": "fo-peft"}.get(name, name.partition("-1e")[0])
        given = {"method.name": method, "adapter.name": "prompt"}
        given |= {"method.lr_theta": float(name.removeprefix("two-stage-"))} if "two" in name else {}
        file(tmp_path / "s", name, "copa", 0, value, **given)
    table = lay_out(compare([tmp_path / "s"]), "stages")
    assert texts(table) == [
        ["two-stage pipeline", "after stage 1", "75.0"],
        ["two-stage pipeline", "after stage 2 (lr 0.001)", "50.0"],
        ["two-stage pipeline", "after stage 2 (lr 1e-06)", "74.0"],
        ["bilevel-zofo", "-", "80.0"],
    ]
    with pytest.raises(InputError, match="no run of method two-stage"):
        lay_out(compare([tmp_path / "s" / "stage-1-copa-0.json"]), "stages")


def test_what_runs_took(tmp_path: Path) -> None:
    for seed in range(3):
        for method, adapter in {"mezo": None, "fo-peft": "prefix"}.items():
            file(tmp_path / "s", method, "wsc", seed, 0.5, **{"method.name": method, "adapter.name": adapter})
    found = compare([tmp_path / "s"])
    spread = statistics.stdev([0.10, 0.11, 0.12])
    assert texts(lay_out(found, "seconds")) == [["wsc", *[f"0.110 ± {spread:.3f}"] * 2]]
    assert texts(lay_out(found, "memory")) == [["wsc", "1.00 ± 0.00", "1.00 ± 0.00"]]
    assert texts(lay_out(found, "parameters")) == [["a/b", "1,234"]]
    with pytest.raises(InputError, match="no run has an adapter"):
        lay_out(compare(sorted((tmp_path / "s").glob("mezo-*"))), "parameters")


def test_every_layout_by_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for template in ("default", "plain"):
        for method, adapter in {"mezo": None, "two-stage": "lora"}.items():
            given = {"method.name": method, "adapter.name": adapter, "task.template": template, "method.lr_theta": 1e-4}
            file(tmp_path / "s", f"{method}-{template}", "sst2", 0, 0.75, **given)
    for layout in LAYOUTS:
        for form in ("markdown", "csv", "latex", "json"):
            assert cli.run(["compare", str(tmp_path / "s"), "--layout", layout, "--format", form]) == 0
            out = capsys.readouterr().out
            assert "75.0" in out or layout in ("seconds", "memory", "parameters")
    assert cli.run(["compare", str(tmp_path / "s"), "--layout", "mode"]) == 2
    assert '"mode"; did you mean "modes"' in capsys.readouterr().err
    assert cli.run(["compare", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in LAYOUTS)


def test_meta_tests_are_ways_by_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for setting, shift in {"class-to-class": 0.0, "qa-to-qa": 0.1}.items():
        parts = [
            {
                "way": way,
                "seed": seed,
                "task": task,
                "metric": "macro_f1",
                "value": base + shift,
                "seconds": 1.0,
                "n": 10,
            }
            for way, base in {"zero-shot": 0.3, "tuned": 0.45}.items()
            for seed in range(5)
            for task in ("t1", "t2")
        ]
        folder = tmp_path / setting
        folder.mkdir()
        (folder / "results.json").write_text(json.dumps({"setting": setting, "ways": summary(parts)}))
        (folder / "plan.json").write_text("{}")
    both = [str(tmp_path / "class-to-class"), str(tmp_path / "qa-to-qa")]
    assert cli.run(["compare", *both]) == 0
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert ["way", "class-to-class", "qa-to-qa"] in lines
    assert ["zero-shot", "30.0 (0.0)", "40.0 (0.0)"] in lines
    assert ["tuned", "**45.0 (0.0)**", "**55.0 (0.0)**"] in lines
    assert cli.run(["compare", *both, "--layout", "modes"]) == 2
    assert "--layout: is for runs" in capsys.readouterr().err
