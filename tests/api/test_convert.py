"""`zofo data meta`: rows by hand, of the shared extracts and of one's own files, and faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, read_rows
from zofo.api.convert import FILES, _source, convert, meta_row
from zofo.cli import main as cli
from zofo.cli.data import summary
from zofo.data import Example
from zofo.data.multitask.pool import open_pool
from zofo.data.spec import load_spec, maker
from zofo.errors import InputError

Write = Callable[[str, list[dict[str, Any]]], Path]
TASKS = ROOT / "src" / "zofo" / "data" / "tasks"
FOLDERS = {"aqua": "aqua_rat"}  # of the shared extracts, where the name differs
KINDS = {
    "classification": "sst2 rte cb boolq wic wsc multirc",
    "multiple-choice": "copa winogrande piqa siqa record mmlu aqua",
    "free-form": "squad gsm8k math500 humaneval",
}
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names.split()}
SST2 = [{"sentence": f"film {i} is {('dull', 'warm')[i % 2]} ", "label": i % 2} for i in range(12)]


@pytest.fixture
def sst2(write_jsonl: Write) -> Path:
    """DIR of DIR/sst2/{train,test}.jsonl, 12 and 4 rows."""
    write_jsonl("data/sst2/train.jsonl", SST2)
    return write_jsonl("data/sst2/test.jsonl", SST2[:4]).parents[1]


def example(prompt: str, *answers: str, gold: tuple[int, ...] = (0,)) -> Example:
    return Example("t/train/0", prompt, answers, gold)


# ------------------------------------------------------------------------------------------------------ rows by hand


def test_prompt_and_answers_lose_what_joins_them() -> None:
    found = meta_row("t", example("  a film . \n", " bad", " good ", gold=(1,)))
    assert found == {"task": "t", "input": "  a film .", "output": "good", "options": ["bad", "good"]}


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
    (found,) = convert(["siqa"], tmp_path / "out", path)
    (file,) = found.files
    assert [r["options"] for r in file.rows] == [["a", "b", "c"], ["b", "a", "c"]]
    assert file.left_out == {"two of the answers are the same text": (2, "train.jsonl:2")}
    path = write_jsonl("train.jsonl", [row("a", "a ")])
    with pytest.raises(
        InputError, match=r"train.jsonl: no row can be converted: in all 1 two of the answers are the same"
    ):
        convert(["siqa"], tmp_path / "new", path)


def test_all_rows_in_their_order(sst2: Path, tmp_path: Path) -> None:
    (found,) = convert(["sst2"], tmp_path / "out", sst2)
    assert sorted(f.name for f in (tmp_path / "out" / "sst2").iterdir()) == ["test.jsonl", "train.jsonl"]
    for file, n in zip(found.files, (12, 4)):
        assert read_rows(file.path) == file.rows
        assert [r["input"] for r in file.rows] == [r["sentence"].strip() for r in SST2[:n]]
        assert [r["output"] for r in file.rows] == ["terrible", "great"] * (n // 2)
        assert all(r["task"] == "sst2" and r["options"] == ["terrible", "great"] for r in file.rows)


def test_a_sample_is_the_seeds(sst2: Path, tmp_path: Path) -> None:
    def inputs(name: str, seed: int, n: int = 5) -> list[str]:
        (found,) = convert(["sst2"], tmp_path / name, sst2, examples={"train": n, "test": 0}, seed=seed)
        assert [f.path.name for f in found.files] == ["train.jsonl"]
        return [r["input"] for r in found.files[0].rows]

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
    (found,) = convert(["copa"], tmp_path / "a", path)
    assert found.template == "default"
    assert found.files[0].rows[0]["input"] == "The kettle boiled dry because"
    assert found.notes == ()
    (found,) = convert(["copa"], tmp_path / "b", path, "plain")
    assert found.files[0].rows[0]["input"] == "The kettle boiled dry."
    assert found.notes == ("template plain leaves out question (others: zofo show copa)",)


SHOWN = [path for path in sorted(TASKS.glob("*.yaml")) if load_spec(path).demonstrations]


@pytest.mark.parametrize("path", SHOWN, ids=lambda p: p.stem)
def test_demonstrations_of_every_task_convert(path: Path, tmp_path: Path, write_jsonl: Write) -> None:
    spec = load_spec(path)
    for template in spec.templates:
        (found,) = convert([path.stem], tmp_path / template, write_jsonl("train.jsonl", spec.demonstrations), template)
        for file in found.files:
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
    found = convert([str(labelled), str(written), str(chosen.parent)], tmp_path / "out")
    found += convert([str(spec)], tmp_path / "out", tmp_path / "both")
    assert [(c.name, summary(c.files[0].rows)) for c in found] == [
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
    (found,) = convert(["math500"], tmp_path / "out", write_jsonl("test.jsonl", rows).parent)
    assert [(f.path.name, len(f.rows)) for f in found.files] == [("train.jsonl", 8), ("test.jsonl", 2)]
    assert len({r["input"] for f in found.files for r in f.rows}) == 10
    write_jsonl("data/test.jsonl", SST2[:4])
    (found,) = convert(["sst2"], tmp_path / "out", tmp_path / "data")
    assert [(f.path.name, len(f.rows)) for f in found.files] == [("test.jsonl", 4)]
    assert found.notes[0].startswith("no train rows")


def test_long_rows_are_named(write_jsonl: Write, tmp_path: Path) -> None:
    rows = [{"prompt": "a" * n, "completion": "b" * m} for n, m in ((10, 10), (995, 10), (600, 600))]
    (found,) = convert([str(write_jsonl("long.jsonl", rows))], tmp_path / "out")
    assert [note.partition(" characters")[0] for note in found.notes] == [
        "2 of 3 rows are over 1000",
        "1 of 3 rows have an answer of over 400",
    ]
    (found,) = convert([str(tmp_path / "long.jsonl")], tmp_path / "short", max_answer=10)
    (file,) = found.files
    assert [len(row["output"]) for row in file.rows] == [10, 10]
    assert file.left_out == {"an answer has more than 10 characters": (1, "long.jsonl:3")}


def test_summaries() -> None:
    def row(*options: str) -> dict[str, Any]:
        return {"options": list(options)}

    assert summary([row(), row()]) == "free text"
    assert summary([row("a", "b")] * 2) == "options: a | b"
    assert summary([row(*"abcdefgh")] * 2) == "one set of 8 options"
    assert summary([row("a", "b"), row("c", "d")]) == "2 options of its own each"
    assert summary([row("a", "b"), row("c", "d", "e", "f"), row("a", "b", "c")]) == "2 to 4 options of its own each"


# ------------------------------------------------------------------------------------------------ the shared extracts


@pytest.mark.parametrize("name", sorted(KIND_OF))
def test_shared_rows(name: str, shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / FOLDERS.get(name, name)
    if not folder.is_dir():
        pytest.skip(f"no shared rows of {name}")
    limits = {"train": 40, "dev": 20, "test": 30}
    (found,) = convert([name], tmp_path, folder if name in FOLDERS else shared_data, examples=limits)
    spec = load_spec(TASKS / f"{name}.yaml")
    make = maker(spec, found.template)
    tables = _source(name, folder, None, 0).tables
    assert [file.path.name for file in found.files] == [file for split, file in FILES.items() if split in tables]
    for file in found.files:
        split = next(split for split, name in FILES.items() if name == file.path.name)
        records = tables[split]
        assert len(file.rows) == min(limits[split], len(records))
        texts = {(r["input"], r["output"]) for r in file.rows}
        made = [make(record) for record in records]
        known = {(e.prompt.rstrip(), e.answers[i].strip()) for e in made for i in e.gold}
        assert {(text, output.strip()) for text, output in texts} <= known
        assert all(r["output"] in r["options"] for r in file.rows if r["options"])
    _opens(tmp_path, name)


def _opens(directory: Path, name: str) -> None:
    pool = open_pool(directory, name)
    assert pool.kind == KIND_OF[name]
    if (directory / name / "train.jsonl").is_file():
        written = read_rows(directory / name / "train.jsonl")
        found = sorted((row.input, row.output, row.options) for row in pool.train(99, 0))
        assert found == sorted((r["input"], r["output"], tuple(r["options"])) for r in written)


# ----------------------------------------------------------------------------------------------------------- faults


def test_the_verb(sst2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    line = ["data", "meta", "sst2", "--data", str(sst2), "--output-dir", str(out), "--train-examples", "3"]
    assert cli.run(line) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{out}/sst2/train.jsonl: 3 rows, options: terrible | great, template plain",
        f"{out}/sst2/test.jsonl: 4 rows, options: terrible | great, template plain",
    ]
    assert cli.run([*line, "--test-examples", "1"]) == 2
    assert capsys.readouterr().err == (
        f"error: {out}/sst2: exists; give another --output-dir, or --overwrite to replace it\n"
    )
    assert cli.run([*line, "--test-examples", "0", "--overwrite"]) == 0
    assert [f.name for f in (out / "sst2").iterdir()] == ["train.jsonl"], "the old task is gone whole"
    assert [f.name for f in out.iterdir()] == ["sst2"]
    assert "1 row," not in capsys.readouterr().out
    assert cli.run([*line, "--train-examples", "1", "--overwrite"]) == 0
    assert "train.jsonl: 1 row, options" in capsys.readouterr().out


def test_the_group_alone_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["data"]) == 0
    assert "meta" in capsys.readouterr().out
    assert cli.run(["data", "mete"]) == 2
    assert "mete" in capsys.readouterr().err


def test_wrong_names(sst2: Path, write_jsonl: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    own = str(write_jsonl("sst2.jsonl", [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]))
    for tasks, data, template, message in (
        (["stt2"], sst2, None, 'unknown task "stt2"; did you mean "sst2"?'),
        (["sst2", "sst2"], sst2, None, "task sst2 is named twice"),
        (["sst2"], sst2, "plian", 'sst2.yaml: no template "plian"; did you mean "plain"?'),
        (["sst2", "rte"], sst2, None, "no directory rte in it; for several tasks"),
        (["sst2", "rte"], sst2 / "nowhere", None, "nowhere: is no directory; for several tasks"),
        (["sst2"], sst2 / "nowhere", None, "nowhere: no such file or directory"),
        (["rte"], sst2 / "sst2", None, 'no column "hypothesis" in train.jsonl; has: sentence, label'),
        (["movie-reviews"], None, None, "task movie-reviews needs data: run `zofo quickstart` once"),
        ([own], sst2, None, "already names the data"),
        ([own], None, "review", 'own files have "default" and "plain", not "review"'),
    ):
        with pytest.raises(InputError) as caught:
            convert(tasks, out, data, template)
        assert message in str(caught.value)
    assert not out.exists()


def test_hidden_labels(sst2: Path, write_jsonl: Write, tmp_path: Path) -> None:
    write_jsonl("data/sst2/test.jsonl", [{"sentence": "a film", "label": -1}])
    with pytest.raises(
        InputError, match=r"test.jsonl:1: .*unknown label -1.*hides its labels cannot be .* take it out"
    ):
        convert(["sst2"], tmp_path / "out", sst2)
    write_jsonl("data/sst2/train.jsonl", [SST2[0], {"sentence": "a film", "label": -1}])
    with pytest.raises(InputError, match=r"train.jsonl:2: sst2.yaml: unknown label -1; known: 0 negative, 1 positive$"):
        convert(["sst2"], tmp_path / "out", sst2)
    assert not (tmp_path / "out").exists()


def test_nothing_of_others_is_replaced(sst2: Path, write_jsonl: Write, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sst2: holds the rows that are to be converted"):
        convert(["sst2"], sst2, sst2, overwrite=True)
    assert read_rows(sst2 / "sst2" / "train.jsonl") == SST2
    other = write_jsonl("out/sst2/sst2_16_13_train.jsonl", [{"input": "a", "output": "b", "options": []}])
    with pytest.raises(InputError, match=r"holds sst2_16_13_train.jsonl, which is none of ours"):
        convert(["sst2"], tmp_path / "out", sst2, overwrite=True)
    assert other.is_file()
    write_jsonl("movie_reviews/movie_reviews/train.jsonl", [])
    reviews = write_jsonl("reviews.jsonl", [{"id": 0, "text": "dull", "label": 0}])
    with pytest.raises(InputError, match="movie_reviews: is task movie-reviews by another spelling"):
        convert(["movie-reviews"], tmp_path / "movie_reviews", reviews)
    for out in (reviews, tmp_path / "files"):
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / "files" / "sst2").touch()
        with pytest.raises(InputError, match="is a file; give"):
            convert(["sst2"], out, sst2, overwrite=True)


def test_an_error_leaves_the_old_files(sst2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(["sst2"], tmp_path / "out", sst2)
    before = read_rows(tmp_path / "out" / "sst2" / "train.jsonl")

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        convert(["sst2"], tmp_path / "out", sst2, overwrite=True)
    assert read_rows(tmp_path / "out" / "sst2" / "train.jsonl") == before
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["sst2"]


def test_no_rows_asked_for(sst2: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sst2: nothing is left to write: it has rows for train, test"):
        convert(["sst2"], tmp_path / "out", sst2, examples={"train": 0, "test": 0})
