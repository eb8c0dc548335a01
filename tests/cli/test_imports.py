"""A verb imports what it needs: whatever else is large is in no process that has run it."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import sentiment_rows, write_rows
from zofo.cli.process import libraries

LARGE = (
    *("accelerate", "datasets", "huggingface_hub", "jinja2", "matplotlib", "numba", "numpy", "optuna", "pandas"),
    *("peft", "psutil", "pyarrow", "pydantic", "rich", "safetensors", "scipy", "sklearn", "statsmodels"),
    *("tokenizers", "torch", "transformers", "yaml"),
)
SCRIPT = (
    "import json, sys; from zofo.cli.main import run\n"
    "code = run(sys.argv[2:]); print(json.dumps([code, *(x for x in json.loads(sys.argv[1]) if x in sys.modules)]))"
)
SETTINGS, ROWS = {"pydantic", "yaml"}, {"pydantic", "yaml", "jinja2"}
STATISTICS = {"numpy", "scipy", "statsmodels", "pandas", "pyarrow"}  # the last two are statsmodels' own
VERBS = {
    "--help": set(),
    "--version": set(),
    "train --help": {"pydantic"},
    "ls": {"pydantic"},
    "ls methods": {"pydantic"},
    "env": {"pydantic", "psutil"},
    "show mezo": SETTINGS,
    "show task": SETTINGS,
    "show sst2": ROWS,
    "validate --preset quickstart model=m task=sst2 train.output_dir=o": ROWS,
    "validate RUN/config.yaml train.output_dir=other": ROWS,
    "diff RUN RUN": ROWS,
    "diff RUN RUN --json": ROWS,
    "compare RUN": ROWS | STATISTICS,
}


def imported(*args: str) -> set[str]:
    """The large packages that a process has imported which ran the verb."""
    command = [sys.executable, "-c", SCRIPT, json.dumps(LARGE), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    code, *names = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    return set(names)


@pytest.fixture(scope="module")
def run(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's directory, by the command line: which imports what a run needs, and neither tables nor figures."""
    folder = tmp_path_factory.mktemp("imports")
    rows, out = write_rows(folder / "rows.jsonl", sentiment_rows(60)), folder / "run"
    settings = ["--method", "mezo", "--max-steps", "1", "--output-dir", str(out)]
    names = imported("train", "--model", str(tiny_model_dir), "--task", str(rows), *settings)
    assert {"torch", "transformers"} <= names
    assert not names & {"datasets", "matplotlib", "optuna", "pandas", "pyarrow", "sklearn", "statsmodels"}
    return out


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_imports_what_it_needs(verb: str, run: Path) -> None:
    unneeded = imported(*verb.replace("RUN", str(run)).split()) - VERBS[verb]
    assert not unneeded


@pytest.mark.parametrize("package", ["zofo", "zofo.api", "zofo.cli.process"])
def test_importing_the_package_imports_nothing_large(package: str) -> None:
    script = f"import sys, {package}; print(*(x for x in {LARGE} if x in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_no_garbage_is_looked_for_while_libraries_are_imported() -> None:
    script = (
        "import gc; from zofo.cli.process import libraries\n"
        "try:\n  with libraries(): print(gc.isenabled()); import no_such_library\n"
        "except ImportError: print(gc.isenabled(), gc.get_freeze_count() > 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600)
    assert done.stdout.split() == ["False", "True", "True"], done.stderr


def test_where_they_are_imported_garbage_is_looked_for_all_the_same() -> None:
    assert "torch" in sys.modules
    with libraries():
        assert gc.isenabled()
