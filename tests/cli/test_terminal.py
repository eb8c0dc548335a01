"""What data, names and errors hold never steers a terminal: every verb, on a pseudo-terminal, with texts that would."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import select
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer

from tests import forked
from tests.conftest import write_rows
from tests.small_setting import make_setting
from zofo.cli.main import app
from zofo.cli.process import guarded
from zofo.cli.streams import Guarded
from zofo.errors import printable

# the clipboard, a title, the screen cleared, hidden text, 8-bit CSI, a bell, backspaces, the line overwritten, bidi
EVIL = (
    "\x1b]52;c;RVZJTA==\x07\x1b]0;EVIL\x07"
    + "\x1b[2J\x1b[8;97;45m\x9b31m\x07\x08\x08\rEVIL\x1bc\x0b\x0c\u202eLIVE\u2066\u2028"
)
STEERS = [
    *(b"\x1b]", b"\x1bc", b"\x1b[2J", b"\x1b[8", b"\x07", b"\x08", b"\rEVIL", b"\x0b", b"\x0c", b"\x7f"),
    *(text.encode() for text in ("\x9b", "\u202e", "\u2066", "\u2028")),
]


def all_of(file: str) -> None:
    """One process for all: what `zofo` does at each command line, with the streams as they were before."""
    streams = sys.stdout, sys.stderr
    for args in json.loads(Path(file).read_text()):
        print("=====", len(args), flush=True)
        print("exit", guarded(app, args))
        sys.stdout.flush()
        sys.stdout, sys.stderr = streams


def on_a_terminal(commands: list[list[str]], folder: Path) -> list[bytes]:
    """What a terminal is sent by each command: its standard output and error."""
    (folder / "commands.json").write_text(json.dumps(commands))
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "200", "FORCE_COLOR": ""}
    env = {key: value for key, value in env.items() if key not in ("NO_COLOR", "FORCE_COLOR", "CI")}
    here, terminal = os.getcwd(), Path(os.ttyname(theirs))
    os.chdir(folder)
    with ThreadPoolExecutor(1) as pool:
        run = partial(forked.run, all_of, str(folder / "commands.json"), env=env, timeout=300)
        process, sent = pool.submit(run, streams=(terminal, terminal), given=terminal), b""
        while not process.done() or select.select([ours], [], [], 0)[0]:
            if select.select([ours], [], [], 0.1)[0]:
                sent += os.read(ours, 1 << 16)
        process.result()
    os.chdir(here)
    os.close(theirs)
    os.close(ours)
    parts = sent.split(b"===== ")[1:]
    assert len(parts) == len(commands), sent.decode(errors="replace")[-3000:]
    return parts


def rows(n: int) -> list[dict[str, Any]]:
    words = ("dull", "warm")
    return [
        {"id": f"row{EVIL}{i}", "text": f"{EVIL} a {words[i % 2]} film {i}{EVIL}", "label": f"{words[i % 2]}{EVIL}"}
        for i in range(n)
    ]


@pytest.fixture
def folder(tmp_path: Path, tiny_model_dir: Path) -> Path:
    """With hostile rows under a hostile name, hostile tasks and a broken row."""
    (tmp_path / "model").symlink_to(tiny_model_dir)
    named = EVIL.replace("/", "")
    (tmp_path / f"rows{named}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(24)))
    (tmp_path / "broken.jsonl").write_text(
        json.dumps({"text": "a", "label": EVIL, EVIL: EVIL}) + "\n" + json.dumps({"text": "a", "label": [EVIL]}) + "\n"
    )
    (tmp_path / f"prompts{named}.txt").write_text("one film\nanother film\n")
    numbered = [{**row, "label": i % 2} for i, row in enumerate(rows(4))]
    (tmp_path / "numbered.jsonl").write_text("".join(json.dumps(row) + "\n" for row in numbered))
    labels = [f"dull{EVIL}", f"warm{EVIL}"]
    task: dict[str, Any] = {
        "version": 1,
        "source": EVIL,
        "description": f"what {EVIL}",
        "kind": "options",
        "columns": ["text", "label"],
        "gold": "label",
        "metric": "accuracy",
        "objective": "options",
        "labels": labels,
        "templates": {"default": {"prompt": "{{ text }}" + EVIL, "answers": labels}},
        "demonstrations": numbered[:2],
    }
    (tmp_path / f"task{named}.yaml").write_text(json.dumps(task))
    return tmp_path


def of_studies(start: list[str], small: list[str], data: str, out: str, named: str) -> dict[str, list[str]]:
    """What is done with several runs, and with rows without labels."""
    return {
        "predict": ["predict", out, "--file", data, "--output", f"answers{named}.jsonl"],
        "second": ["train", *start, *small, "--output-dir", f"second{named}", "--seed", "1"],
        "compare": ["compare", out, f"second{named}"],
        "diff": ["diff", out, f"second{named}"],
        "report": ["report", out],
        "signal": ["signal", out, "--limit", "8", "--directions", "2"],
        "sweep": ["sweep", f"plan{named}.yaml", "--output-dir", f"study{named}"],
        "ablate": ["ablate", *start, *small, "--vary", "method.lr=1e-4", "--output-dir", f"ablation{named}"],
        "sensitivity": ["sensitivity", *start, *small, "--output-dir", f"words{named}"],
    }


def of_a_bench(folder: Path, named: str) -> list[str]:
    """A contender of somebody else's, on rows with such texts."""
    rows = [{"sentence": f"film {i} {EVIL}", "label": i % 2} for i in range(200)]
    write_rows(folder / f"bench{named}" / "sst2" / "train.jsonl", rows)
    settings = {"method.name": "mezo", "method.lr": 1e-5}
    contender = json.dumps({"paper": EVIL, "settings": settings, "forwards": 24})
    (folder / f"mine{named}.yaml").write_text(f"# {printable(EVIL)} \x9b31m\n{contender}")
    args = ["--reduced", "--no-estimate", "--model", "model", "--data", f"bench{named}", "--by", EVIL]
    return ["bench", "run", f"mine{named}.yaml", *args, "--output-dir", f"board{named}"]


def refused(start: list[str], data: str, out: str) -> dict[str, list[str]]:
    return {
        "unknown task": ["train", "--model", "model", "--task", f"x{EVIL}", "--output-dir", out],
        "unknown option": ["train", f"--{EVIL}", EVIL],
        "unknown setting": ["train", *start, f"train.{EVIL}={EVIL}", f"{EVIL}={EVIL}"],
        "unknown model": ["eval", f"./{EVIL}", "--task", data],
        "unknown federation": ["federated", "client", f"./{EVIL.replace('/', '')}.yaml"],
        "unknown field of a federation": [
            "federated",
            "server",
            f"fed{EVIL.replace('/', '')}.yaml",
            f"federation.{EVIL}={EVIL}",
        ],
        "unknown name": ["show", EVIL],
        "unknown verb": [EVIL],
        "debug": ["eval", f"./{EVIL}", "--task", data, "--debug"],
    }


def commands(folder: Path) -> dict[str, list[str]]:
    named = EVIL.replace("/", "")
    data, out = f"rows{named}.jsonl", f"out{named}"
    small = ["train.max_steps=4", "train.batch_size=2", "train.eval_steps=2", "train.save_steps=2"]
    start = ["--model", "model", "--task", data, "--method", "mezo"]
    absent = ["film", "kind", "quiz", f"absent{named}"]
    setting = make_setting(folder / f"set{named}", description=EVIL, source=EVIL, target=absent)
    there = str(setting.parent / "data")
    cadence = {"max_steps": 2, "batch_size": 2, "eval_steps": 2, "save_steps": 2}
    plan = {"model": "model", "task": {"name": data}, "methods": ["mezo"], "search": {"method.lr": [1e-5, 1e-4]}}
    (folder / f"plan{named}.yaml").write_text(json.dumps(plan | {"seeds": [0], "train": cadence}))
    federation = {"model": "model", "method": "mezo", "task": {"train_file": data}, "simulate": {"clients": 2}}
    (folder / f"fed{named}.yaml").write_text(json.dumps(federation))
    return {
        "validate": ["validate", *start, "--output-dir", out],
        "memory": ["memory", *start, "--measure"],
        "dry-run": ["train", *start, *small, "--output-dir", out, "--dry-run"],
        "train": ["train", *start, *small, "--output-dir", out],
        "again": ["train", *start, *small, "--output-dir", out],
        "resume": ["train", *start, *small, "--output-dir", out, "--resume", "latest", "--max-steps", "6"],
        "other": ["train", *start, *small, "--output-dir", out, "--resume", f"nowhere{EVIL}"],
        "eval": ["eval", out, "--output", f"scored{named}"],
        "eval of a model": ["eval", "model", "--task", data],
        "generate": [
            "generate",
            out,
            "--prompt",
            f"film {EVIL}",
            "--prompt",
            "b",
            *("--max-new-tokens", "8", "--seed", "3"),
        ],
        "generate hot": ["generate", "model", "--file", f"prompts{named}.txt", "--temperature", "9"],
        "export": ["export", out, f"export{named}"],
        "meta-test": [
            "meta-test",
            "model",
            "--task",
            str(setting),
            "--data",
            there,
            "--ways",
            "zero-shot",
            "--test-examples",
            "4",
        ],
        **of_studies(start, small, data, out, named),
        "bench": of_a_bench(folder, named),
        "bench of none": ["bench", "check", f"bench{named}", f"rows{named}.jsonl"],
        "check": ["check", "--tiny", "--device", "cpu"],
        "env": ["env"],
        "ls": ["ls", "methods"],
        "show": ["show", f"task{named}.yaml"],
        "show data": ["show", f"task{named}.yaml", "--data", "numbered.jsonl"],
        "show setting": ["show", str(setting), "--data", there],
        "convert": ["data", "meta", data, "--output-dir", f"converted{named}"],
        "broken": ["train", "--model", "model", "--task", "broken.jsonl", "--method", "mezo", "--output-dir", out],
        **refused(start, data, out),
    }


def test_no_verb_sends_a_terminal_what_data_hold(folder: Path) -> None:
    lines = commands(folder)
    known: Any = typer.main.get_command(app)
    elsewhere = {"chat", "quickstart"}  # which waits for a person (test_chat.py); which has data of its own
    assert {line[0] for line in lines.values()} >= set(known.commands) - elsewhere
    sent = dict(zip(lines, on_a_terminal(list(lines.values()), folder), strict=True))
    for verb, what in sent.items():
        for sequence in STEERS:
            at = what.find(sequence)
            assert at < 0, (verb, sequence, what[max(0, at - 200) : at + 50])
    done = {verb for verb, what in sent.items() if b"exit 0" in what}
    failed = {
        verb: sent[verb].decode()[-600:]
        for verb in lines
        if not verb.startswith(("unknown", "b", "d")) and verb not in done
    }
    assert failed.keys() <= {"again", "other"}, "\n".join(failed.values())
    assert b"\x1b[" in sent["train"], "rich steers it still: the line that shows how far the run is"
    for verb in ("dry-run", "train", "show", "generate hot", "unknown task", "unknown verb", "broken"):
        assert b"\\x1b" in sent[verb], (verb, "the text was shown, and as its escape")


def test_what_a_library_draws_is_let_through_and_nothing_else() -> None:
    class Terminal(io.StringIO):
        def __init__(self) -> None:
            super().__init__()
            self.writes: list[str] = []

        def write(self, text: str) -> int:
            self.writes.append(text)
            return len(text)

        def isatty(self) -> bool:
            return True

    screen = Terminal()
    stream: Any = Guarded(screen, bars=True)
    stream.write("\r 50%|###   | 1/2")
    stream.write("\n\n\x1b[A\x1b[A")
    stream.write("\r\x1b[2J")
    stream.write("a\rb\x1b[A")
    stream.steering.write("\x1b[1mbold")
    assert screen.writes == ["\r 50%|###   | 1/2", "\n\n\x1b[A\x1b[A", "\r\\x1b[2J", "a\\rb\\x1b[A", "\x1b[1mbold"]
    plain: Any = Guarded(screen)
    screen.writes.clear()
    plain.write("\rEVIL")
    assert screen.writes == ["\\rEVIL"]


def test_a_file_and_a_pipe_get_the_text_itself(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w", encoding="utf-8", newline="") as file:
        Guarded(file).write(EVIL)
    assert (tmp_path / "file").read_bytes().decode() == EVIL


def test_warnings_quote_data_as_escapes(caplog: pytest.LogCaptureFixture) -> None:
    """Of a caller in Python too, whose standard error nobody guards."""
    logging.getLogger("zofo").warning("a row: %s", EVIL)
    (record,) = caplog.records
    assert record.getMessage() == f"a row: {printable(EVIL, plain=chr(10))}"
    assert "\x1b" not in caplog.text
