"""Settings of many tasks on the command line: one to spoil, what it is refused with, and a meta-test's output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.small_setting import make_setting, train_args
from zofo.cli import main as cli

METATEST_ARGS = ["--seeds", "100,13,21", "--rates", "1e-3,1e-2", "--rate-runs", "1", "--steps", "4"]


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    """The file of a small setting, for the test to spoil."""
    return make_setting(tmp_path / "spoilt")


@pytest.fixture
def refusal(tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """refusal(verb, setting, *more) -> the error's lines, one by one in a text; nothing was written."""

    def run(verb: str, setting: Path | str, *more: str, data: Path | str | None = "", method: str = "bank") -> str:
        """data: "" is the directory beside the setting's file, None gives no --data."""
        out, task = tmp_path / "out", ["--task", str(setting)]
        if data is not None:
            task += ["--data", str(data or Path(setting).parent / "data")]
        if verb == "train":
            args = train_args(tiny_model_dir, task, out, method, *more)
        else:
            args = ["meta-test", str(tiny_model_dir), "--output", str(out), *task, *more]
        code = cli.run(args)
        shown = capsys.readouterr().err
        assert code == 2, shown
        assert "Traceback" not in shown
        assert not out.exists(), "nothing is written"
        return "\n".join(line.removeprefix("error: ") for line in shown.splitlines() if line.startswith("error: "))

    return run


@pytest.fixture
def shown_by(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """shown_by(*args) -> the standard output of `zofo ARGS`, which succeeds."""

    def run(*args: str) -> str:
        capsys.readouterr()
        assert cli.run(list(args)) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="session")
def metatest_args(run_of: Any) -> Callable[[Path], list[str]]:
    """metatest_args(out) -> the command line that made `uncut_output`, but for its directory."""
    return lambda out: ["meta-test", str(run_of("shared")), "--output", str(out), *METATEST_ARGS]


@pytest.fixture(scope="session")
def uncut_output(metatest_args: Callable[[Path], list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a meta-test of the shared run wrote. Read only."""
    out = tmp_path_factory.mktemp("uncut") / "out"
    assert cli.run(metatest_args(out)) == 0
    return out
