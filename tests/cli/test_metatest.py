"""Meta-training and the meta-test as a user meets them: faults in one line each, cut and resumed, ls, show, memory."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.api.metatest.test_protocol import (
    METHODS,
    SETTING,
    TRAIN,
    make_setting,
    mood,
    parts_in,
    quiz,
    rows_of,
    scores,
    train,
    write,
)
from tests.cut import cut
from zofo.cli import main as cli
from zofo.data.multitask.pool import open_pool

Refused = Callable[..., str]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_setting(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path, small: Path) -> Path:
    """A run with one shared pair. Read only."""
    return train(tiny_model_dir, small, tmp_path_factory.mktemp("run") / "run", "shared")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A setting to spoil."""
    return make_setting(tmp_path / "own")


@pytest.fixture
def refused(tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """refused(verb, setting, *more) -> the error's lines, one by one in a text; nothing was written."""

    def run(verb: str, setting: Path | str, *more: str, data: Path | str | None = "", method: str = "bank") -> str:
        out = tmp_path / "out"
        args = ["--task", str(setting)]
        if data is not None:
            args += ["--data", str(data or Path(setting).parent / "data")]
        if verb == "train":
            args = [
                "train",
                "--model",
                str(tiny_model_dir),
                "--output-dir",
                str(out),
                *args,
                *METHODS[method],
                *TRAIN,
                *more,
            ]
        else:
            args = ["meta-test", str(tiny_model_dir), "--output", str(out), *args, *more]
        code = cli.run(args)
        shown = capsys.readouterr().err
        assert code == 2, shown
        assert "Traceback" not in shown
        assert not out.exists(), "nothing is written"
        return "\n".join(line.removeprefix("error: ") for line in shown.splitlines() if line.startswith("error: "))

    return run


# ----------------------------------------------------------------------------------------------------------- bad rows

BAD_ROWS: list[tuple[dict[str, Any] | str, list[str]]] = [
    ({"sentence": "warm", "label": "great"}, ['no "input"', "task, input, output and options", "sentence, label"]),
    ({"input": "warm", "output": "great", "option": ["great", "terrible"]}, ['no "options"', 'did you mean "option"']),
    ({"input": "warm", "output": "great", "options": ["great"]}, ["one option"]),
    ({"input": "warm", "output": "grate", "options": ["bad", "great"]}, ['"grate" is none of', 'mean "great"']),
    ({"input": "warm", "output": "great", "options": ["great", "great"]}, ['"great" occurs twice']),
    ({"input": "warm", "output": "great", "options": "great"}, ['"options" must be a list']),
    ({"input": "warm", "output": ["great"], "options": ["terrible", "great"]}, ['"output" must be a text']),
    ({"input": "warm", "output": "", "options": ["terrible", "great"]}, ['"output" is empty']),
    ({"input": "warm", "output": "great", "options": []}, ["options"]),
    ({"task": "elsewhere", "input": "a", "output": "great", "options": ["terrible", "great"]}, ['"elsewhere"']),
    ("{not json", ["JSON"]),
    ("[1, 2]", []),
]  # fmt: skip


@pytest.mark.parametrize("where", ["mood/train.jsonl", "film/test.jsonl"])
@pytest.mark.parametrize(("row", "said"), BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_a_bad_row_is_named_with_file_and_line(
    row: dict[str, Any] | str, said: list[str], where: str, own: Path, refused: Refused
) -> None:
    """Of a training task, and of a target's test rows: before the first step."""
    task, _, name = where.partition("/")
    folder = own.parent / "data" / task
    shutil.rmtree(folder)
    rows = mood(task, 30, 3)
    write(folder / "train.jsonl", rows)
    write(folder / "test.jsonl", rows[:12])
    path = folder / name
    lines = path.read_text().splitlines()
    lines[6] = row if isinstance(row, str) else json.dumps(row)
    path.write_text("\n".join(lines) + "\n")
    error = refused("train", own)
    assert f"{where}:7" in error
    assert len(error.splitlines()) == 1
    for text in said:
        assert text in error


def with_an_odd_row(own: Path, task: str, name: str) -> Path:
    """A task of 30 rows that share their options, of one file but row 7. Returns its folder."""
    folder = own.parent / "data" / task
    shutil.rmtree(folder)
    rows = mood(task, 30, 3)
    for file in ("train.jsonl", "test.jsonl"):
        write(folder / file, rows)
    rows[6] = {"input": "warm", "output": "good", "options": ["bad", "good"]}
    write(folder / name, rows)
    return folder


def test_one_test_row_with_options_of_its_own(own: Path, refused: Refused) -> None:
    with_an_odd_row(own, "film", "test.jsonl")
    error = refused("train", own)
    assert "film/test.jsonl:7" in error
    assert "terrible, great" in error


def test_one_train_row_with_options_of_its_own(own: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It makes another kind of task of it, which may be meant: so it is said, with the row."""
    pool = open_pool(with_an_odd_row(own, "mood", "train.jsonl").parent, "mood")
    assert pool.kind == "multiple-choice"
    for text in ("mood/train.jsonl:7", "bad, good", "29 of 30 rows have great, terrible"):
        assert text in caplog.text


@pytest.mark.parametrize("verb", ["train", "meta-test"])
def test_a_bad_row_in_metaicls_form(verb: str, own: Path, refused: Refused) -> None:
    """The file's own name says the task; it is read before anything is measured or written."""
    path = own.parent / "data" / "film" / "film_16_13_test.jsonl"
    rows = mood("film", 12, 1)
    rows[2]["output"] = "no such"
    write(path, rows)
    assert "film_16_13_test.jsonl:3" in refused(verb, own)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "train.jsonl").write_text(""), ["quiz/train.jsonl", "no rows"]),
        (lambda folder: [p.unlink() for p in folder.iterdir()], ["data/quiz", "train.jsonl", "quiz_16_100_test.jsonl"]),
        (lambda folder: write(folder / "quiz_16_100_test.jsonl", quiz("quiz", 4, 1)), ["two forms"]),
        (lambda folder: write(folder / "film_16_100_test.jsonl", quiz("film", 4, 1)), ["film"]),
    ],
    ids=["empty", "no files", "both forms", "another task's file"],
)
def test_a_bad_folder(spoil: Callable[[Path], Any], said: list[str], own: Path, refused: Refused) -> None:
    spoil(own.parent / "data" / "quiz")
    error = refused("train", own)
    for text in said:
        assert text in error


@pytest.mark.parametrize("verb", ["train", "meta-test"])
def test_two_tasks_of_one_name(verb: str, own: Path, refused: Refused) -> None:
    """On the disk and in the file; - and _ are the same."""
    setting = make_setting(own.parent.parent / "two", target=["my-quiz"], unseen_domain=None)
    for name in ("my-quiz", "my_quiz"):
        shutil.copytree(own.parent / "data" / "quiz", setting.parent / "data" / name)
    error = refused(verb, setting)
    assert "my-quiz" in error
    assert "my_quiz" in error
    assert "keep one" in error


# -------------------------------------------------------------------------------------------------- the setting's file


@pytest.mark.parametrize("verb", ["train", "meta-test"])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": ["film", "mood"]}, ["small.yaml", "mood", "trained on"]),
        ({"train": ["my-mood", "sort"], "target": ["film", "my_mood"]}, ["my_mood", "trained on"]),
        ({"train": ["mood", "sort", "sort"]}, ["two tasks of one name", "sort"]),
        ({"train": ["a-b", "a_b", "sort"]}, ["two tasks of one name: a-b, a_b"]),
        ({"unseen_domain": ["mood"]}, ["unseen_domain", "mood"]),
        ({"held_out": ["film"]}, ["held_out", "film"]),
        ({"held_out": SETTING["train"]}, ["held_out", "leave one"]),
        ({"tragets": ["film"]}, ['unknown key "tragets"', 'did you mean "target']),
        ({"train": "mood"}, ["train: expected a list"]),
        ({"train": []}, ['missing key "train"']),
        ({"train": [1, 2]}, ["train: expected a list"]),
    ],
)
def test_a_settings_file(verb: str, changes: dict[str, Any], said: list[str], own: Path, refused: Refused) -> None:
    content = {**SETTING, **changes}
    if "tragets" in changes:
        content["tragets"] = ["film"]
    own.write_text(yaml.safe_dump(content))
    error = refused(verb, own)
    for text in said:
        assert text in error


def test_everything_wrong_in_a_settings_file_is_said_at_once(own: Path, refused: Refused) -> None:
    own.write_text(yaml.safe_dump({**SETTING, "target": ["film", "mood"], "held_out": ["nobody"]}))
    error = refused("train", own)
    assert all(text in error for text in ("trained on", "nobody", "quiz")), error  # quiz: no target, but unseen


@pytest.mark.parametrize("verb", ["train", "meta-test"])
def test_names_and_directories(verb: str, small: Path, refused: Refused, tmp_path: Path) -> None:
    data = small.parent / "data"
    assert 'did you mean "class-to-class"' in refused(verb, "class-to-clas", data=data)
    assert "--data" in refused(verb, small, data=None) or "task.data" in refused(verb, small, data=None)
    assert "no-such-dir" in refused(verb, small, data=tmp_path / "no-such-dir")
    (tmp_path / "empty").mkdir()
    error = refused(verb, small, data=tmp_path / "empty")
    assert "no task of the setting small is there" in error
    assert "film/" in error
    error = refused(verb, "class-to-class", data=data)
    assert "no task of the setting class-to-class is there" in error
    assert "none.yaml" in refused(verb, tmp_path / "none.yaml", data=data)


@pytest.mark.parametrize("verb", ["train", "meta-test"])
def test_a_setting_without_any_of_its_targets(verb: str, own: Path, refused: Refused) -> None:
    for name in ("film", "kind", "quiz"):
        shutil.rmtree(own.parent / "data" / name)
    error = refused(verb, own)
    assert "no target task of small is there" in error
    assert "film/" in error


def test_held_out_too_large(tmp_path: Path, refused: Refused) -> None:
    setting = make_setting(tmp_path / "own", held_out=None)
    assert refused("train", setting, "task.held_out=4").startswith("task.held_out: 4 of the 4 training tasks")
    assert "must be >= 1" in refused("train", setting, "task.held_out=0")


@pytest.mark.parametrize("verb", ["train", "meta-test"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("task.template=chanel", 'did you mean "channel"'),
        ("task.scoring=pmy", 'did you mean "pmi"'),
        ("task.choices=[a,b]", "task.choices"),
        ("task.apply_chat_template=true", "task.apply_chat_template"),
        ("task.metric=acuracy", "task.metric"),
        ("task.max_new_tokens=3", "task.max_new_tokens"),
        ("task.fewshot=fixed", "task.fewshot"),
        ("task.held_outs=1", 'did you mean "held_out"'),
    ],
)
def test_fields_of_the_task(verb: str, change: str, said: str, small: Path, refused: Refused) -> None:
    assert said in refused(verb, small, change)


def test_a_channel_model_has_no_pmi(small: Path, refused: Refused) -> None:
    for verb in ("train", "meta-test"):
        assert "task.scoring" in refused(verb, small, "task.template=channel", "task.scoring=pmi")


# ------------------------------------------------------------------------------------------------------------ methods


def test_methods_of_many_tasks_refuse_one(tmp_path: Path, refused: Refused) -> None:
    file = tmp_path / "rows.jsonl"
    write(file, [{"text": row["input"], "label": row["output"]} for row in mood("x", 30, 1)])
    for method in ("bank", "metaicl", "multi-task-ft"):
        error = refused("train", file, data=None, method=method)
        assert "many tasks" in error
        assert "class-to-class" in error
    file.unlink()


def test_settings_of_the_methods(small: Path, refused: Refused) -> None:
    assert "deploy" in refused("train", small, "method.deploy=s")
    assert 'did you mean "per-task"' in refused("train", small, "method.adapters=pertask")
    assert "must be >= 1, got 0" in refused("train", small, "method.tasks_per_step=0")
    assert "multi-task-ft" in refused("train", small, "task.num_fewshot=0", method="metaicl")
    assert "metaicl" in refused("train", small, "task.num_fewshot=2", method="multi-task-ft")
    assert "upper_data" in refused("train", small, "method.upper_data=dev")


# ---------------------------------------------------------------------------------------------------- zofo meta-test


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--ways", "zero-shoot"], ['--ways: unknown "zero-shoot"', 'did you mean "zero-shot"']),
        (["--ways", "tuned"], ["tuned-fresh"]),
        (["--ways", "zero-shot,zero-shot"], ["each once"]),
        (["--ways", "zero-shot", "--seeds", "100,x"], ["--seeds: expected integers"]),
        (["--ways", "zero-shot", "--seeds", "100,100"], ["--seeds", "each once"]),
        (["--ways", "zero-shot", "--seeds", ""], ["--seeds"]),
        (["--ways", "tuned-fresh", "--rates", "1e-3,fast"], ["--rates: expected numbers"]),
        (["--ways", "tuned-fresh", "--rates", "0"], ["--rates: each is more than 0"]),
        (["--ways", "tuned-fresh", "--rates", "nan"], ["--rates"]),
        (["--ways", "tuned-fresh", "--rates", "inf"], ["--rates"]),
        (["--ways", "zero-shot", "--steps", "0"], ["steps"]),
        (["--ways", "zero-shot", "--num-fewshot", "0"], ["num-fewshot"]),
        (["--ways", "zero-shot", "--test-examples", "0"], ["test-examples"]),
        (["--ways", "zero-shot", "--way", "tuned"], ["--way"]),
        (["train.max_steps=3"], ["task.key=value"]),
    ],
)
def test_options_of_meta_test(more: list[str], said: list[str], small: Path, refused: Refused) -> None:
    error = refused("meta-test", small, *more)
    for text in said:
        assert text in error


def test_no_ways_at_all(small: Path, refused: Refused) -> None:
    assert "--ways" in refused("meta-test", small, "--ways", "")


@pytest.mark.parametrize("field", ["num_fewshot", "test_examples"])
def test_fields_that_the_plan_owns_are_not_ignored(field: str, small: Path, refused: Refused) -> None:
    assert field.replace("_", "-") in refused("meta-test", small, f"task.{field}=2", "--ways", "in-context").replace(
        "_", "-"
    )


def test_one_task_is_no_setting(small: Path, refused: Refused, tmp_path: Path) -> None:
    error = refused("meta-test", "sst2", data=small.parent / "data")
    assert "sst2 is one task; " in error
    assert "a setting such as class-to-class" in error
    file = tmp_path / "rows.jsonl"
    write(file, [{"text": "warm", "label": "great"}, {"text": "dull", "label": "bad"}])
    assert "is one task; " in refused("meta-test", file, data=None)


def test_a_model_without_a_setting(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["meta-test", str(tiny_model_dir)]) == 2
    assert "error: --task: give a setting such as class-to-class" in capsys.readouterr().err


def test_a_model_that_is_not_there(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--task", str(small), "--data", str(small.parent / "data"), "--output", str(tmp_path / "out")]
    assert cli.run(["meta-test", str(tmp_path / "none"), *args]) == 2
    assert "no such directory" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_that_did_not_finish(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(run_dir, cut)
    (cut / "run.json").unlink()
    assert cli.run(["meta-test", str(cut), "--ways", "zero-shot"]) == 2
    assert "--resume latest" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------- cut, and started again

ARGS = ["--seeds", "100,13,21", "--rates", "1e-3,1e-2", "--rate-runs", "1", "--steps", "4"]


def command(run_dir: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "zofo.cli.main", "meta-test", str(run_dir), "--output", str(out), *ARGS, *more]


def run_cut(args: list[str], sent: int, holding: str) -> tuple[int, str]:
    """(exit code, what was shown) of a process that is sent a signal when a file of that name is in its place."""
    one = {**os.environ, "OMP_NUM_THREADS": "1"}  # as here: the last bits of a tuning hang on the number of threads
    call = "os:rename" if "checkpoint" in holding else "os:replace"
    done = subprocess.run(cut(args, sent, call, holding), capture_output=True, text=True, env=one, timeout=900)
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def uncut(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uncut") / "out"
    assert cli.run(command(run_dir, out)[3:]) == 0
    return out


def ends_like(out: Path, uncut: Path) -> None:
    assert parts_in(out) == parts_in(uncut)
    ours, theirs = (scores(json.loads((path / "results.json").read_text())) for path in (out, uncut))
    assert ours == theirs
    files = [sorted(str(p.relative_to(path)) for p in path.rglob("*.jsonl")) for path in (out, uncut)]
    assert files[0] == files[1]
    assert all((out / name).read_bytes() == (uncut / name).read_bytes() for name in files[0])
    assert not [p for p in out.rglob("*") if p.name.endswith(".tmp")]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_cut_in_the_middle_and_started_again(sent: int, code: int, run_dir: Path, uncut: Path, tmp_path: Path) -> None:
    """The same numbers and texts, and no part done twice."""
    out = tmp_path / "out"
    returncode, shown = run_cut(command(run_dir, out)[3:], sent, "parts/tuned/film-")
    assert returncode == code
    assert "Traceback" not in shown
    assert not (out / "results.json").exists()
    stamps = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in (out / "parts").rglob("*.json") if p.name[0] != "."}
    assert 0 < len(stamps) < len(parts_in(uncut))
    if sent == signal.SIGINT:
        assert "interrupted" in shown
    assert cli.run(command(run_dir, out)[3:]) == 0
    assert all((p.stat().st_mtime_ns, p.stat().st_ino) == stamp for p, stamp in stamps.items())
    ends_like(out, uncut)


def test_what_is_printed(run_dir: Path, uncut: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Off a terminal: tab-separated; a line for each way, then for each target task, as results.json has them."""
    shutil.copytree(uncut, tmp_path / "out")
    assert cli.run(command(run_dir, tmp_path / "out")[3:]) == 0
    (unit, of_ways, *ways), (of_tasks, *tasks) = (
        block.splitlines() for block in capsys.readouterr().out.strip().split("\n\n")
    )
    found = json.loads((uncut / "results.json").read_text())["ways"]
    assert "per cent" in unit
    assert of_ways.split("\t") == ["way", "mean", "worst seed", "unseen domain"]
    assert of_tasks.split("\t") == ["target task", "metric", "zero-shot", "zero-shot-s", "tuned", "tuned-fresh"]
    assert [line.split("\t")[0] for line in ways] == list(
        dict.fromkeys(["zero-shot", "zero-shot-s", "tuned", "tuned-fresh"])
    )
    for line in ways:
        way, mean, worst, apart = line.split("\t")
        own = found[way]
        percent = [f"{100 * own[block]['mean']:.1f}" for block in ("all", "unseen_domain")]
        if own["all"]["sd"] is None:
            assert (mean, worst, apart) == (percent[0], "-", percent[1])
        else:
            assert mean == f"{percent[0]} ({100 * own['all']['sd']:.1f})"
            assert worst == f"{100 * own['all']['worst']:.1f}"
            assert apart == f"{percent[1]} ({100 * own['unseen_domain']['sd']:.1f})"
    assert [line.split("\t")[:2] for line in tasks] == [
        ["film", "macro_f1"],
        ["kind", "macro_f1"],
        ["quiz", "accuracy"],
    ]


def test_coverage_is_said(run_dir: Path, uncut: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(uncut, tmp_path / "out")
    assert cli.run(command(run_dir, tmp_path / "out")[3:]) == 0
    shown = capsys.readouterr().err
    assert "3 of 4 target tasks (75 %)" in shown
    assert "missing target tasks: absent" in shown


def test_ctrl_c_in_training_and_resumed(small: Path, tiny_model_dir: Path, tmp_path: Path, run_dir: Path) -> None:
    """Many tasks: the bytes of a run that was not cut."""

    def args(out: Path) -> list[str]:
        fixed = ["--model", str(tiny_model_dir), "--task", str(small), "--data", str(small.parent / "data")]
        more = ["train.max_steps=42", "train.save_steps=12", "train.eval_steps=24"]
        return ["train", *fixed, "--output-dir", str(out), *METHODS["bank"], *TRAIN, *more]

    assert cli.run(args(tmp_path / "whole")) == 0
    out = tmp_path / "cut"
    returncode, shown = run_cut(args(out), signal.SIGINT, "checkpoint-12")
    assert returncode == 130, shown
    assert "--resume latest" in shown
    assert cli.run(["train", "--output-dir", str(out), "--resume", "latest"]) == 0
    assert (out / "journal.bin").read_bytes() == (tmp_path / "whole" / "journal.bin").read_bytes()
    for path in (tmp_path / "whole").glob("best-*/s/*/*.safetensors"):
        assert path.read_bytes() == (out / path.relative_to(tmp_path / "whole")).read_bytes()


# ------------------------------------------------------------------------------------------------------- other verbs


def out_of(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert cli.run(list(args)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_ls_settings(capsys: pytest.CaptureFixture[str]) -> None:
    lines = out_of(capsys, "ls", "settings").splitlines()
    assert [line.split("\t")[0] for line in lines] == [
        "class-to-class",
        "non-class-to-class",
        "non-qa-to-qa",
        "qa-to-qa",
    ]
    assert all(len(line.split("\t")) == 2 for line in lines)
    assert "settings\tclass-to-class" in out_of(capsys, "ls")


def test_show_a_setting(capsys: pytest.CaptureFixture[str], small: Path) -> None:
    text = out_of(capsys, "show", "class-to-class")
    for part in (
        "MetaICL",
        "2110.15943",
        "training tasks (43)",
        "target tasks (20)",
        "glue-cola",
        "ag_news",
        "climate_fever",
    ):
        assert part in text
    text = out_of(capsys, "show", str(small), "--data", str(small.parent / "data"))
    for part in (
        "setting small",
        "held out tasks (1): sort",
        "75 %",
        "missing target tasks: absent",
        "quiz: multiple-choice",
    ):
        assert part in text
    assert cli.run(["show", "class-to-class", "--data", str(small.parent / "none")]) == 2
    assert "none" in capsys.readouterr().err


def test_show_the_methods(capsys: pytest.CaptureFixture[str]) -> None:
    text = out_of(capsys, "show", "meta-bilevel-zofo")
    for part in ("2502.03604", "method.tasks_per_step", "method.adapters", "method.inner_steps", "B.5.2"):
        assert part in text
    for name in ("metaicl", "multi-task-ft"):
        assert "method.lr" in out_of(capsys, "show", name)


@pytest.mark.parametrize("preset", ["meta", "metaicl"])
def test_validate_the_presets(
    preset: str, capsys: pytest.CaptureFixture[str], small: Path, tiny_model_dir: Path
) -> None:
    text = out_of(
        capsys, "validate", "--preset", preset, "--model", str(tiny_model_dir), "--task", str(small), "--data",
        str(small.parent / "data"), "--output-dir", "unused",
    )  # fmt: skip
    found = yaml.safe_load(text)
    assert found["task"]["train_examples"] == 768
    if preset == "meta":
        assert found["method"]["name"] == "meta-bilevel-zofo"
        assert (found["method"]["tasks_per_step"], found["method"]["inner_steps"]) == (5, 10)
        assert (found["train"]["batch_size"], found["train"]["max_steps"]) == (4, 50000)
    else:
        assert (found["task"]["num_fewshot"], found["method"]["lr"]) == (4, 1e-5)


def test_dry_run(
    capsys: pytest.CaptureFixture[str],
    small: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = tmp_path / "out"
    args = ["--model", str(tiny_model_dir), "--task", str(small), "--data", str(small.parent / "data"), "--output-dir"]
    assert cli.run(["train", *args, str(out), *METHODS["bank"], *TRAIN, "--dry-run"]) == 0
    shown = capsys.readouterr()
    text = shown.out + shown.err
    assert "missing target tasks: absent" in caplog.text
    assert "3 tasks of 12" in text
    assert not list(out.glob("checkpoint-*"))
    assert not (out / "run.json").exists()


def memory(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    text = out_of(capsys, "memory", "--json", *args)
    return json.loads(text)["predicted"][0]


def test_memory_counts_an_adapter_for_each_task(
    capsys: pytest.CaptureFixture[str], small: Path, tiny_model_dir: Path, run_dir: Path
) -> None:
    """Three training tasks are left beside the held-out one: three pairs in the bank, one where it is shared."""
    fixed = ["--model", str(tiny_model_dir), "--task", str(small), f"task.data={small.parent / 'data'}"]
    rest = ["adapter.r=2", "method.inner_steps=2", *TRAIN, "--adapter", "lora", "--method", "meta-bilevel-zofo"]
    bank = memory(capsys, *fixed, *rest)
    shared = memory(capsys, *fixed, *rest, "method.adapters=shared")

    def adapters(found: dict[str, Any]) -> int:
        (size,) = {phase["adapters"] for phase in found["phases"].values()}
        return size

    from safetensors.torch import load_file

    best = json.loads((run_dir / "run.json").read_text())["best_step"]
    one = sum(
        t.numel() * t.element_size()
        for t in load_file(run_dir / f"best-{best}" / "s" / "adapter_model.safetensors").values()
    )
    assert adapters(shared) == 2 * one, shared
    assert adapters(bank) == 3 * 2 * one, bank


@pytest.mark.parametrize("name", ["bank", "shared", "channel"])
def test_eval_export_and_generate(
    name: str, small: Path, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tiny_model_dir, small, tmp_path / "run", name)
    capsys.readouterr()
    info = json.loads((run / "run.json").read_text())
    found = json.loads(out_of(capsys, "eval", str(run)))
    assert found["task_mean"] == pytest.approx(info["test"][info["deployed"]]["task_mean"], abs=1e-9)
    assert found["n"] == 18
    assert out_of(capsys, "export", str(run), str(tmp_path / "export"))
    again = json.loads(out_of(capsys, "eval", str(tmp_path / "export")))
    assert again["task_mean"] == pytest.approx(found["task_mean"], abs=1e-9)
    line = json.loads(out_of(capsys, "generate", str(run), "--prompt", "the film is", "--max-new-tokens", "4"))
    assert "the film is" in json.dumps(line)
    if name == "bank":
        assert cli.run(["eval", str(run), "--adapter", "s"]) == 2
        assert "adapter" in capsys.readouterr().err
        assert cli.run(["export", str(run), str(tmp_path / "e2"), "--adapter", "s"]) == 2
        assert not (tmp_path / "e2").exists()


def test_eval_of_a_target_split_of_a_plain_model(
    small: Path, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`zofo eval` measures a setting's targets too: as the meta-test's zero-shot, by the same rows."""
    fixed = ["--task", str(small), "--data", str(small.parent / "data")]
    found = json.loads(out_of(capsys, "eval", str(tiny_model_dir), *fixed, "task.test_examples=6"))
    out = tmp_path / "out"
    out_of(
        capsys,
        "meta-test",
        str(tiny_model_dir),
        *fixed,
        "--ways",
        "zero-shot",
        "--test-examples",
        "6",
        "--output",
        str(out),
    )
    theirs = json.loads((out / "results.json").read_text())["ways"]["zero-shot"]["all"]["mean"]
    assert found["task_mean"] == pytest.approx(theirs, abs=1e-9)
    assert len(rows_of(out / "predictions" / "zero-shot" / "film-100.jsonl")) == 6


def test_memory_takes_a_directory_of_data(
    capsys: pytest.CaptureFixture[str], small: Path, tiny_model_dir: Path
) -> None:
    """As train, validate and eval do."""
    args = ["--model", str(tiny_model_dir), "--task", str(small), "--data", str(small.parent / "data")]
    assert memory(capsys, *args, *METHODS["bank"], *TRAIN)["method"] == "meta-bilevel-zofo"


def test_memory_of_made_up_rows_of_a_setting(capsys: pytest.CaptureFixture[str], tiny_model_dir: Path) -> None:
    """No data is read: an adapter pair for each of the 43 training tasks, but the one held out."""
    found = memory(
        capsys, "--model", str(tiny_model_dir), "--task", "class-to-class", "--length", "32", "--method",
        "meta-bilevel-zofo", "--adapter", "lora", "adapter.r=2",
    )  # fmt: skip
    assert found["phases"]["zeroth-order forward"]["adapters"] in (42 * 2 * 1792, 43 * 2 * 1792)
