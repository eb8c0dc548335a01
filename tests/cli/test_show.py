"""`zofo ls`, `show` and `env`: every entry, as lines in a pipe and as tables on a terminal."""

from __future__ import annotations

import sys

import pytest

from zofo.cli import main as cli
from zofo.config import registry


@pytest.mark.parametrize("kind", registry.KINDS)
def test_ls_is_one_tab_separated_line_each_in_a_pipe(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    for argument in (kind, registry.singular(kind)):
        assert cli.run(["ls", argument]) == 0
        rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
        assert [row[0] for row in rows] == registry.names(kind)
        assert all(len(row) == 2 and row[1] for row in rows)


@pytest.mark.parametrize("name", [f"{kind}/{name}" for kind in registry.KINDS for name in registry.names(kind)])
def test_show_every_entry(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["show", name]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{registry.singular(name.split('/')[0])} {name.split('/')[1]}\n")


def test_show_prints_fields_types_defaults_and_the_paper(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["show", "bilevel_zofo"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines() if line.startswith("method.")]
    lam = next(row for row in rows if row[0] == "method.lam")
    assert lam[1] == "a number, >= 0"
    assert float(lam[2]) == 10
    assert "4.3" in lam[4]
    assert cli.run(["show", "train"]) == 0
    assert "train.batch_size\tan integer, >= 1\t16\t" in capsys.readouterr().out


def test_show_and_ls_draw_tables_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    assert cli.run(["show", "mezo"]) == 0
    out = capsys.readouterr().out
    assert "what it does" in out
    assert "in the paper" in out
    assert "\t" not in out
    assert cli.run(["ls"]) == 0
    assert "bilevel-zofo" in capsys.readouterr().out


def test_env_names_versions_and_hardware(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["env"]) == 0
    rows = dict(line.split("\t", 1) for line in capsys.readouterr().out.splitlines())
    assert {"zofo", "python", "torch", "transformers", "peft", "cpu", "cores", "memory"} <= set(rows)
