"""`zofo predict` as a user meets it: its help, what it prints and where, and being stopped by real signals."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from tests import forked
from tests.conftest import read_rows, write_rows
from tests.cut import cut
from tests.unanswered import ROWS, names, predicted, sentiment_run, small_parts
from zofo.cli import main as cli


@pytest.fixture(scope="module")
def run(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sentiment_run(tiny_model_dir, tmp_path_factory.mktemp("predicted"))


@pytest.fixture(scope="module")
def uncut(run: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return predicted(run, tmp_path_factory.mktemp("uncut"))


def args(run: Path, folder: Path, *more: str, kind: str = ".jsonl") -> list[str]:
    return ["predict", str(run), "--file", str(folder / f"rows{kind}"), "--output", str(folder / f"out{kind}"), *more]


def cut_with_small_parts(*given: str) -> None:
    """`cut`, or without a signal the command alone, with four rows a part. The process is thrown away."""
    small_parts(pytest.MonkeyPatch())
    if given[0].isdecimal():
        cut(*given)
    else:
        forked.zofo_main(*given)


@pytest.mark.parametrize(
    ("sent", "call", "holding", "code"),
    [
        (signal.SIGKILL, "os:replace", "000001.jsonl", -9),
        pytest.param(signal.SIGKILL, "os:replace", ".joined", -9, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, "os:replace", "plan.json", -9, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, "os:replace", "000002.counts", -9, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "os:replace", "000001.jsonl", -15, marks=pytest.mark.slow),
        (signal.SIGINT, "os:replace", "000001.jsonl", 130),
    ],
)
def test_stopped_and_given_again(
    sent: int, call: str, holding: str, code: int, run: Path, uncut: bytes, tmp_path: Path
) -> None:
    """The bytes of the command that was not stopped, and nothing beside them."""
    write_rows(tmp_path / "rows.jsonl", ROWS)
    done = forked.run(cut_with_small_parts, str(int(sent)), call, holding, "1", *args(run, tmp_path))
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    if sent == signal.SIGINT:
        assert "rows.jsonl: 4 of 11 rows are answered; the same command goes on from there" in done.stderr
    again = forked.run(cut_with_small_parts, *args(run, tmp_path))
    assert again.returncode == 0, again.stderr
    if "000001" in holding:
        assert "rows.jsonl: 8 of 11 rows are answered already" in again.stderr
    assert (tmp_path / "out.jsonl").read_bytes() == uncut
    assert names(tmp_path) == ["out.jsonl", "rows.jsonl"]
    assert json.loads(again.stdout)["rows"] == 11


def test_what_is_printed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a file one line of JSON, of texts one for each; nothing else on standard output."""
    (tmp_path / "rows.csv").write_text("id,text\n7,a film\n8,b\n")
    assert cli.run(args(run, tmp_path, kind=".csv")) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary == {"rows": 2, "output": str(tmp_path / "out.csv"), "predictions": summary["predictions"]}
    assert (
        (tmp_path / "out.csv").read_text().startswith("id,text,prediction,probability_great,probability_terrible\n7,a ")
    )
    assert cli.run(["predict", str(run), "--text", "a film", "--text", "b é"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["input"] for line in lines] == ["a film", "b é"]
    assert all(set(line) == {"input", "prediction", "probability"} for line in lines)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--file", "{rows}"], "give --file FILE and --output FILE, or --text TEXT"),
        (["--output", "{out}"], "give --file FILE and --output FILE, or --text TEXT"),
        ([], "give --file FILE and --output FILE, or --text TEXT"),
        (["--text", "a", "--file", "{rows}"], "--text: prints the answers; leave out --file"),
        (["--text", "a", "--prefix", "x"], "--text: prints the answers"),
        (["--text", "a", "--overwrite"], "--text: prints the answers"),
        (["--text", ""], "is empty"),
        (["--fil", "{rows}"], "No such option"),
        (["--file", "{rows}", "--output", "{out}", "--batch-size", "0"], "should be greater than or equal to 1"),
        (["--file", "{rows}", "--output", "{out}", "--max-new-tokens", "0"], "should be greater than or equal to 1"),
        (["--file", "{rows}", "--output", "{out}", "--max-new-tokens", "9"], "an option is chosen here"),
        (["--file", "{rows}", "--output", "{out}", "--text-column", "txt"], 'no column "txt"'),
        (["--file", "{rows}", "--output", "{out}", "--adapter", "q"], "adapter 'q'"),
        (["--file", "{rows}", "--output", "{out}", "--task", "sst3"], 'unknown task "sst3"'),
        (["--file", "{rows}", "--output", "{out}", "--model", "/nowhere"], "no such model directory"),
        (["--file", "{rows}", "--output", "{out}", "task.scorin=sum"], 'task.scorin: unknown field; did you mean "sc'),
        (["--file", "{rows}", "--output", "{out}", "--seed", "x"], "should be a valid integer"),
        (["--file", "{rows}x", "--output", "{out}"], "no such file|unknown kind"),
        (["--file", "{rows}", "--output", "{out}x"], "in its own kind"),
    ],
)
def test_a_slip_in_every_option(
    more: list[str], words: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"rows": write_rows(tmp_path / "rows.jsonl", ROWS), "out": tmp_path / "new" / "out.jsonl"}
    assert cli.run(["predict", str(run), *(part.format(**places) for part in more)]) == 2
    shown = capsys.readouterr()
    assert re.search(words, " ".join(shown.err.split())), shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert names(tmp_path) == ["rows.jsonl"], "nothing is written"


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["predict", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for option in ("--file", "--output", "--text", "--text-column", "--prefix", "--task", "--adapter", "--model",
                   "--max-new-tokens", "--batch-size", "--seed", "--overwrite"):  # fmt: skip
        assert option in shown
    assert "Answer rows that have no label" in shown


def on_a_terminal(*given: str) -> None:
    """The command with standard output and error on a terminal of 100 columns."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    if os.fork():
        os.close(follower)
        with Path(given[0]).open("wb") as file:
            while True:
                try:
                    piece = os.read(leader, 4096)
                except OSError:
                    break
                if not piece:
                    break
                file.write(piece)
        os.wait()
        return
    for number in (1, 2):
        os.dup2(follower, number)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", encoding="utf-8", closefd=False) for n in (1, 2))
    os.environ["TERM"] = "xterm"
    small_parts(pytest.MonkeyPatch())
    forked.zofo_main(*given[1:])


def test_on_a_terminal(run: Path, tmp_path: Path) -> None:
    """A bar with how many rows are done and the time left; then one line for a person."""
    write_rows(tmp_path / "rows.jsonl", ROWS)
    forked.run(on_a_terminal, str(tmp_path / "shown"), *args(run, tmp_path))
    shown = (tmp_path / "shown").read_text("utf-8")
    assert "predicting rows.jsonl" in shown
    assert "/11" in shown
    assert "0:00:0" in shown or "-:--:--" in shown, "the time left"
    assert "11 rows answered: " in shown.replace("\r\n", "\n")
    assert len(read_rows(tmp_path / "out.jsonl")) == 11
    forked.run(on_a_terminal, str(tmp_path / "said"), "predict", str(run), "--text", "a \x1b[31mfilm")
    said = (tmp_path / "said").read_text("utf-8")
    assert "\x1b[31m" not in said, "a text steers no terminal"
    assert "(great 0." in said or "(terrible 0." in said


def test_off_a_terminal(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A line every half minute, with the time left; here the clock runs fast."""
    clock = iter(range(0, 100_000, 20))
    monkeypatch.setattr(sys.modules["zofo.train.progress"].time, "monotonic", lambda: float(next(clock)))
    small_parts(monkeypatch)
    write_rows(tmp_path / "rows.jsonl", ROWS)
    assert cli.run(args(run, tmp_path, "--batch-size", "2")) == 0
    shown = capsys.readouterr().err.splitlines()
    lines = [line for line in shown if line.startswith("predicting rows.jsonl: ")]
    assert "looking at rows.jsonl: 8" in shown, "all rows are looked at before the first is answered"
    assert 0 < len(lines) < 8
    assert all("/11, " in line and line.endswith(" left") for line in lines)
