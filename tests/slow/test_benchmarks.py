"""The benchmarks run: in a rehearsal, with tiny shapes and without figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT


def run(*args: str) -> str:
    done = subprocess.run([sys.executable, "-m", *args], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure on")
def test_without_a_gpu_nothing_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    assert "not measured" in run("benchmarks.gpu", "--json", str(file))
    assert json.loads(file.read_text()) == {"gpu": "not measured"}


@pytest.mark.slow
def test_the_gpus_benchmark_runs_through(tmp_path: Path) -> None:
    """Every part but the real run, on the CPU: the kernels' bits against themselves, passes, steps."""
    printed = run("benchmarks.gpu", "--rehearse", "--repeats", "1", "--parts", "bits,pass,step")
    assert '"equal": true' in printed
    assert "mezo / limit" in printed
