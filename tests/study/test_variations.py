"""Ablations and prompt sensitivity: the plans that are made, and one of each run to its table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import sentiment_rows, write_rows
from zofo import InputError, resolve
from zofo.cli import main as cli
from zofo.config.resolve import Config
from zofo.study.compare import compare
from zofo.study.plan_check import check
from zofo.study.variations import BASE, ablation, sensitivity


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", sentiment_rows(40))


def config(model: Path, rows: Path, method: str = "bilevel-zofo", adapter: str | None = "lora") -> Config:
    train: dict[str, Any] = {"output_dir": "x", "max_steps": 44, "batch_size": 2}
    return resolve(None, [], None, model=str(model), task=str(rows), method=method, adapter=adapter, train=train)


def test_every_usual_ablation_is_a_configuration(tiny_model_dir: Path, rows: Path, tmp_path: Path) -> None:
    plan = ablation(config(tiny_model_dir, rows), [], [0, 1], "a")
    names = [row.name for row in plan.rows]
    assert names[0] == BASE
    assert {"lam-1", "lam-100", "inner_steps-5", "inner_steps-20", "p_steps-5", "independent_z-True"} <= set(names)
    assert {"law-gaussian", "law-sphere", "eps-0.0001", "eps-0.01", "q-4"} <= set(names)
    configs = check(plan, tmp_path)
    base, lam, p_steps = (configs[name] for name in (BASE, "lam-100", "p_steps-5"))
    differing = {
        f"{section}.{key}"
        for section, fields in base.to_dict().items()
        for key, value in fields.items()
        if lam.to_dict()[section][key] != value
    }
    assert differing == {"method.lam", "train.output_dir"}, "all else is equal"
    assert (p_steps.names["method"], vars(p_steps.method)["p_steps"]) == ("bilevel-ablations", 5)
    for method in ("mezo", "fo-ft", "sparse-mezo"):
        assert len(check(ablation(config(tiny_model_dir, rows, method, None), [], [0], "a"), tmp_path)) > 2


def test_an_ablation_is_run_and_compared(
    tiny_model_dir: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["ablate", "--model", str(tiny_model_dir), "--task", str(rows), "--method", "mezo", "--seeds", "0,1"]
    args += ["--vary", "estimator.q=2,3", "--output-dir", str(tmp_path / "s"), "--no-estimate", "train.max_steps=1"]
    assert cli.run([*args, "train.batch_size=2"]) == 0
    found = compare([tmp_path / "s"], against=BASE)
    assert set(found.rows) == {BASE, "q-2", "q-3"}
    assert found.seeds == 2
    capsys.readouterr()
    assert cli.run([*args, "train.batch_size=2"]) == 0, "given again, nothing is run"
    assert "trains" not in capsys.readouterr().err


def test_templates_by_methods(tiny_model_dir: Path, rows: Path, tmp_path: Path) -> None:
    every = {
        name: config(tiny_model_dir, rows, name, "lora" if name == "fo-peft" else None)
        for name in ("zero-shot", "fo-peft", "mezo")
    }
    plan = sensitivity(every, [], [0], "s")
    assert [row.name for row in plan.rows] == [
        f"{name}-{template}" for name in every for template in ("default", "plain")
    ]
    configs = check(plan, tmp_path)
    assert configs["mezo-plain"].task.template == "plain"
    assert "adapter" in configs["fo-peft-default"].names
    train: dict[str, Any] = {"output_dir": "x"}
    write_rows(tmp_path / "sst2" / "train.jsonl", [{"sentence": f"film {i}", "label": i % 2} for i in range(40)])
    known = resolve(
        None,
        [f"task.data={tmp_path / 'sst2'}"],
        None,
        model=str(tiny_model_dir),
        task="sst2",
        method="mezo",
        train=train,
    )
    names = [row.name for row in sensitivity({"mezo": known}, [], [0], "s").rows]
    assert names == ["mezo-default", "mezo-plain", "mezo-review"]
    with pytest.raises(InputError, match='did you mean "review"'):
        sensitivity({"mezo": known}, ["revue"], [0], "s")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--vary", "lam"], "expected section.field=value,value"),
        (["--vary", "method.lamb=1"], 'did you mean "lam"'),
        (["--seeds", "1,1"], "expected different numbers"),
        (["--seeds", "a"], "as in 0,1,2"),
    ],
)
def test_what_is_refused(
    args: list[str],
    expected: str,
    tiny_model_dir: Path,
    rows: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["--model", str(tiny_model_dir), "--task", str(rows), "--method", "bilevel-zofo", "--adapter", "lora"]
    assert cli.run(["ablate", *given, *args, "--output-dir", str(tmp_path / "s")]) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "s").exists()
