"""Layouts and kinds of files through the verbs: train, validate, eval, predict, memory; runs whose files have moved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import zofo
from tests.conftest import llama_config, make_tokenizer, read_rows, save_tiny
from tests.own_worlds import rows_in, write
from zofo.cli import main as cli
from zofo.config.resolve import from_dict, load

SHORT = ["train.max_steps=1", "train.batch_size=2", "train.eval_steps=1", "train.save_steps=1"]
MAPPED = ["--text-column", "review", "--label-column", "stars"]
# Each layout with kinds of files of its own: of train, of test, of what is predicted
SWEEP = {
    "options": (".CSV", ".tsv", ".csv"),
    "mapped": (".tsv", ".csv.gz", ".json"),
    "completion": (".json", ".jsonl.gz", ".parquet"),
    "alpaca": (".parquet", ".json", ".jsonl"),
    "question": (".csv.gz", ".CSV", ".tsv"),
    "messages": (".jsonl.gz", ".parquet", ".jsonl"),
    "sharegpt": (".jsonl", ".csv", ".jsonl.gz"),
}


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>\n{% endfor %}"
    return save_tiny(tmp_path_factory.mktemp("chat"), llama_config(tokenizer, tied=True), tokenizer)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*args: object, code: int = 0) -> str:
        found = cli.run([str(arg) for arg in args])
        printed = capsys.readouterr()
        assert found == code, printed.err
        return printed.out if code == 0 else printed.err

    return call


@pytest.mark.parametrize("layout", SWEEP)
def test_a_layout_through_the_verbs(layout: str, chat_model: Path, tmp_path: Path, say: Any) -> None:
    rows, columns = rows_in(layout, 24), MAPPED if layout == "mapped" else []
    kinds = SWEEP[layout]
    train, test = write(tmp_path / f"a{kinds[0]}", rows[:16]), write(tmp_path / f"b{kinds[1]}", rows[16:])
    given = ["--model", chat_model, "--train-file", train, "--test-file", test, *columns, "--method", "mezo", *SHORT]
    if layout == "alpaca":
        given.append("task.template=plain")
    run = tmp_path / "run"
    assert f"train_file: {train}" in say("validate", *given, "--output-dir", run)
    say("train", *given, "--output-dir", run)
    config = load(run / "config.yaml").task
    assert (config.name, config.train_file, config.test_file) == ("", str(train), str(test))
    own = json.loads(say("eval", run))
    assert own["n"] == 8
    template = ["--template", "plain"] if layout == "alpaca" else []
    assert json.loads(say("eval", run, "--test-file", test, *template)) == own
    asked = write(tmp_path / f"new{kinds[2]}", [dict(row) for row in rows[:3]])
    out = tmp_path / f"out{kinds[2]}"
    assert json.loads(say("predict", run, "--file", asked, "--output", out))["rows"] == 3
    assert "peak of all tensors" in say("memory", *given)


def test_the_python_functions(chat_model: Path, tmp_path: Path) -> None:
    train, test = (write(tmp_path / f"{name}.tsv", rows_in("mapped")) for name in ("a", "b"))
    settings: dict[str, Any] = {"max_steps": 1, "batch_size": 2, "eval_steps": 1, "save_steps": 1}
    columns: dict[str, Any] = {"text_column": "review", "label_column": "stars"}
    run = zofo.finetune(
        str(chat_model),
        method="mezo",
        output_dir=tmp_path / "run",
        train_file=train,
        test_file=test,
        **columns,
        **settings,
    )
    assert zofo.evaluate(run.path) == zofo.evaluate(run.path, test_file=str(test))
    (answer,) = run.predict([{"review": "film 1"}])
    assert answer == run.predict(["film 1"])[0]
    assert zofo.evaluate(chat_model, test_file=str(test), **columns)["n"] == 20


def test_where_the_files_are_now(chat_model: Path, tmp_path: Path, say: Any) -> None:
    """A run of two files goes to another folder: --data holds them; a pushed configuration names no folder."""
    rows, run = rows_in("options", 24), tmp_path / "run"
    train, test = write(tmp_path / "then/a.csv", rows[:16]), write(tmp_path / "then/b.csv", rows[16:])
    files = ["--train-file", train, "--test-file", test]
    say("train", "--model", chat_model, *files, "--method", "mezo", "--output-dir", run, *SHORT)
    before = json.loads(say("eval", run))
    bare = load(run / "config.yaml").bare().task
    assert (bare.name, bare.train_file, bare.test_file) == ("", "./a.csv", "./b.csv")
    assert from_dict(load(run / "config.yaml").bare().to_dict()).task == bare
    shutil.move(tmp_path / "then", tmp_path / "now")
    assert "task.train_file: no such file: " in say("eval", run, code=2)
    assert json.loads(say("eval", run, "--data", tmp_path / "now")) == before
    assert "examples: those that the run was made with: yes" in say("validate", run, "--data", tmp_path / "now")
    one = say("eval", run, "--data", tmp_path / "now/a.csv", code=2)
    assert one.count("\n") == 1
    assert "give the directory that holds a.csv, b.csv" in one
    say("train", "--resume", "latest", "--output-dir", run, "--data", tmp_path / "now", "train.max_steps=1")


FAULTS = {
    "both": (["--task", "a.csv", "--train-file", "b.csv"], "task.name: a.csv names the rows already"),
    "and data": (["--train-file", "b.csv", "--data", "a.csv"], "task.data: a.csv names the rows already"),
    "a column": (["--train-file", "a.csv", "--text-column", "txt"], 'task.text_column: no column "txt" in a.csv'),
    "of a known task": (["--task", "sst2", "--label-column", "x"], "task.label_column: is for rows of one's own"),
    "no file": (["--train-file", "c.csv"], "task.train_file: no such file: c.csv"),
    "a kind": (["--train-file", "a.txt"], "task.train_file: expected a file .jsonl, .json"),
}


@pytest.mark.parametrize("what", FAULTS)
@pytest.mark.parametrize("verb", ["train", "validate", "memory"])
def test_one_line_before_a_model_is_loaded(
    verb: str, what: str, tmp_path: Path, say: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "b.csv"):
        write(tmp_path / name, rows_in("options"))
    (tmp_path / "a.txt").write_text("a", encoding="utf-8")
    (tmp_path / "m").mkdir()
    given, said = FAULTS[what]
    more = [] if verb == "memory" else ["--output-dir", "out"]
    error = say(verb, "--model", "m", "--method", "mezo", *given, *more, code=2)
    lines = [line for line in error.splitlines() if "task." in line]
    assert len(lines) == 1, error
    assert said in lines[0]
    assert not (tmp_path / "out").exists()


def test_what_is_named_last_is_trained_on(tmp_path: Path) -> None:
    """What a file names gives way to what the command line does, with a note."""
    one, two = (str(write(tmp_path / f"{name}.jsonl", rows_in("options"))) for name in ("a", "b"))
    train = {"output_dir": "o"}
    by_preset = zofo.resolve(None, [f"task.train_file={one}"], "quickstart", model="m", train=train)
    assert (by_preset.task.name, by_preset.task.train_file) == ("", one)
    path = tmp_path / "c.yaml"
    path.write_text(
        f"model: m\nmethod: mezo\ntask: {{train_file: {one}}}\ntrain: {{output_dir: o}}\n", encoding="utf-8"
    )
    assert zofo.resolve(str(path), [f"task.train_file={two}"]).task.train_file == two
    other = zofo.resolve(str(path), [f"task.name={two}"])
    assert (other.task.name, other.task.train_file) == (two, None)
    assert any("gives way to task.name" in note for note in other.notes)
    path.write_text(f"model: m\nmethod: mezo\ntask: {one}\ntrain: {{output_dir: o}}\n", encoding="utf-8")
    again = zofo.resolve(str(path), [f"task.train_file={two}"])
    assert (again.task.name, again.task.train_file) == ("", two)
    assert any("gives way to task.train_file" in note for note in again.notes)


def test_predictions_keep_columns(chat_model: Path, tmp_path: Path, say: Any) -> None:
    """A plain model writes on from a question, and from a conversation's last turn."""
    for layout in ("question", "sharegpt"):
        rows = [{k: v for k, v in row.items() if k != "answer"} for row in rows_in(layout, 2)]
        asked, out = write(tmp_path / f"{layout}.jsonl", rows), tmp_path / f"{layout}-out.jsonl"
        say("predict", chat_model, "--file", asked, "--output", out, "--max-new-tokens", "2")
        assert [set(row) for row in read_rows(out)] == [{*rows[0], "text"}] * 2
