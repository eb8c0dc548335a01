"""`zofo chat`: turns from a pipe and on a pseudo-terminal, what is said of the history, commands, refusals."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import select
import signal
import sys
import termios
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import forked
from tests.chat_templates import CHATML, INST, with_template
from tests.conftest import llama_config, make_tokenizer, save_tiny, sentiment_rows, write_rows
from zofo import finetune
from zofo.api.chat import open_chat
from zofo.api.generate import generate
from zofo.cli import main as cli
from zofo.cli.main import app
from zofo.cli.process import guarded
from zofo.data import ending

NEW = ["--max-new-tokens", "8"]
STEERS = [*(b"\x1b]", b"\x1bc", b"\x1b[2J", b"\x1b[8", b"\x07", b"\x08", b"\x0b", b"\x0c", b"\x7f"), "\x9b".encode()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with ChatML's template, of 128 positions."""
    tokenizer = with_template(make_tokenizer, CHATML)
    return save_tiny(tmp_path_factory.mktemp("chat"), llama_config(tokenizer, tied=True), tokenizer)


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a system turn."""
    root = tmp_path_factory.mktemp("run")
    task: Any = {"name": str(write_rows(root / "rows.jsonl", sentiment_rows(40)))}
    task |= {"apply_chat_template": True, "system": "be kind"}
    return finetune(str(folder), task, "mezo", output_dir=root / "run", max_steps=1, batch_size=2).path


def piped(text: str, monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    return cli.run(["chat", *map(str, args)])


def said(out: str) -> list[str]:
    return [json.loads(line)["completion"] for line in out.splitlines()]


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def test_each_line_is_a_turn_and_the_history_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_rng_state()
    assert piped("hello\n\n//one\n", monkeypatch, folder, *NEW) == 0
    out, err = capsys.readouterr()
    assert err == ""
    first, second = said(out)
    assert [json.loads(line)["prompt"] for line in out.splitlines()] == ["hello", "/one"]
    assert generate(folder, [turns("hello")], max_new_tokens=8) == [first]
    assert generate(folder, [turns("hello", first, "/one")], max_new_tokens=8) == [second]
    hot = [*NEW, "--temperature", "2"]
    outs = []
    for seed in (0, 0, 1):
        assert piped("hello\nhello\n/reset\nhello", monkeypatch, folder, *hot, "--seed", seed) == 0
        outs.append(said(capsys.readouterr().out))
    assert outs[0] == outs[1]
    assert outs[0] != outs[2]
    assert outs[0][0] == outs[0][2] != outs[0][1], "a conversation that begins anew is the same again"
    assert torch.equal(torch.get_rng_state(), before)


def test_an_answer_is_heard_as_it_is_written(folder: Path) -> None:
    chat, pieces = open_chat(folder, max_new_tokens=20, temperature=3.0), list[str]()
    answer = chat.ask("hello", pieces.append)
    assert len(pieces) > 5
    assert all(later.startswith(earlier) for earlier, later in zip(pieces, [*pieces[1:], answer.text]))
    assert generate(folder, [turns("hello")], max_new_tokens=20)  # another key, so another text: the same way
    assert chat.messages == turns("hello", answer.text)


@pytest.mark.parametrize(
    ("text", "stops", "settled"),
    [
        ("a b", (), "a b"),
        ("a b\n", ("\n\n",), "a b"),
        ("a b\nc", ("\n\n",), "a b\nc"),
        ("a STO", ("STOP", "x"), "a "),
        ("a STOP b", ("STOP",), "a "),
        ("caf\ufffd", (), "caf"),
        ("aab", ("aabaac", "bd"), ""),
    ],
)
def test_what_is_settled(text: str, stops: tuple[str, ...], settled: str) -> None:
    assert ending.settled(text, stops) == settled


def test_the_oldest_turns_are_left_out_and_it_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "the film " * 6
    assert piped(f"{line}\n" * 4, monkeypatch, folder, *NEW, "--system", "be kind") == 0
    out, err = capsys.readouterr()
    answers = said(out)
    notes = [text for text in err.splitlines() if "left out" in text]
    assert notes[0].startswith("note: the conversation is longer than the model's context: its first 2 turns are left")
    system = [{"role": "system", "content": "be kind"}]
    assert generate(folder, [[*system, *turns(line, answers[-2], line)]], max_new_tokens=8) == answers[-1:]
    assert piped(f"{line * 20}\n", monkeypatch, folder, *NEW) == 2
    assert "error: standard input:1: " in (text := capsys.readouterr().err)
    assert "tokens, and the model takes 128; shorten it" in text
    chat = open_chat(folder, max_new_tokens=500)
    chat.ask(line)
    assert chat.ask("a").left_out == 2, "an answer may fill half of the context"


def test_commands(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "talk.jsonl"
    lines = f"hello\n/system be kind\nhello\n/save {file}\n/save {file}\n/help\n/clear\n/system\nhello\n/exit\nhello\n"
    assert piped(lines, monkeypatch, folder, *NEW) == 0
    out, err = capsys.readouterr()
    first, second, third = said(out)
    assert first == third
    system = {"role": "system", "content": "be kind"}
    assert json.loads(file.read_text("utf-8")) == {"messages": [system, *turns("hello", first, "hello", second)]}
    assert cli.run(["generate", str(folder), "--file", str(file), *NEW]) == 0
    assert said(capsys.readouterr().out) == [second], "the row can be asked again"
    for text in ("note: system turn: be kind", "note: no system turn", "note: the conversation begins anew", "/reset"):
        assert text in err
    for line, expected in (
        (f"hello\n/save {file}", f"error: {file}: is there already; give another name"),
        ("/save x.json", "error: standard input:1: nothing was said yet"),
        ("hello\n/save", "error: standard input:2: /save needs the name of a file"),
        ("/sytem a", 'error: standard input:1: no command /sytem; did you mean "/system"?; known: /help, '),
        ("\udcff", "error: standard input:1: not UTF-8"),
        (f"hello\n/save {tmp_path}/no/x.json", f"error: {tmp_path}/no/.x.json.tmp: no such file or directory"),
    ):
        assert piped(line, monkeypatch, folder, *NEW) == 2
        assert capsys.readouterr().err.startswith(expected)


def test_the_system_turn_of_a_run_is_the_default_and_shown(
    trained: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = 'note: the run\'s system turn: "be kind" (--system TEXT for another one, --system "" for none)\n'
    system = {"role": "system", "content": "be kind"}
    row = write_rows(tmp_path / "rows.jsonl", [{"messages": turns("hello")}])
    both = write_rows(tmp_path / "both.jsonl", [{"messages": [{**system, "content": "be brief"}, *turns("hello")]}])
    expected = {
        words: generate(trained, [[{**system, "content": words}, *turns("hello")]], max_new_tokens=8)
        for words in ("be kind", "be brief")
    } | {"": generate(folder, [turns("hello")], max_new_tokens=8)}
    prompt, target = ["--chat", "--prompt", "hello"], str(trained)

    def written(*args: object) -> tuple[list[str], str]:
        assert cli.run(["generate", target, *NEW, *map(str, args)]) == 0
        out, err = capsys.readouterr()
        return said(out), err

    assert written(*prompt) == (expected["be kind"], shown)
    assert written("--file", row) == (expected["be kind"], shown)
    assert written(*prompt, "--system", "be brief") == (expected["be brief"], "")
    assert written("--apply-chat-template", "--prompt", "hello", "--system", "be kind") == (expected["be kind"], "")
    assert written("--file", both)[0] == expected["be brief"], "a conversation with a system turn keeps it"
    alone = written(*prompt, "--system", "")
    assert alone[1] == ""
    assert len({*alone[0], *expected["be kind"], *expected["be brief"]}) == 3
    assert piped("hello", monkeypatch, trained, *NEW) == 0
    assert capsys.readouterr().err == shown
    assert piped("hello", monkeypatch, trained, *NEW, "--system", "") == 0
    out, err = capsys.readouterr()
    assert (said(out), err) == (alone[0], "")


@pytest.mark.parametrize("verb", ["chat", "generate"])
def test_what_is_refused(
    verb: str, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--chat", "--prompt", "hello"] if verb == "generate" else []
    tokenizer = with_template(make_tokenizer, INST)
    inst = save_tiny(tmp_path / "inst", llama_config(tokenizer, tied=True), tokenizer)
    monkeypatch.setattr("sys.stdin", io.StringIO("hello"))
    capsys.readouterr()  # the bars of what saved it

    def error(*args: object) -> str:
        assert cli.run([verb, *map(str, args)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        (line,) = err.splitlines()
        return line

    line = error(inst, *asked, "--system", "be kind")
    assert "chat template refuses these messages: only user and assistant turns; it may take no system turn" in line
    assert error(inst, *asked, "--temperature", "-1") == "error: temperature: must be >= 0, got -1.0"
    assert "did you mean" in error(inst, *asked, "model.devise=cpu")
    monkeypatch.setattr("zofo.models.load._read", lambda *args: pytest.fail("it was loaded"))
    line = error(tiny_model_dir, *asked)
    assert "the model's tokenizer has no chat template; take an instruction-tuned model, or continue plain" in line
    assert "zofo generate" in line
    if verb == "generate":
        line = error(inst, "--prompt", "hello", "--system", "be kind")
        assert line == "error: system: is part of a chat; give --chat too (chat=True in Python)"


# ------------------------------------------------------------------------------------------------------- on a terminal


def talk(interrupts: str, *args: str) -> None:
    """A process whose terminal is the one that it was given: Ctrl-C there reaches it. interrupts: after how many
    tokens of a process's answers a real SIGINT comes, 0 for never; a place in the code, and not a time."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    plain, left = ending.settled, [int(interrupts)]

    def settled(text: str, stops: Any) -> str:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(text, stops)

    ending.settled = settled
    print("exit", guarded(app, ["chat", *args]), flush=True)
    sys.stdout.flush()


def typed(folder: Path, lines: list[bytes], *args: str, interrupts: int = 0) -> bytes:
    """All that the terminal is sent; each line is typed once the prompt is there. Python's readline loses a Ctrl-C that
    comes after it wrote the prompt and before it waits for a key, so that is typed again, as people do."""
    ours, theirs = pty.openpty()
    terminal, sent, at_last = Path(os.ttyname(theirs)), b"", lines[-1]
    env = {**os.environ, "TERM": "xterm-256color"}
    with ThreadPoolExecutor(1) as pool:
        run = partial(forked.run, talk, str(interrupts), str(folder), *args, env=env, timeout=120)
        process = pool.submit(run, streams=(terminal, terminal), given=terminal)
        prompts, silent = 0, 0
        while not process.done() or select.select([ours], [], [], 0)[0]:
            if select.select([ours], [], [], 0.1)[0]:
                sent, silent = sent + os.read(ours, 1 << 16), 0
            else:
                silent += 1
            if silent == 50 and at_last == b"\x03" and not lines:
                silent = os.write(ours, at_last)
            if lines and sent.count(b"> ") > prompts:
                prompts = sent.count(b"> ")
                os.write(ours, lines.pop(0))
        process.result()
    os.close(theirs)
    os.close(ours)
    return sent


def test_a_terminal_is_sent_no_escape_of_the_models(folder: Path) -> None:
    sent = typed(folder, [b"hello\n", b"/nothing\n", b"\n", b"hello\n", b"\x04"], *NEW[:1], "60", "--temperature", "9")
    for sequence in STEERS:
        assert sequence not in sent, sent
    assert b"\\x" in sent, "control characters were written, and shown as their escapes"
    assert b"note: /help lists the commands, Ctrl-D ends" in sent
    assert b"error: this turn: no command /nothing" in sent, "and it goes on"
    assert b"exit 0" in sent


def test_ctrl_c_stops_an_answer_alone_and_ends_at_the_prompt(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "talk.jsonl"
    lines = [b"hello\n", b"the film\n", f"/save {file}\n".encode(), b"\x03"]
    sent = typed(folder, lines, *NEW[:1], "30", "--temperature", "2", interrupts=5)
    assert sent.count(b"note: stopped; what was written stays in the conversation") == 1
    assert b"exit 0" in sent
    messages = json.loads(file.read_text("utf-8"))["messages"]
    whole = open_chat(folder, max_new_tokens=30, temperature=2.0).ask("hello").text
    assert [turn["role"] for turn in messages] == ["user", "assistant"] * 2
    assert whole.startswith(messages[1]["content"])
    assert 0 < len(messages[1]["content"]) < len(whole)
