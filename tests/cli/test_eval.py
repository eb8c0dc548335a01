"""`zofo eval` as a user meets it: on a run, an export, a PEFT directory and a plain model; its files and its faults."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests import forked
from tests.conftest import make_tokenizer, read_rows, write_rows
from tests.family_runs import save_family
from zofo import evaluate, finetune
from zofo.cli import main as cli

WORDS = ("dull", "warm", "stale", "funny", "clumsy", "clever", "awful", "moving")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model, data of sst2, one trained run with a LoRA, its export, and PEFT's directory alone beside its backbone."""
    root = tmp_path_factory.mktemp("eval")
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 512
    save_family("llama", root, tokenizer, positions=512).rename(root / "model")
    for name, n in (("train", 16), ("validation", 4), ("test", 6)):
        rows = [{"sentence": f"{name} {i} is {WORDS[i % 8]}", "label": i % 2} for i in range(n)]
        write_rows(root / "data" / f"{name}.jsonl", rows)
    method = {"name": "bilevel-zofo", "inner_steps": 1, "lr_s": 1e-2, "lr_theta": 1e-4}
    run = finetune(
        str(root / "model"),
        "sst2",
        method,
        "lora",
        output_dir=root / "run",
        max_steps=4,
        batch_size=4,
        eval_steps=4,
        save_steps=4,
        overrides=[f"task.data={root / 'data'}", "model.device=cpu"],
    )
    run.export(root / "export", merge=False)
    run.export(root / "merged", merge=True)
    shutil.copytree(root / "export", root / "peft", ignore=shutil.ignore_patterns("zofo.json", "manifest.json"))
    return root


def test_files_of_an_evaluation(root: Path, tmp_path: Path) -> None:
    args = [
        "eval",
        root / "model",
        "--task",
        "sst2",
        "--data",
        root / "data",
        "--num-fewshot",
        "2",
        "task.scoring=calibrated",
        "task.fewshot=fixed",
        "--output",
        f"{tmp_path / 'new' / 'out'}/",
    ]
    done = forked.run(forked.zofo_main, *map(str, args))
    assert done.returncode == 0, done.stderr
    out = tmp_path / "new" / "out"
    assert sorted(path.name for path in out.iterdir()) == ["predictions.jsonl", "report.json", "results.json"]
    result, predictions = json.loads(done.stdout), read_rows(out / "predictions.jsonl")
    recorded = json.loads((out / "results.json").read_text())
    assert recorded == {**recorded, **result}
    assert {"task", "task_version", "template", "split", "seed", "model"} <= recorded.keys()
    assert (recorded["num_fewshot"], recorded["scoring"]) == (2, "calibrated")
    assert set(result) == {"loss", "n", "accuracy"}
    assert len(predictions) == result["n"] == 6
    assert all(row["prompt"].startswith("two hours of rain on a window") for row in predictions)
    assert all(row["prompt"].count("\n\n") == 2 for row in predictions)
    report = json.loads((out / "report.json").read_text())
    assert report["accuracy"] == result["accuracy"] == sum(row["correct"] for row in predictions) / 6
    expected = evaluate(
        root / "model", task="sst2", data=str(root / "data"), num_fewshot=2, scoring="calibrated", fewshot="fixed"
    )
    assert result == pytest.approx(expected, rel=1e-5)
    sums = tmp_path / "sums.jsonl"
    evaluate(
        root / "model", task="sst2", data=str(root / "data"), num_fewshot=2, scoring="sum", fewshot="fixed", output=sums
    )
    less = [[a - b for a, b in zip(one["scores"], two["scores"])] for one, two in zip(read_rows(sums), predictions)]
    assert all(each == pytest.approx(less[0], abs=1e-4) for each in less), "one prompt without input for all"


def test_a_misspelt_setting(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    base = ["eval", str(root / "model"), "--task", "sst2", "--data", str(root / "data")]
    assert cli.run([*base, "task.skoring=sum"]) == 2
    assert capsys.readouterr() == ("", 'error: task.skoring: unknown field; did you mean "scoring"?\n')


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        (
            ["task.scoring=summ"],
            ['task.scoring: expected one of "mean", "sum", "characters", "calibrated", "pmi", got'],
        ),
        (["model.dtpe=float16"], ['model.dtpe: unknown field; did you mean "dtype"?']),
        (["model.dtype=half"], ['model.dtype: expected one of "auto", "float32", "bfloat16", "float16", got "half"']),
        (
            ["train.seed=1", "estimator.eps=3"],
            [
                f"{key}: an evaluation takes task.key=value and model.key=value alone"
                for key in ("estimator.eps", "train.seed")
            ],
        ),
        (["modle.x=1"], ['modle.x: unknown section; did you mean "model"?']),
        (["scoring"], ['scoring: expected "section.key=value"']),
        (["--num-fewshot", "-1"], ["task.num_fewshot: must be >= 0, got -1"]),
        (["--num-fewshot", "99"], ["task.num_fewshot: 99 demonstrations, and 16 answered examples to take them from"]),
        (["task.template=plane"], ['task.template: sst2.yaml: no template "plane"; did you mean "plain"?; known']),
        (["--split", "valid"], ["split: unknown 'valid'; known: train, dev, test"]),
        (["--adapter", "p"], ["{root}/model is no run, so it has no adapters to choose from"]),
    ],
)
def test_every_fault_is_a_line(
    settings: list[str], found: list[str], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    base = ["eval", str(root / "model"), "--task", "sst2", "--data", str(root / "data")]
    assert cli.run([*base, *settings]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == len(found)
    for line, start in zip(sorted(said), sorted(found)):
        assert line.startswith("error: " + start.format(root=root))


def test_what_generates_is_not_scored_as_options(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["eval", str(root / "model"), "--task", "squad", "task.scoring=sum"]) == 2
    assert "task.scoring: squad has no options to score; leave it out" in capsys.readouterr().err


def test_a_run_its_export_peft_and_the_base_model(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run and its export know their task; the others are told. All of the tuned ones say the same."""
    told = ["--task", "sst2", "--data", str(root / "data")]

    def result(*args: str) -> dict[str, float]:
        capsys.readouterr()
        assert cli.run(["eval", *args]) == 0
        return json.loads(capsys.readouterr().out)

    run = result(str(root / "run"))
    recorded = json.loads((root / "run" / "run.json").read_text())
    assert run == pytest.approx(recorded["test"][recorded["deployed"]], rel=1e-5)
    for name, more in (("run", told), ("export", []), ("merged", []), ("export", told), ("peft", told)):
        assert result(str(root / name), *more) == pytest.approx(run, rel=1e-4), name
    base = result(str(root / "model"), *told)
    assert base["loss"] != pytest.approx(run["loss"], rel=1e-4)
    assert result(str(root / "run"), "--adapter", "theta")["loss"] != pytest.approx(run["loss"], rel=1e-5)
    few = result(str(root / "run"), "--num-fewshot", "1", "--limit", "3", "--split", "dev")
    assert few["n"] == 3
    assert cli.run(["eval", str(root / "peft")]) == 2
    assert f"{root / 'peft'} is no run, so it names no task: give --task" in capsys.readouterr().err
