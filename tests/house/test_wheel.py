"""The wheel, installed outside the repository: whole, and usable where nothing can be written or reached."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.conftest import ROOT, sentiment_rows

KINDS = ("methods", "adapters", "estimators", "masks", "rules", "tasks", "settings", "presets")
LOOP = """
import torch
from zofo import ZerothOrder
model = torch.nn.Linear(4, 1)
x, y = torch.randn(64, 4), torch.zeros(64, 1)
optimizer = ZerothOrder(model, lr=3e-2, estimator={"name": "spsa", "q": 4})
losses = [float(optimizer.step(lambda: torch.nn.functional.mse_loss(model(x), y))) for _ in range(60)]
assert losses[-1] < losses[0] / 2, losses
"""


def run(*command: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """stdout. Raises with everything that was said where it fails."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "ZOFO", "NUMBA", "HF_"))}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=plain | (env or {}), capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + (done.stderr if env else "")


def build(folder: Path) -> Path:
    """The wheel of this checkout. hatchling and build are of the tested environment: nothing is downloaded."""
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    (wheel,) = folder.glob("zofo-*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin directory of an environment that holds the wheel, and beside it only what zofo depends on.

    The libraries are those of the running environment, by a path: its own zofo is not among them, since a .pth file is
    not read there.
    """
    root = tmp_path_factory.mktemp("wheel")
    wheel = build(root)
    run(sys.executable, "-m", "venv", "--without-pip", root / "venv")
    site = next((root / "venv" / "lib").glob("python*/site-packages"))
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", root / "venv" / "bin" / "python"]
    run(*pip, "install", "-q", "--no-deps", "--no-index", wheel)
    return root / "venv" / "bin"


@pytest.fixture(scope="module")
def rows_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "mine.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(sentiment_rows(60))
    return path


def train(zofo: Path, model: Path, data: Path, out: Path) -> list[object]:
    return [
        zofo,
        "train",
        "--model",
        model,
        "--task",
        data,
        "--method",
        "mezo",
        "--output-dir",
        out,
        "train.max_steps=6",
        "train.batch_size=4",
        "train.eval_steps=3",
        "train.threads=1",
    ]


def test_every_file_of_the_package_is_in_it(installed: Path) -> None:
    """Presets, tasks, settings, the record of versions and py.typed, too; and nothing that is no part of it."""
    site = next((installed.parent / "lib").glob("python*/site-packages"))
    listed = run("git", "-C", ROOT, "ls-files", "src/zofo").split()
    wanted = {name.removeprefix("src/") for name in listed if (ROOT / name).is_file()}
    files = {
        str(p.relative_to(site)) for p in (site / "zofo").rglob("*") if p.is_file() and "__pycache__" not in p.parts
    }
    assert files >= wanted
    assert {name for name in files - wanted if not (ROOT / "src" / name).is_file()} == set()
    assert {
        "zofo/py.typed",
        "zofo/__main__.py",
        "zofo/models/tested.json",
        "zofo/config/presets/quickstart.yaml",
    } <= files


def test_it_is_the_wheel_and_every_kind_is_listed(installed: Path, tmp_path: Path) -> None:
    where = run(installed / "python", "-c", "import zofo; print(zofo.__file__)", cwd=tmp_path).strip()
    assert where.startswith(str(installed.parent))
    for kind in KINDS:
        here = {row.split("\t")[0] for row in run(installed / "zofo", "ls", kind, cwd=tmp_path).splitlines()}
        ours = run(sys.executable, "-m", "zofo", "ls", kind, cwd=ROOT).splitlines()
        assert here == {row.split("\t")[0] for row in ours}
        assert here
    env = run(installed / "python", "-m", "zofo", "env", cwd=tmp_path)
    assert any(row.startswith("transformers\t") and row.count("\t") == 2 for row in env.splitlines())


@pytest.fixture(scope="module")
def run_dir(installed: Path, tiny_model_dir: Path, rows_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a CSV, trained by the installed wheel."""
    out = tmp_path_factory.mktemp("run") / "out"
    run(*train(installed / "zofo", tiny_model_dir, rows_csv, out), cwd=out.parent)
    return out


@pytest.mark.slow
def test_a_run_on_a_csv_and_a_loop_of_ones_own(run_dir: Path, installed: Path, tmp_path: Path) -> None:
    info = json.loads((run_dir / "run.json").read_text())
    assert info["test"]["theta"]["n"] > 0
    run(installed / "python", "-c", LOOP, cwd=tmp_path)


@pytest.fixture
def sealed(installed: Path, tmp_path: Path) -> tuple[list[str], dict[str, str]]:
    """(prefix of a command, environment): zofo's files and home cannot be written, no address can be reached.

    root obeys no permission bits unless it lays that right down, which needs setpriv; the network is taken by unshare.
    """
    if os.geteuid() == 0 and not (shutil.which("setpriv") and shutil.which("unshare")):
        pytest.skip("needs setpriv and unshare, or not to be root")
    site = next((installed.parent / "lib").glob("python*/site-packages")) / "zofo"
    for cached in site.rglob("*.nb[ic]"):
        cached.unlink()
    for path in (site, *site.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    home = tmp_path / "home"
    home.mkdir(mode=0o555)
    prefix = ["unshare", "--net", "setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner"]
    env = {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    return (prefix if os.geteuid() == 0 else []), env


@pytest.mark.slow
def test_a_read_only_install_without_a_home_or_a_network(
    run_dir: Path,
    installed: Path,
    sealed: tuple[list[str], dict[str, str]],
    tiny_model_dir: Path,
    rows_csv: Path,
    tmp_path: Path,
) -> None:
    """Kernels are compiled without a cache, which is said once a process; training, replay and evaluation are right."""
    prefix, env = sealed
    (tmp_path / "out").mkdir()
    out, zofo = tmp_path / "out" / "run", installed / "zofo"
    probe = f"open({str(installed.parent)!r} and __import__('zofo').__file__, 'a')"
    elsewhere = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    command = [*prefix, str(installed / "python"), "-c", probe]
    done = subprocess.run(command, capture_output=True, text=True, env=elsewhere)
    assert "PermissionError" in done.stderr, "the install is read-only indeed"

    said = run(*prefix, *train(zofo, tiny_model_dir, rows_csv, out), cwd=tmp_path, env=env)
    assert said.count("compiled anew in every process") == 1
    info = json.loads((out / "run.json").read_text())
    shown = run(*prefix, zofo, "eval", out, cwd=tmp_path, env=env)
    result = json.loads(next(row for row in shown.splitlines() if row.startswith("{")))
    assert result["loss"] == pytest.approx(info["test"]["theta"]["loss"])
    assert not list((tmp_path / "home").iterdir())

    assert (run_dir / "journal.bin").read_bytes() == (out / "journal.bin").read_bytes(), "the same kernels, cached"


@pytest.mark.slow
def test_in_an_empty_environment(tmp_path: Path, tiny_model_dir: Path, rows_csv: Path) -> None:
    """Everything is downloaded: the quick start, a run on a CSV, a loop of one's own. Minutes, and a network."""
    wheel = build(tmp_path)
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python, zofo = tmp_path / "venv" / "bin" / "python", tmp_path / "venv" / "bin" / "zofo"
    pip = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints" / "tested.txt"]
    run(*pip, *os.environ.get("TORCH_ARGS", "").split(), "torch")
    run(*pip, f"{wheel}[quickstart]")
    for kind in KINDS:
        assert run(zofo, "ls", kind, cwd=tmp_path).strip()
    run(*train(zofo, tiny_model_dir, rows_csv, tmp_path / "run"), cwd=tmp_path)
    run(python, "-c", LOOP, cwd=tmp_path)
    table = run(zofo, "quickstart", "--steps", "11", cwd=tmp_path)
    assert "after: (theta, s)" in table
