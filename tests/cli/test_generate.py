"""`zofo generate` as a user meets it: where prompts come from, what is printed, and the one line for each fault."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests import forked
from tests.conftest import CHAT_TEMPLATE
from zofo.api.generate import generate
from zofo.cli import main as cli
from zofo.errors import printable

TEXTS = ["a warm film", "the plot"]


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def expected(tiny_model_dir: Path) -> list[dict[str, Any]]:
    completions = generate(tiny_model_dir, TEXTS, max_new_tokens=5)
    return [{"prompt": prompt, "completion": text} for prompt, text in zip(TEXTS, completions)]


def test_a_process_of_its_own(tiny_model_dir: Path, expected: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "in").write_text("\n".join(TEXTS))
    args = ["generate", str(tiny_model_dir), "--max-new-tokens", "5"]
    done = forked.run(forked.zofo_main, *args, given=tmp_path / "in")
    assert done.returncode == 0, done.stderr
    assert lines(done.stdout) == expected
    assert "error" not in done.stderr.lower()


def test_where_prompts_come_from(
    tiny_model_dir: Path, expected: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_text("a warm film\n\nthe plot\n")
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"n": 1, "prompt": t}) + "\n" for t in TEXTS))
    (tmp_path / "prompts.csv").write_text("prompt\n" + "\n".join(TEXTS) + "\n")
    common = ["generate", str(tiny_model_dir), "--max-new-tokens", "5"]
    for source in (
        ["--prompt", TEXTS[0], "--prompt", TEXTS[1]],
        *(["--file", str(tmp_path / f"prompts.{kind}")] for kind in ("txt", "jsonl", "csv")),
    ):
        assert cli.run([*common, *source]) == 0
        assert lines(capsys.readouterr().out) == expected
    out = tmp_path / "new" / "out.jsonl"
    assert cli.run([*common, "--file", str(tmp_path / "prompts.txt"), "--output", str(out)]) == 0
    assert capsys.readouterr().out == ""
    assert lines(out.read_text()) == expected


def test_a_terminal_gets_text(
    tiny_model_dir: Path, expected: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    common = ["generate", str(tiny_model_dir), "--max-new-tokens", "5"]
    assert cli.run([*common, "--prompt", TEXTS[0]]) == 0
    assert capsys.readouterr().out == expected[0]["completion"] + "\n"
    assert cli.run([*common, "--prompt", TEXTS[0], "--prompt", TEXTS[1]]) == 0
    one, two = (row["completion"] for row in expected)
    assert two != printable(two), "it has a control character, which a terminal is shown as its escape"
    assert capsys.readouterr().out == f"--- prompt 1\n{one}\n--- prompt 2\n{printable(two)}\n"


def test_options_reach_the_model(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["generate", str(tiny_model_dir), "--prompt", "the plot", "--temperature", "2"]

    def said(*options: str) -> str:
        assert cli.run([*base, *options]) == 0
        return lines(capsys.readouterr().out)[0]["completion"]

    whole = said("--max-new-tokens", "30")
    assert said("--max-new-tokens", "30") == whole
    assert said("--max-new-tokens", "30", "--seed", "1") != whole
    assert said("--max-new-tokens", "30", "--top-p", "0.000001") != whole
    assert len(said("--max-new-tokens", "3")) < len(whole)
    end = whole[len(whole) // 2]
    assert said("--max-new-tokens", "30", "--stop", "never said", "--stop", end) == whole[: whole.index(end)]


def test_escapes_in_a_stop() -> None:
    from zofo.cli.generate import unescaped

    assert unescaped(r"\n\n") == "\n\n"
    assert unescaped(r"a\tb") == "a\tb"


def test_chats(tiny_model_dir: Path, chat_tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    folder = tmp_path / "chat"
    shutil.copytree(tiny_model_dir, folder)
    chat_tokenizer.save_pretrained(folder)
    assert "assistant" in CHAT_TEMPLATE
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "what the data says"}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    common = ["generate", str(folder), "--max-new-tokens", "5"]
    assert cli.run([*common, "--chat", "--prompt", "hello"]) == 0
    (chat,) = lines(capsys.readouterr().out)
    assert cli.run([*common, "--file", str(tmp_path / "rows.jsonl")]) == 0
    (row,) = lines(capsys.readouterr().out)
    assert row == {"prompt": turns, "completion": chat["completion"]}
    assert cli.run([*common, "--prompt", "hello"]) == 0
    assert lines(capsys.readouterr().out)[0]["completion"] != chat["completion"]


@pytest.mark.parametrize(
    ("options", "file", "line"),
    [
        ([], None, "no prompt: give --prompt TEXT, --file FILE, or one prompt a line on the standard input"),
        (["--prompt", "a"], ("p.txt", "a"), "give --prompt or --file, not both"),
        ([], ("p.txt", "\n \n"), "{file}: no prompts, expected one a line"),
        ([], ("p.jsonl", ""), "{file}: no rows"),
        ([], ("p.jsonl", '{"promt": "a"}'), "{file}: needs a column prompt or messages; has: promt"),
        ([], ("p.jsonl", '{"prompt": 3}'), "p.jsonl:1: prompt must be a text"),
        ([], ("p.jsonl", '{"prompt": "a"}\n{"text": "b"}'), "p.jsonl:2: prompt must be a text"),
        ([], ("p.jsonl", '{"messages": "a"}'), "p.jsonl:1: messages must be a list of turns with role and content"),
        ([], ("p.jsonl", '{"prompt": '), "p.jsonl:1: bad JSON"),
        ([], ("p.txt", b"\xff\xfe"), "{file}: not UTF-8"),
        (["--file", "nowhere.txt"], None, "nowhere.txt: no such file or directory"),
        (["--prompt", "a", "--chat"], None, "{model}: the model's tokenizer has no chat template"),
        (["--prompt", "f" * 200], None, "prompt 1: 201 tokens, and the model takes 128; shorten it"),
        (["--prompt", "a", "--temperature", "-1"], None, "temperature: must be >= 0, got -1.0"),
        (["--prompt", "a", "--top-p", "2"], None, "top_p: must be > 0 and <= 1, got 2.0"),
        (["--prompt", "a", "--max-new-tokens", "0"], None, "max_new_tokens: must be >= 1, got 0"),
        (["--prompt", "a", "--stop", ""], None, "stop: expected a list of texts, none of them empty"),
        (["--prompt", "a", "--adapter", "p"], None, "{model} is no run, so it has no adapters to choose from"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_2(
    options: list[str],
    file: tuple[str, str | bytes] | None,
    line: str,
    tiny_model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    extra, out = [], tmp_path / "out.jsonl"
    if file is not None:
        path = tmp_path / file[0]
        path.write_bytes(file[1] if isinstance(file[1], bytes) else file[1].encode())
        extra = ["--file", str(path)]
    assert cli.run(["generate", str(tiny_model_dir), *extra, *options, "--output", str(out)]) == 2
    errors = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error")]
    assert len(errors) == 1
    assert errors[0].startswith("error: " + line.format(file=tmp_path / (file or ("",))[0], model=tiny_model_dir))
    assert not out.exists()


def test_a_target_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["generate", "./nowhere", "--prompt", "a"]) == 2
    assert capsys.readouterr().err == "error: ./nowhere: no such directory\n"
