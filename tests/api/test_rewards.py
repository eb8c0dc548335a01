"""A reward as theta's objective and as a measure, on all that is written; its file runs where this command names it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import read_rows, write_rows
from tests.family_runs import save_family
from zofo import InputError, evaluate, export, finetune, generate, load, predict, resolve, train
from zofo.cli import main as cli
from zofo.config.yaml_reader import dump

LENGTH = """
from pathlib import Path
with (Path(__file__).parent / "marker").open("a", encoding="utf-8") as marker:
    marker.write("run ")
def length(completions, **columns):
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [-abs(len(text) - 20) for text in texts]
"""
TRAINED: dict[str, Any] = {"max_steps": 4, "batch_size": 4, "eval_steps": 2, "save_steps": 2, "threads": 1}
WRITES = ["task.max_new_tokens=6", "estimator.shift=copy", "estimator.eps=0.01", "task.objective=metric"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One that says other words when its weights are shifted."""
    return str(save_family("llama-untied", tmp_path_factory.mktemp("model"), initializer_range=0.3))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.py").write_text(LENGTH, encoding="utf-8")
    write_rows(tmp_path / "asks.jsonl", [{"prompt": f"Say {i}!", "n": i} for i in range(24)])
    return tmp_path


def trained(model: str, out: str = "out", metric: Any = "my.py:length", task: str = "asks.jsonl", **more: Any) -> Any:
    overrides = [*WRITES, *more.pop("overrides", [])]
    return finetune(
        model,
        task,
        more.pop("method", "mezo"),
        **{**TRAINED, **more},
        metric=metric,
        output_dir=out,
        overrides=overrides,
    )


def test_prompts_alone_are_trained_on_measured_and_gone_on_with(
    model: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No loss is anywhere; the best is chosen by the reward; what eval measures is what the run measured."""
    run = trained(model)
    assert set(run.test) == set(run.dev) == {"length", "n"}
    info = json.loads((here / "out/run.json").read_text())
    assert info["metric"] == info["inputs"]["reward"]["function"] == "length"
    rows = read_rows(here / "out/eval/predictions-theta.jsonl")
    assert all(row["length"] == -abs(len(row["generated"][0]) - 20) and "loss" not in row for row in rows)
    losses = [row for row in read_rows(here / "out/metrics.jsonl") if row["event"] == "train"]
    assert all(row["loss"] == pytest.approx(-round(-row["loss"] * 4) / 4) for row in losses)  # a mean of four lengths
    assert evaluate("out", overrides=["task.metric=my.py:length"]) == run.test
    other: dict[str, Any] = {
        "task": "asks.jsonl",
        "metric": "my.py:length",
        "split": "dev",
    }  # rows of its own, as long as the run's
    evaluate("out", **other, output="other.jsonl")
    assert max(len(row["generated"][0]) for row in read_rows(here / "other.jsonl")) < 60, "six tokens, not fifty"
    best = max(row["length"] for row in read_rows(here / "out/metrics.jsonl") if row["event"] == "dev")
    assert run.dev["length"] == best
    assert "no answer: what is written is rewarded" in capsys.readouterr().err


def test_the_same_run_in_one_go_and_in_two(model: str, here: Path) -> None:
    whole = trained(model, "whole")
    trained(model, "parts", max_steps=2)
    parts = trained(model, "parts", resume="latest")
    assert parts.test == whole.test
    assert (here / "whole/journal.bin").read_bytes()[-40:] == (here / "parts/journal.bin").read_bytes()[-40:]


def test_a_file_that_a_run_names_is_never_run_by_a_verb(
    model: str, here: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    trained(model)
    exported = export("out", "exported")
    before = {path: path.read_bytes() for path in (here / "out").rglob("*") if path.is_file()}
    marker = here / "marker"
    marker.unlink()
    (here / "my.py").write_text(LENGTH + "# changed, so that no cache answers\n", encoding="utf-8")
    again = "task.metric=" + str(here / "my.py:length")
    config = "out/config.yaml"
    for verb in (
        ["eval", "out"],
        ["eval", "exported"],
        ["eval", "out", "--task", "asks.jsonl", "--split", "dev", "--data", "asks.jsonl"],
        ["train", config],
        ["train", config, "--dry-run"],
        ["train", "--resume", "latest", "--output-dir", "out"],
        ["validate", config],
        ["memory", config],
        ["meta-test", "out"],
    ):
        capsys.readouterr()
        assert cli.run(verb) == 2, verb
        error = capsys.readouterr().err
        assert error.count("error: ") == 1, error
        assert again in error or verb[0] == "meta-test" or "--task" in verb, error
        assert not marker.exists(), verb
    for verb in (
        ["validate", "out"],
        ["predict", "out", "--file", "asks.jsonl", "--output", "answered.jsonl"],
        ["generate", "out", "--prompt", "Say", "--max-new-tokens", "2"],
        ["export", "out", "exported2"],
        ["eval", "exported", "--task", "pairs.jsonl"],
    ):
        write_rows(here / "pairs.jsonl", [{"prompt": f"Say {i}!", "completion": f" {i}."} for i in range(4)])
        assert cli.run(verb) == 0, (verb, capsys.readouterr().err)
        assert not marker.exists(), verb
    load("out")
    assert len(predict("out", ["Say"])) == len(generate("exported", ["Say"], max_new_tokens=2)) == 1
    for refused in (lambda: evaluate("out"), lambda: evaluate(exported), lambda: train(resolve(config))):
        with pytest.raises(InputError, match=r"to run it"):
            refused()
    assert not marker.exists()
    assert before == {path: path.read_bytes() for path in (here / "out").rglob("*") if path.is_file()}
    assert cli.run(["eval", "out", again]) == 0
    assert marker.exists(), "the command works, so the test above could have failed"
    assert "another source than the run's" in caplog.text


def test_a_configuration_or_a_preset_cannot_name_one(
    model: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {"model": model, "task": {"name": "asks.jsonl", "metric": "my.py:length"}, "method": "mezo"}
    content["train"] = {**TRAINED, "output_dir": "out"}
    (here / "c.yaml").write_text(dump(content), encoding="utf-8")
    for verb in (["train", "c.yaml"], ["validate", "c.yaml"]):
        assert cli.run(verb) == 2
        assert capsys.readouterr().err == (
            "error: task.metric: file c.yaml names my.py:length, and no file may let code run; where you have read "
            "that code, give task.metric=my.py:length on the command line again to run it\n"
        )
    assert not (here / "marker").exists()
    assert not (here / "out").exists()
    assert cli.run(["validate", "c.yaml", "task.metric=my.py:length", *WRITES]) == 0
    assert (here / "marker").read_text() == "run "


def test_another_content_or_another_function_does_not_go_on(model: str, here: Path) -> None:
    trained(model)
    source = (here / "my.py").read_text()
    (here / "my.py").write_text(source.replace("20", "21"), encoding="utf-8")
    with pytest.raises(InputError, match="cannot resume: the reward length has another source than the run's"):
        trained(model, resume="latest", max_steps=6)
    shutil.copy(here / "my.py", here / "moved.py")
    (here / "moved.py").write_text(source + "def other(completions): return [0.0 for _ in completions]\n")
    with pytest.raises(InputError, match=r"cannot resume with other settings:\ntask\.metric: the run has"):
        trained(model, resume="latest", max_steps=6, metric="moved.py:other")
    (here / "moved.py").write_text(source, encoding="utf-8")
    assert trained(model, resume="latest", max_steps=6, metric="moved.py:length").info["steps"]["upper"] == 6


def test_a_function_of_the_caller(model: str, here: Path) -> None:
    """Recorded by name and source; nobody else has it, and a lambda has a name of its own."""

    def short(completions: list[str], n: list[int]) -> list[float]:  # pyright: ignore[reportRedeclaration]
        return [i - len(text) for i, text in zip(n, completions)]

    run = trained(model, metric=short)
    assert run.info["metric"] == "short"
    assert len(run.info["inputs"]["reward"]["sha256"]) == 64
    with pytest.raises(InputError, match=r"the run's metric is python:short, .* give metric=FUNCTION in Python again"):
        evaluate("out")
    assert evaluate("out", metric=short) == run.test
    assert trained(model, metric=short, resume="latest", max_steps=6).info["steps"]["upper"] == 6
    first = short

    def short(completions: list[str], n: list[int]) -> list[float]:
        return [i + len(text) for i, text in zip(n, completions)]

    assert first is not short
    with pytest.raises(InputError, match="cannot resume: the reward short has another source"):
        trained(model, metric=short, resume="latest", max_steps=8)
    assert "reward" in trained(model, "other", metric=lambda completions: [len(c) for c in completions]).test
    with pytest.raises(InputError, match="metric: expected a name, or a function, got a type"):
        trained(model, metric=dict)


def test_conversations_without_an_answer(model: str, here: Path, chat_tokenizer: Any) -> None:
    """Messages that end with the user's turn, and texts in a chat template; both ways of training and measuring."""
    chatty = shutil.copytree(model, here / "chatty")
    chat_tokenizer.save_pretrained(chatty)
    turns = [[{"role": "user", "content": f"Say {i}!"}] for i in range(24)]
    body = "def seen(prompts, completions, **columns):\n    assert all(p[-1]['role'] == 'user' for p in prompts)\n"
    body += "    return [float(len(c[0]['content'])) for c in completions]\n"
    (here / "seen.py").write_text(body, encoding="utf-8")
    for column in ("messages", "prompt"):
        write_rows(here / f"{column}.jsonl", [{column: each} for each in turns])
        run = trained(str(chatty), column, "seen.py:seen", f"{column}.jsonl", max_steps=2)
        assert set(run.test) == {"seen", "n"}
    overrides = ["task.apply_chat_template=true", "task.system=Be short."]
    run = trained(str(chatty), "texts", "my.py:length", max_steps=2, overrides=overrides)
    assert set(run.test) == {"length", "n"}


@pytest.mark.parametrize("method", ["mezo", "sparse-mezo", "zero-shot"])
def test_methods_that_move_by_values_alone(method: str, model: str, here: Path) -> None:
    write_rows(here / "pairs.jsonl", [{"prompt": f"Say {i}!", "completion": f" {i}."} for i in range(24)])
    if method == "zero-shot":
        run = finetune(model, "pairs.jsonl", method, **TRAINED, metric="my.py:length", output_dir="out")
        alone = finetune(model, "asks.jsonl", method, **TRAINED, metric="my.py:length", output_dir="alone")
        assert set(alone.test) == {"length", "n"}
    else:
        run = trained(model, method=method, task="pairs.jsonl")
    assert set(run.test) == {"loss", "length", "n"}


def test_the_upper_level_of_two(model: str, here: Path) -> None:
    """theta descends minus the reward, p and s the loss of their completions."""
    write_rows(here / "pairs.jsonl", [{"prompt": f"Say {i}!", "completion": f" {i}."} for i in range(24)])
    method = {"name": "bilevel-ablations", "upper_objective": "metric", "inner_steps": 1}
    run = finetune(
        model, "pairs.jsonl", method, **TRAINED, metric="my.py:length", output_dir="out", overrides=WRITES[:3]
    )
    assert set(run.test) == {"loss", "length", "n"}
    assert run.info["steps"] == {"lower": 2, "upper": 2}


@pytest.mark.parametrize(
    ("method", "overrides", "fault"),
    [
        ("mezo", [], "task.objective: rows of asks have no completion, and so no loss; give task.objective=metric"),
        ("fo-peft", [], "method.name: rows of asks have no completion, and so no loss, which fo-peft descends"),
        ("bilevel-zofo", ["method.inner_steps=1"], "method.name: rows of asks have no completion"),
        ("fo-peft", ["task.objective=metric"], "task.objective: a metric has no gradient"),
        ("mezo", [*WRITES, "mask=sensitivity"], "mask.name: rows of asks have no completion"),
        ("mezo", ["task.objective=metric"], "generated text needs estimator.shift=copy"),
        ("mezo", [*WRITES, "task.num_fewshot=2"], "has no answer to show; give rows with completions"),
        ("mezo", [*WRITES, "task.metric=null"], 'no column "completion"'),
    ],
)
def test_what_needs_an_answer_is_refused(method: str, overrides: list[str], fault: str, model: str, here: Path) -> None:
    with pytest.raises(InputError) as error:
        finetune(model, "asks.jsonl", method, **TRAINED, metric="my.py:length", output_dir="out", overrides=overrides)
    assert fault in str(error.value)
    assert "\n" not in str(error.value)
    assert not (here / "out").exists()


def test_a_known_task_keeps_its_own_measures_beside_the_reward(model: str, here: Path) -> None:
    rows = [{"id": str(i), "question": f"What is {i} and 1?", "answer": f"So it is.\n#### {i + 1}"} for i in range(12)]
    (here / "gsm8k").mkdir()
    write_rows(here / "gsm8k/test.jsonl", rows)
    body = "def close(completions, question, answer):\n    assert all(q.startswith('What') for q in question)\n"
    (here / "known.py").write_text(body + "    return [float(len(a)) for a in answer]\n", encoding="utf-8")
    values = evaluate(model, task="gsm8k", data="gsm8k", metric="known.py:close", max_new_tokens=3)
    assert {"loss", "n", "close", "final_number"} < set(values)
    assert values["close"] == pytest.approx(sum(len(row["answer"]) for row in rows) / 12)
    assert values["loss"] > 0


def test_a_faulty_file_costs_no_loading_of_a_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The model is no model; the reward's fault comes first, on the rows' own answers."""
    (here / "no-model").mkdir()
    (here / "bad.py").write_text("def bad(completions): return [1 / 0]", encoding="utf-8")
    start = ["--model", "no-model", "--task", "asks.jsonl", "--method", "mezo", "--output-dir", "out", *WRITES]
    for verb in (["train", *start], ["validate", *start], ["eval", "no-model", "--task", "asks.jsonl"]):
        assert cli.run([*verb, "task.metric=bad.py:bad"]) == 2
        error = capsys.readouterr().err
        assert "task.metric: bad.py:bad: raised ZeroDivisionError: division by zero (row asks.jsonl:" in error
    assert not (here / "out").exists()
