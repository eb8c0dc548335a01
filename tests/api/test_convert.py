"""`zofo data meta`: rows by hand, of the shared extracts and of one's own files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, SST2, read_rows
from tests.task_files import FOLDERS
from zofo.api.convert import FILES, _source, convert, meta_row
from zofo.cli.data import summary
from zofo.data import Example
from zofo.data.multitask.pool import open_pool
from zofo.data.spec import load_spec, maker
from zofo.errors import InputError

Write = Callable[[str, list[dict[str, Any]]], Path]
TASKS = ROOT / "src" / "zofo" / "data" / "tasks"
KINDS = {
    "classification": "sst2 rte cb boolq wic wsc multirc",
    "multiple-choice": "copa winogrande piqa siqa record mmlu aqua",
    "free-form": "squad gsm8k math500 humaneval",
}
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names.split()}


def example(prompt: str, *answers: str, gold: tuple[int, ...] = (0,)) -> Example:
    return Example("t/train/0", prompt, answers, gold)


# ------------------------------------------------------------------------------------------------------ rows by hand


def test_prompt_and_answers_lose_what_joins_them() -> None:
    row = meta_row("t", example("  a film . \n", " bad", " good ", gold=(1,)))
    assert row == {"task": "t", "input": "  a film .", "output": "good", "options": ["bad", "good"]}


@pytest.mark.parametrize(
    ("prompt", "answer", "output"),
    [
        ("Question: why?\nAnswer:", " it rains ", "it rains"),
        ("Question: why?\n", "it rains\n", "it rains"),
        ("def f():\n    ''' a '''\n", "    return 1\n", "    return 1"),  # the newline is written, the indentation kept
        ("def f():\n    ", "return 1", "    return 1"),
        ("def f():", "\n\n    return 1", "    return 1"),
        ("He said:", "  \tyes", "yes"),
    ],
)
def test_a_text_keeps_its_indentation(prompt: str, answer: str, output: str) -> None:
    row = meta_row("t", example(prompt, answer))
    assert isinstance(row, dict)
    assert (row["output"], row["options"]) == (output, [])
    assert row["input"] == prompt.rstrip()


def test_a_second_right_answer_is_no_option() -> None:
    row = meta_row("t", example("Who?", "Ann", "Bo", "Cy", "Di", gold=(1, 3)))
    assert isinstance(row, dict)
    assert (row["output"], row["options"]) == ("Bo", ["Ann", "Bo", "Cy"])
    assert meta_row("t", example("Who?", "Ann", "Bo", gold=(0, 1))) == "all answers are right"


def test_answers_that_are_one_text_leave_the_row_out(write_jsonl: Write, tmp_path: Path) -> None:
    def row(a: str, b: str) -> dict[str, Any]:
        return {
            "context": "It rains.",
            "question": "What next?",
            "answerA": a,
            "answerB": b,
            "answerC": "c",
            "label": "3",
        }

    path = write_jsonl("train.jsonl", [row("a", "b"), row("a", "a "), row("b", "b"), row("b", "a")])
    (converted,) = convert(["siqa"], tmp_path / "out", path)
    (file,) = converted.files
    assert [r["options"] for r in file.rows] == [["a", "b", "c"], ["b", "a", "c"]]
    assert file.left_out == {"two of the answers are the same text": (2, "train.jsonl:2")}
    path = write_jsonl("train.jsonl", [row("a", "a ")])
    with pytest.raises(
        InputError, match=r"train.jsonl: no row can be converted: in all 1 two of the answers are the same"
    ):
        convert(["siqa"], tmp_path / "new", path)


def test_all_rows_in_their_order(sst2_dir: Path, tmp_path: Path) -> None:
    (converted,) = convert(["sst2"], tmp_path / "out", sst2_dir)
    assert sorted(f.name for f in (tmp_path / "out" / "sst2").iterdir()) == ["test.jsonl", "train.jsonl"]
    for file, n in zip(converted.files, (12, 4)):
        assert read_rows(file.path) == file.rows
        assert [r["input"] for r in file.rows] == [r["sentence"].strip() for r in SST2[:n]]
        assert [r["output"] for r in file.rows] == ["terrible", "great"] * (n // 2)
        assert all(r["task"] == "sst2" and r["options"] == ["terrible", "great"] for r in file.rows)


def test_a_sample_is_the_seeds(sst2_dir: Path, tmp_path: Path) -> None:
    def inputs(name: str, seed: int, n: int = 5) -> list[str]:
        (converted,) = convert(["sst2"], tmp_path / name, sst2_dir, examples={"train": n, "test": 0}, seed=seed)
        assert [f.path.name for f in converted.files] == ["train.jsonl"]
        return [r["input"] for r in converted.files[0].rows]

    one = inputs("a", 1)
    whole = [r["sentence"].strip() for r in SST2]
    assert len(one) == 5
    assert one == [text for text in whole if text in one], "in the file's order"
    assert one == inputs("b", 1)
    assert one != inputs("c", 2)
    assert inputs("d", 1, 99) == whole


def test_the_template_reads_all_that_default_does(write_jsonl: Write, tmp_path: Path) -> None:
    row = {"premise": "The kettle boiled dry.", "choice1": "I forgot it.", "choice2": "Tea is cheap.", "label": 0}
    path = write_jsonl("train.jsonl", [row | {"question": "cause"}])
    (copa,) = convert(["copa"], tmp_path / "a", path)
    assert copa.template == "default"
    assert copa.files[0].rows[0]["input"] == "The kettle boiled dry because"
    assert copa.notes == ()
    (copa,) = convert(["copa"], tmp_path / "b", path, "plain")
    assert copa.files[0].rows[0]["input"] == "The kettle boiled dry."
    assert copa.notes == ("template plain leaves out question (others: zofo show copa)",)


SHOWN = [path for path in sorted(TASKS.glob("*.yaml")) if load_spec(path).demonstrations]


@pytest.mark.parametrize("path", SHOWN, ids=lambda p: p.stem)
def test_demonstrations_of_every_task_convert(path: Path, tmp_path: Path, write_jsonl: Write) -> None:
    spec = load_spec(path)
    for template in spec.templates:
        (converted,) = convert(
            [path.stem], tmp_path / template, write_jsonl("train.jsonl", spec.demonstrations), template
        )
        for file in converted.files:
            assert not file.left_out
            for row in file.rows:
                assert row["output"] in (row["options"] or [row["output"]])
                assert "" not in (row["output"], row["input"])
                assert row["input"] == row["input"].rstrip()
                assert row["options"] == [o.strip() for o in row["options"]]


# --------------------------------------------------------------------------------------------------------- own files


def test_own_files(write_jsonl: Write, tmp_path: Path) -> None:
    labelled = write_jsonl("films.jsonl", [{"text": r["sentence"], "label": ("bad", "good")[r["label"]]} for r in SST2])
    written = write_jsonl("sums.v2.jsonl", [{"prompt": "1 + 2 =", "completion": " 3"}])
    chosen = write_jsonl("quiz/train.jsonl", [{"text": "Who?", "choices": ["Ann", "Bo"], "label": 1}])
    spec = tmp_path / "my_task.yaml"
    spec.write_text(
        "version: 1\ndescription: d\nsource: s\ncolumns: [a, b]\nkind: completion\nobjective: lm\nmetric: loss\n"
        "templates:\n  default: {prompt: 'Say {{ a }}:', answers: ['{{ b }}']}\n"
    )
    write_jsonl("both/my-task/train.jsonl", [{"a": "hay", "b": "heu"}])
    converted = convert([str(labelled), str(written), str(chosen.parent)], tmp_path / "out")
    converted += convert([str(spec)], tmp_path / "out", tmp_path / "both")
    assert [(c.name, summary(c.files[0].rows)) for c in converted] == [
        ("films", "options: bad | good"),
        ("sums", "free text"),
        ("quiz", "options: Ann | Bo"),
        ("my-task", "free text"),
    ]
    assert read_rows(tmp_path / "out" / "sums" / "train.jsonl")[0]["output"] == "3"
    assert read_rows(tmp_path / "out" / "my-task" / "train.jsonl") == [
        {"task": "my-task", "input": "Say hay:", "output": "heu", "options": []}
    ]


def test_test_rows_alone(write_jsonl: Write, tmp_path: Path) -> None:
    """math500 is split as a run splits it; a task that names no share for that keeps its files."""
    rows = [{"problem": f"{i} + 1 = ?", "solution": f"It is {i + 1}.", "answer": f"{i + 1}"} for i in range(10)]
    (converted,) = convert(["math500"], tmp_path / "out", write_jsonl("test.jsonl", rows).parent)
    assert [(f.path.name, len(f.rows)) for f in converted.files] == [("train.jsonl", 8), ("test.jsonl", 2)]
    assert len({r["input"] for f in converted.files for r in f.rows}) == 10
    write_jsonl("data/test.jsonl", SST2[:4])
    (converted,) = convert(["sst2"], tmp_path / "out", tmp_path / "data")
    assert [(f.path.name, len(f.rows)) for f in converted.files] == [("test.jsonl", 4)]
    assert converted.notes[0].startswith("no train rows")


def test_long_rows_are_named(write_jsonl: Write, tmp_path: Path) -> None:
    rows = [{"prompt": "a" * n, "completion": "b" * m} for n, m in ((10, 10), (995, 10), (600, 600))]
    (converted,) = convert([str(write_jsonl("long.jsonl", rows))], tmp_path / "out")
    assert [note.partition(" characters")[0] for note in converted.notes] == [
        "2 of 3 rows are over 1000",
        "1 of 3 rows have an answer of over 400",
    ]
    (converted,) = convert([str(tmp_path / "long.jsonl")], tmp_path / "short", max_answer=10)
    (file,) = converted.files
    assert [len(row["output"]) for row in file.rows] == [10, 10]
    assert file.left_out == {"an answer has more than 10 characters": (1, "long.jsonl:3")}


# ------------------------------------------------------------------------------------------------ the shared extracts


@pytest.mark.parametrize("name", sorted(KIND_OF))
def test_shared_rows(name: str, shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / FOLDERS.get(name, name)
    if not folder.is_dir():
        pytest.skip(f"no shared rows of {name}")
    limits = {"train": 40, "dev": 20, "test": 30}
    (converted,) = convert([name], tmp_path, folder if name in FOLDERS else shared_data, examples=limits)
    spec = load_spec(TASKS / f"{name}.yaml")
    make = maker(spec, converted.template)
    tables = _source(name, folder, None, 0).tables
    assert [file.path.name for file in converted.files] == [file for split, file in FILES.items() if split in tables]
    for file in converted.files:
        split = next(split for split, name in FILES.items() if name == file.path.name)
        records = tables[split]
        assert len(file.rows) == min(limits[split], len(records))
        texts = {(r["input"], r["output"]) for r in file.rows}
        made = [make(record) for record in records]
        known = {(e.prompt.rstrip(), e.answers[i].strip()) for e in made for i in e.gold}
        assert {(text, output.strip()) for text, output in texts} <= known
        assert all(r["output"] in r["options"] for r in file.rows if r["options"])
    opens(tmp_path, name)


def opens(directory: Path, name: str) -> None:
    pool = open_pool(directory, name)
    assert pool.kind == KIND_OF[name]
    if (directory / name / "train.jsonl").is_file():
        written = read_rows(directory / name / "train.jsonl")
        read = sorted((row.input, row.output, row.options) for row in pool.train(99, 0))
        assert read == sorted((r["input"], r["output"], tuple(r["options"])) for r in written)
