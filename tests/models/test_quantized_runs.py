"""Runs on quantised backbones: what every run keeps, and what is refused."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import make_tokenizer, read_rows
from tests.family_runs import check_export, hashes, load_family, save_family, save_rows, short_run
from zofo import InputError, evaluate, export
from zofo.api.configure import resolve
from zofo.api.memory.footprint import measure, predict
from zofo.api.restore import restore
from zofo.cli import main as cli
from zofo.config.sections import ModelConfig
from zofo.models import load as models
from zofo.models import quantization
from zofo.zo.point import Point
from zofo.zo.quantized import frozen

pytest.importorskip("torchao")
INT8 = "model.quantization=int8"
ADAPTERS = ["lora", "prompt", "prefix", "ia3", "dept"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quantised")


@pytest.fixture(scope="module")
def llama(root: Path) -> Path:
    """Untied, with biases on the attention's matrices. Read only."""
    return save_family("llama-untied", root)


@pytest.fixture(scope="module")
def rows(root: Path) -> Path:
    return save_rows(root)


def int8(directory: Path, dtype: Any = "float32") -> models.Loaded:
    return models.load(ModelConfig(str(directory), device="cpu", dtype=dtype, quantization="int8"))


def named(adapter: str | None) -> dict[str, Any] | None:
    return {"name": adapter} if adapter else None


def codes(loaded: models.Loaded) -> str:
    assert loaded.frozen
    return loaded.frozen.digest()


# ------------------------------------------------------------------------------------------------- what every run keeps


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_fo_peft_learns_on_codes_that_stay(llama: Path, rows: Path, tmp_path: Path, adapter: str) -> None:
    run, watch = short_run(llama, rows, tmp_path / "run", "fo-peft", {"name": adapter}, 60, [INT8], lr=3e-2)
    lines = read_rows(run.path / "metrics.jsonl")
    losses = [line["loss"] for line in lines if line["event"] == "train"]
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])
    base = int8(llama)
    assert hashes(base.model) <= watch.final  # theta, codes and scales
    assert codes(restore(run.path).loaded) == codes(base)


RUNS: dict[str, tuple[str, str | None, list[str]]] = {
    "mezo": ("mezo", None, []),
    "mezo-bf16": ("mezo", None, ["model.dtype=bfloat16"]),
    "mezo-copy": ("mezo", None, ["estimator.shift=copy"]),
    "mezo-lora": ("mezo", "lora", []),
    "bilevel": ("bilevel-zofo", "lora", []),
    "bilevel-prompt": ("bilevel-zofo", "prompt", []),
    "two-stage": ("two-stage", "lora", []),
    "fo-peft": ("fo-peft", "lora", []),
    "fo-peft-again": ("fo-peft", "lora", ["train.gradient_checkpointing=true"]),
}


SLOW = ("mezo-copy", "mezo-lora", "fo-peft", "two-stage")


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow) if k in SLOW else k for k in RUNS])
def test_a_run_replays_exports_and_evaluates(llama: Path, rows: Path, tmp_path: Path, kind: str) -> None:
    method, adapter, more = RUNS[kind]
    run, watch = short_run(llama, rows, tmp_path / "run", method, named(adapter), 6, [INT8, *more])
    replayed, base = restore(run.path, "theta"), int8(llama, *(["bfloat16"] if kind == "mezo-bf16" else []))
    final = Point(replayed.model).sha256()
    assert set(final.values()) <= watch.final  # bit for bit the tensors in memory at the end
    moved = {name for name, digest in Point(base.model).sha256().items() if final[name] != digest}
    assert moved == (set() if method == "fo-peft" or kind == "mezo-lora" else set(final))
    assert codes(replayed.loaded) == codes(base)
    assert hashes(base.model) - set(Point(base.model).sha256().values()) <= watch.final  # codes and scales
    assert evaluate(run.path)["loss"] == pytest.approx(run.test["loss"], rel=1e-5)
    if kind != "mezo-bf16":  # an export is evaluated in float32
        check_export(run, tmp_path / "out")
        assert evaluate(tmp_path / "out", task=str(rows))["loss"] == pytest.approx(run.test["loss"], rel=1e-5)
    if adapter == "lora":
        with pytest.raises(InputError, match=r"^--merge: the adapter's layers are quantised.*export with --separate"):
            run.export(tmp_path / "merged", merge=True)


def test_an_export_is_a_quantised_base(llama: Path, rows: Path, tmp_path: Path) -> None:
    first, _ = short_run(llama, rows, tmp_path / "first", "bilevel-zofo", {"name": "lora"}, 6, [INT8])
    base = first.export(tmp_path / "out") / "backbone"
    assert codes(models.load(ModelConfig(str(base), device="cpu"))) == codes(int8(llama))
    run, _ = short_run(base, rows, tmp_path / "run", "bilevel-zofo", {"name": "lora"})
    assert evaluate(run.path)["loss"] == pytest.approx(run.test["loss"], rel=1e-5)
    check_export(run, tmp_path / "again")
    with pytest.raises(InputError, match=r"^model.quantization: .*is quantised already, by torchao; leave it out"):
        short_run(base, rows, tmp_path / "refused", "mezo", None, 6, [INT8])
    with pytest.raises(InputError, match=r"^model.name: .*fo-ft moves every weight by its gradient.*use fo-peft"):
        short_run(base, rows, tmp_path / "refused", "fo-ft")


@pytest.mark.parametrize(("method", "adapter"), [("mezo", None), ("bilevel-zofo", "lora"), ("fo-peft", "lora")])
def test_a_cut_run_ends_with_the_bytes_of_one_that_was_not(
    llama: Path, rows: Path, tmp_path: Path, method: str, adapter: str | None
) -> None:
    def traces(out: Path) -> dict[str, bytes]:
        files = [path for path in [out / "journal.bin", *out.glob("best-6/**/*.safetensors")] if path.exists()]
        return {str(path.relative_to(out)): path.read_bytes() for path in files}

    def run(out: Path, steps: int, *more: str) -> None:
        section, fixed = named(adapter), [INT8, "train.eval_steps=6", "train.save_steps=3"]
        short_run(llama, rows, out, method, section, steps, [*fixed, *more])

    run(tmp_path / "whole", 6)
    run(tmp_path / "cut", 3)
    run(tmp_path / "cut", 6, "train.resume=latest")
    assert traces(tmp_path / "whole") == traces(tmp_path / "cut") != {}


@pytest.mark.parametrize("method", ["mezo", "fo-peft"])
def test_other_codes_are_another_base(llama: Path, rows: Path, tmp_path: Path, method: str) -> None:
    """Every tensor of theta is as it was: the quantised ones alone differ."""
    adapter = {"name": "lora"} if method == "fo-peft" else None
    base = shutil.copytree(llama, tmp_path / "base")
    run, _ = short_run(base, rows, tmp_path / "run", method, adapter, 6, [INT8])
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] += 0.05
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"the base model .* is not the one this run started from, or is quantised"):
        restore(run.path)
    with pytest.raises(InputError, match=r"cannot resume: the base model .* is not the one this run started from"):
        short_run(
            base,
            rows,
            run.path,
            method,
            adapter,
            12,
            [INT8, "train.eval_steps=6", "train.save_steps=6", "train.resume=latest"],
        )


def test_what_is_quantised_is_said(llama: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short_run(llama, rows, tmp_path / "run", "mezo", None, 6, [INT8])
    shown = capsys.readouterr()
    line = "quantised by torchao and frozen: 18,432 weights in 14 tensors, 0.0 MiB; theta has 25,952 weights"
    assert (shown.out + shown.err).count(line) == 1


@pytest.mark.parametrize(
    ("method", "adapter"),
    [
        ("mezo", None),
        pytest.param("bilevel-zofo", "lora", marks=pytest.mark.slow),
        pytest.param("fo-peft", "ia3", marks=pytest.mark.slow),
    ],
)
def test_memory_is_predicted(llama: Path, rows: Path, method: str, adapter: str | None) -> None:
    sections = {"model": str(llama), "task": str(rows), "method": method, "adapter": adapter}
    settings = [INT8, "model.device=cpu", "train.batch_size=4"]
    config = resolve(None, settings, None, train={"output_dir": "unused"}, **sections)
    real, hollow = measure(config), predict(config)
    assert real.peaks == hollow.peaks
    plain = dataclasses.replace(config, model=dataclasses.replace(config.model, quantization=None))
    saved = predict(plain).peak.parts["weights"] - hollow.peak.parts["weights"]
    assert 18_432 * 2 < saved < 18_432 * 3  # of 4 bytes a weight 1 is left, and scales


def test_what_cannot_be_predicted_is_measured(
    llama: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(model: Any, config: ModelConfig, settings: Any, dtype: torch.dtype) -> None:
        settings = SimpleNamespace(quantization_config={"quant_method": "bitsandbytes_8bit"})
        hollow(model, config, settings, dtype)

    hollow = quantization.quantize_hollow
    monkeypatch.setattr(quantization, "quantize_hollow", refuse)
    command = ["memory", "--model", str(llama), "--task", str(rows), "--method", "mezo", "train.batch_size=4"]
    assert cli.run(command) == 2
    expected = "memory: weights quantised by bitsandbytes cannot be predicted; --measure counts them"
    assert expected in capsys.readouterr().err
    assert cli.run([*command, "--measure"]) == 0
    shown = capsys.readouterr()
    assert f"not predicted: {expected}" in shown.err
    assert "measured: mezo" in shown.out


# ---------------------------------------------------------------------------------------------------------- refused


def test_first_order_steps_of_theta_are_refused_before_anything_is_loaded(llama: Path, rows: Path) -> None:
    for method, adapter in (("fo-ft", None), ("bilevel-fo", "lora")):
        expected = rf"^model.quantization: int8: {method} moves every weight by its gradient.*use fo-peft"
        with pytest.raises(InputError, match=expected):
            resolve(
                None,
                [INT8],
                None,
                train={"output_dir": "unused"},
                model=str(llama),
                task=str(rows),
                method=method,
                adapter=adapter,
            )


def test_a_model_that_cannot_be_quantised(root: Path) -> None:
    expected = "^model.quantization: int8 quantises torch's linear layers, and 'gpt2' models have none but the head"
    with pytest.raises(InputError, match=expected):
        int8(save_family("gpt2", root / "families"))


def test_a_model_that_does_more_with_a_weight_than_multiply(root: Path) -> None:
    """Mamba multiplies by dt_proj's weight itself, or calls the layer: that hangs on the version of transformers."""
    called: list[str] = []
    directory = save_family("mamba", root / "families")
    plain = load_family(directory)
    plain.backbone.layers[0].mixer.dt_proj.register_forward_hook(lambda *_: called.append("dt_proj"))
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        right = plain(input_ids=ids).logits
        if called:
            logits = int8(directory).model(input_ids=ids).logits
            assert (logits - right).norm() < 0.1 * right.norm()
            return
    with pytest.raises(InputError, match=r"^model.quantization: int8: 'mamba' models do more with a linear layer's"):
        int8(directory)


def test_libraries_and_devices(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(str(llama), device="cpu", quantization="nf4")
    with pytest.raises(InputError, match=r"^model.quantization: nf4 needs a CUDA device.*model.quantization=int8"):
        models.load(config)
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'^model.quantization: int8 needs torchao; pip install "zofo\[quant\]"'):
        models.load(dataclasses.replace(config, quantization="int8"))
    settings: Any = SimpleNamespace(quantization_config=None)
    with pytest.raises(InputError, match=r"^model.quantization: nf4 needs bitsandbytes; pip install bitsandbytes"):
        quantization.options(config, settings, torch.bfloat16, torch.device("cuda"))
    settings.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    with pytest.raises(InputError, match=r"^model.name: .*4-bit by bitsandbytes, needs a CUDA device"):
        quantization.options(
            dataclasses.replace(config, quantization=None), settings, torch.float32, torch.device("cpu")
        )


def test_a_quantiser_without_gradients_takes_zeroth_order_steps_alone(
    llama: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.quantizers.quantizer_torchao import TorchAoHfQuantizer

    monkeypatch.setattr(TorchAoHfQuantizer, "is_trainable", False)
    short_run(llama, rows, tmp_path / "fine", "mezo", {"name": "lora"}, 6, [INT8])
    with pytest.raises(InputError, match=r"first-order steps cannot pass through weights of torchao; use mezo"):
        short_run(llama, rows, tmp_path / "refused", "fo-peft", {"name": "lora"}, 6, [INT8])
    monkeypatch.setattr(TorchAoHfQuantizer, "is_serializable", lambda self: False)
    with pytest.raises(InputError, match=r"weights quantised by torchao cannot be saved; use the run's directory"):
        export(tmp_path / "fine", tmp_path / "out")


def test_a_theta_without_tensors(llama: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = models.Frozen.__init__

    def nothing_left(self: Any, model: Any) -> None:
        made(self, model)
        self.left = 0

    monkeypatch.setattr(models.Frozen, "__init__", nothing_left)
    with pytest.raises(InputError, match=r"every tensor is quantised, so nothing is left that mezo could move"):
        short_run(llama, rows, tmp_path / "refused", "mezo", None, 6, [INT8])
    short_run(llama, rows, tmp_path / "fine", "fo-peft", {"name": "lora"}, 6, [INT8])


# ------------------------------------------------------------------------------------------------------ bitsandbytes


def test_eight_bit_layers_of_bitsandbytes_take_the_same_path(llama: Path, rows: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    base = tmp_path / "base"
    eight = BitsAndBytesConfig(load_in_8bit=True)
    AutoModelForCausalLM.from_pretrained(llama, quantization_config=eight, device_map={"": "cpu"}).save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    loaded = models.load(ModelConfig(str(base), device="cpu"))
    assert {param.dtype for param in frozen(loaded.model).values()} == {torch.int8}
    for method, adapter in (("mezo", None), ("fo-peft", "lora"), ("bilevel-zofo", "lora")):
        run, watch = short_run(base, rows, tmp_path / method, method, named(adapter))
        assert set(Point(restore(run.path, "theta").model).sha256().values()) <= watch.final
        assert codes(restore(run.path).loaded) == codes(loaded)
        assert evaluate(run.path)["loss"] == pytest.approx(run.test["loss"], rel=1e-5)
