"""examples/accelerate_loop.py and examples/lightning_module.py: the losses of ZerothOrder's own loop, bit for bit."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import ROOT
from zofo import ZerothOrder

EPOCHS = 5  # of two batches


def example(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of an example, which is run from its own folder."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def own_loop(model_dir: Path, loop: Any, epochs: int = EPOCHS) -> list[float]:
    model = AutoModelForCausalLM.from_pretrained(model_dir).eval()
    opt = ZerothOrder(model, lr=1e-4, estimator={"name": "spsa", "q": 2})
    loader = loop.batches(AutoTokenizer.from_pretrained(model_dir), loop.TEXTS)
    return [opt.step(lambda batch=batch: model(**batch).loss) for _ in range(epochs) for batch in loader]


def test_accelerate(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = example("accelerate_loop", monkeypatch)
    expected = own_loop(tiny_model_dir, loop)
    assert len(set(expected)) == 10
    assert loop.main(str(tiny_model_dir), str(tmp_path / "out")) == expected
    again = loop.main(str(tiny_model_dir), str(tmp_path / "again"), resume=str(tmp_path / "out" / "epoch-1"))
    assert again == expected[4:], "from a checkpoint of accelerate's"


def test_lightning(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lightning", reason="needs lightning (pip install lightning)")
    loop, module = example("accelerate_loop", monkeypatch), example("lightning_module", monkeypatch)
    expected = own_loop(tiny_model_dir, loop)
    assert module.main(str(tiny_model_dir), str(tmp_path / "out"), 3) == expected[:6]
    (saved,) = (tmp_path / "out").rglob("*.ckpt")
    assert "step=6" in saved.name, "its global_step counts each step once"
    again = module.main(str(tiny_model_dir), str(tmp_path / "out"), EPOCHS, str(saved))
    assert again == expected[6:], "from a checkpoint of Lightning's"
