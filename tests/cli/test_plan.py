"""`zofo memory --plan`: in memory or layer by layer, with this machine's disk; and what a prediction says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zofo.api.configure import resolve
from zofo.api.memory.fits import CPU
from zofo.api.memory.footprint import Rows, predict
from zofo.api.memory.hollow import settings_of
from zofo.api.memory.larger import sizes_of
from zofo.api.memory.named_shapes import place
from zofo.api.memory.nearest import nearest
from zofo.api.memory.plan import disk_of, readings_of
from zofo.cli import main as cli
from zofo.config.instantiate import make_method
from zofo.config.resolve import Config
from zofo.config.sections import ModelConfig
from zofo.errors import InputError
from zofo.models import buffers
from zofo.models.load import load
from zofo.models.offload import layers_of

GIVEN = ["task.name=sst2", "train.output_dir=out", "model.device=cpu"]


def run(capsys: pytest.CaptureFixture[str], *args: str | Path, code: int = 0) -> tuple[str, str]:
    assert cli.run([str(a) for a in ("memory", *args)]) == code
    return capsys.readouterr()


def test_the_table_and_its_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--model", "smollm2-360m", "--length", "8", "model.device=cpu", "--plan", tmp_path / "disk"]
    out, _ = run(capsys, *args, "--method", "mezo", "--method", "fo-ft")
    lines = out.splitlines()
    assert lines[0].startswith("free memory ")
    assert f"{tmp_path / 'disk'} reads " in lines[0]
    assert f"model.offload_folder={tmp_path / 'disk'}" in lines[3]
    assert "fo-ft needs a gradient of every weight" in lines[5]
    assert not any((tmp_path / "disk").iterdir())
    told = json.loads(run(capsys, *args, "--json")[0])
    inside, layers = told["methods"]["mezo"]
    assert inside["needs"] - layers["needs"] > 3e8
    assert layers["read"] == pytest.approx(layers["written"] * told["disk"]["writes"] / told["disk"]["reads"])
    assert layers["written"] * told["disk"]["writes"] == pytest.approx(32 * 4 * 9_832_320, rel=0.01)  # of 32 layers


def test_it_is_of_what_memory_may_not_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--model", "llama-3.2-1b", "--length", "32", "--plan", tmp_path]
    assert "leave --measure out" in run(capsys, *args, "--measure", code=2)[1]


def test_devices_of_a_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The fewest that hold a model of 0.36 B weights in float32, 1.4 GB, on devices of 1.5 GiB and less."""
    args = ["--model", "smollm2-360m", "--length", "8", "model.device=cpu", "--plan", tmp_path, "--fits", "1.5,3"]
    told = json.loads(run(capsys, *args, "--json")[0])["devices"]
    small, large = ({way["name"]: way for way in told[text]["mezo"]} for text in ("1.5 GiB", "3 GiB"))
    assert {name: way["devices"] for name, way in large.items()} == {"device_map": 1, "tensor": 1, "fsdp": 1}
    assert {name: way["devices"] for name, way in small.items()} == {"device_map": 2, "tensor": 2, "fsdp": 4}
    assert small["tensor"]["setting"] == "parallel.tensor=2"
    assert small["fsdp"]["setting"] == "parallel.fsdp=4 estimator.shift=copy"
    assert all(way["needs"] <= 1.5 * 2**30 for way in small.values())
    assert small["tensor"]["exchanged"] == 2 * 2 * 32 * (16 * 8 * 960 * 4)  # forwards, exchanges of a layer, layers
    assert small["tensor"]["sending"] == small["tensor"]["exchanged"] / 25e9
    out, _ = run(capsys, *args, "--method", "fo-ft")
    assert "fo-ft, tensor" in out
    assert "method fo-ft moves every weight by its gradient" in out


def test_a_folder_that_is_a_file(sentiment_file: Path) -> None:
    with pytest.raises(InputError, match=r"--plan: .*: File exists"):
        disk_of(sentiment_file)


def test_sizes_are_those_of_the_model(tiny_opt_dir: Path) -> None:
    sizes = sizes_of(*settings_of(ModelConfig(str(tiny_opt_dir), device="cpu")))
    model = load(ModelConfig(str(tiny_opt_dir))).model
    layers = [sum(p.numel() * 4 for p in layer.parameters()) for layer in layers_of(model)]
    assert sizes.total == sum(p.numel() * 4 for p in model.parameters())
    assert (sizes.outside, sizes.largest) == (sizes.total - sum(layers), max(layers))
    assert sizes.held == sizes.total  # two layers are less than are there at once


def test_the_weights_of_a_prediction_are_what_is_there_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "COUNT", 3)
    shape = "llama-3.2-1b"
    given = [*GIVEN, f"model.name={place(shape)}", "method.name=mezo"]
    plain = predict(resolve(None, given, files=False), Rows(16, 1, 1))
    layers = predict(resolve(None, [*given, "model.offload_folder=x"], files=False), Rows(16, 1, 1))
    sizes = sizes_of(*settings_of(resolve(None, given, files=False).model))
    for before, after in zip(plain.peaks, layers.peaks, strict=True):
        assert before.parts["weights"] - after.parts["weights"] == sizes.total - sizes.outside - 3 * sizes.largest
        assert {**before.parts, "weights": 0} == {**after.parts, "weights": 0}


@pytest.mark.parametrize(
    ("texts", "readings"),
    [
        (["method.name=mezo"], 1),
        (["method.name=mezo", "estimator.q=4"], 4),
        (["method.name=mezo", "estimator.name=one-sided", "estimator.q=4"], 5),
        (["method.name=mezo", "train.batch_size=16", "train.micro_batch_size=4"], 4),
        (["method.name=fo-peft"], 2),
        (["method.name=bilevel-zofo", "method.inner_steps=3"], 1 + 2 * 4),
        (["method.name=zero-shot"], 0),
    ],
)
def test_readings_of_a_step(texts: list[str], readings: int) -> None:
    config = resolve(None, [*GIVEN, "model.name=some/model", *texts])
    assert readings_of(config, make_method(config)) == readings


@pytest.mark.slow
def test_it_is_told_where_nothing_else_makes_a_run_fit() -> None:
    """Of 1.2 B weights in float32 that need 5.2 GiB, on a machine with 4; of a method that may not have it nothing."""
    rows = Rows(16, 1, 1)

    def needs(config: Config) -> int:
        return CPU.needs(predict(config, rows))

    given = [*GIVEN, f"model.name={place('llama-3.2-1b')}", "train.batch_size=1", "train.eval_batch_size=1"]
    given += ["model.dtype=float32"]
    told = nearest(resolve(None, [*given, "method.name=mezo"], files=False), needs, 4 * 2**30, 16)
    assert ("model.offload_folder=DIR",) in [way.settings for way in told]
    refused = nearest(resolve(None, [*given, "method.name=fo-ft"], files=False), needs, 4 * 2**30, 16)
    assert not any("offload" in text for way in refused for text in way.settings)
