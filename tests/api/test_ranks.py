"""`eval`, `predict` and `--nproc` in several processes: the files of one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import sentiment_rows, write_rows
from tests.forked import run, zofo_main
from tests.in_ranks import in_ranks
from zofo.zo.journal import read_header


@pytest.mark.parametrize("scoring", ["mean", "calibrated"])
def test_eval(scoring: str, tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path) -> None:
    args = ["eval", str(tiny_model_dir), "--task", str(sentiment_file), "--split", "train", f"task.scoring={scoring}"]
    alone = run(zofo_main, *args, "--output", str(tmp_path / "one"))
    assert alone.returncode == 0, alone.stderr
    done = in_ranks(3, *args, "--output", str(tmp_path / "many"))
    for each in done:
        assert each.returncode == 0, each.stderr
    for name in ("predictions.jsonl", "results.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()
    assert done[0].stdout == alone.stdout
    assert not done[1].stdout


def test_texts_and_their_reward(tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"film {i}: a", "completion": " good story"} for i in range(7)]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    reward = tmp_path / "reward.py"
    reward.write_text("def length(completions):\n    return [float(len(text)) for text in completions]\n", "utf-8")
    args = ["eval", str(tiny_model_dir), "--task", str(file), "--split", "train", "task.max_new_tokens=5"]
    args += [f"task.metric={reward}:length"]
    alone = run(zofo_main, *args, "--output", str(tmp_path / "one"))
    assert alone.returncode == 0, alone.stderr
    for each in in_ranks(2, *args, "--output", str(tmp_path / "many")):
        assert each.returncode == 0, each.stderr
    texts = (tmp_path / "one/predictions.jsonl").read_text("utf-8")
    first = json.loads(texts.splitlines()[0])
    assert first["length"] == len(first["generated"][0]) > 0
    assert texts == (tmp_path / "many/predictions.jsonl").read_text("utf-8")


@pytest.mark.parametrize("writes", [False, True])
def test_predict(writes: bool, tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path) -> None:
    column = "prompt" if writes else "text"
    rows = [{column: row["text"]} for row in sentiment_rows(40)]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    args = ["predict", str(tiny_model_dir), "--file", str(file), *([] if writes else ["--task", str(sentiment_file)])]
    args += ["--max-new-tokens", "4"] if writes else []
    alone = run(zofo_main, *args, "--output", str(tmp_path / "one.jsonl"))
    assert alone.returncode == 0, alone.stderr
    for each in in_ranks(3, *args, "--output", str(tmp_path / "many.jsonl")):
        assert each.returncode == 0, each.stderr
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "many.jsonl").read_bytes()
    assert {path.name for path in tmp_path.glob("*")} == {"rows.jsonl", "one.jsonl", "many.jsonl", "sentiment.jsonl"}


def train(model: Path, rows: Path, out: Path, *more: str) -> list[str]:
    fixed = ["train", "--model", str(model), "--task", str(rows), "--method", "mezo", "train.batch_size=4"]
    return [*fixed, "train.eval_steps=20", "train.save_steps=20", "--output-dir", str(out), *more]


@pytest.mark.slow
def test_nproc(tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path) -> None:
    """torch's own launcher: a run, and the exit code of one that fails, with what is wrong said once."""
    settings = ["--nproc", "2", "--max-steps", "20"]
    done = zofo(*train(tiny_model_dir, sentiment_file, tmp_path / "run", *settings))
    assert done.returncode == 0, done.stderr
    assert "2 ranks: 1 query x 2 data" in done.stderr
    assert json.loads((tmp_path / "run/run.json").read_text("utf-8"))["world_size"] == 2
    again = zofo(*train(tiny_model_dir, sentiment_file, tmp_path / "run", *settings, "rule.clp=1"))
    assert again.returncode == 2
    assert again.stderr.count("rule.clp") == 1
    third = zofo(*train(tiny_model_dir, sentiment_file, tmp_path / "run", *settings))
    assert third.returncode == 2
    assert "this run already" in third.stderr


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_launcher_saves_once(
    sent: signal.Signals, tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path
) -> None:
    args = train(tiny_model_dir, sentiment_file, tmp_path / "run", "--nproc", "2", "--max-steps", "100000")
    process = subprocess.Popen([sys.executable, "-m", "zofo", *args], stderr=subprocess.PIPE, text=True)
    journal, until = tmp_path / "run/journal.bin", time.monotonic() + 90
    while not (journal.is_file() and journal.stat().st_size > read_header(journal)[1]):
        assert time.monotonic() < until
        time.sleep(0.1)
    os.kill(process.pid, sent)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 128 + sent, err
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) >= 1
    assert "--resume latest" in err
    assert "Traceback" not in err


def zofo(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "zofo", *args], capture_output=True, text=True, timeout=170)
