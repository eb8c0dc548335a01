"""theta's movement is what a replay in float64 from the journal's page gives, and what the run itself made of theta."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.report_pages import Page, small_run
from zofo.models.load import load
from zofo.study.report import movement as module
from zofo.study.report.movement import movement
from zofo.study.report.page import find, render
from zofo.study.results import read
from zofo.train.run_dir import RunDir
from zofo.zo.journal import read_header, read_records
from zofo.zo.kernels import reference
from zofo.zo.keys import tensor_key
from zofo.zo.point import Point


@pytest.fixture(scope="module")
def run(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of MeZO with a rate that moves theta far. Read only."""
    return small_run(tiny_model_dir, tmp_path_factory.mktemp("moved"), "run", "mezo")


def in_float64(run: Path) -> dict[str, float]:
    """{tensor: rms of -sum rate c z}, each z from the bits as they are defined."""
    header, start = read_header(run / "journal.bin")
    position = json.loads((run / "run.json").read_text())["journal_position"]
    records = list(read_records(run / "journal.bin", start, position))
    assert len(records) > 2
    rms = {}
    for tensor in header["tensors"]:
        total = torch.zeros(tensor["shape"], dtype=torch.float64).view(-1)
        for record in records:
            for seed, c in record.terms:
                z = torch.zeros(len(total))
                reference.add(z, z, [(seed, 1.0)], tensor_key(tensor["name"]), 0, None, "rademacher", None)
                total -= record.rate * c * z.double()
        rms[tensor["name"]] = float(total.square().mean().sqrt())
    return rms


def test_each_layer_moved_as_far_as_in_float64(run: Path) -> None:
    found = movement(read(run))
    assert found is not None
    expected, header = in_float64(run), read_header(run / "journal.bin")[0]
    sizes = {tensor["name"]: torch.Size(tensor["shape"]).numel() for tensor in header["tensors"]}
    assert [layer.name for layer in found.layers] == ["model.embed_tokens", "layer 0", "layer 1", "model.norm"]
    for layer in found.layers:
        names = [n for n in sizes if layer.name.replace("layer ", "model.layers.") + "." in n]
        assert layer.weights == sum(sizes[name] for name in names)
        square = sum(sizes[name] * expected[name] ** 2 for name in names) / layer.weights
        assert layer.rms == pytest.approx(square**0.5, rel=1e-5)
        assert found.bound is not None
        assert layer.rms is not None
        assert 0 < layer.rms <= found.bound * (1 + 1e-6)


def test_it_is_what_became_of_the_weights(run: Path, tiny_model_dir: Path) -> None:
    from zofo.api.restore import restore

    config = RunDir(run).read_config()
    before = {name: value.clone() for name, value in Point(load(config.model).model).items()}
    after = Point(restore(run).loaded.model)
    found = movement(read(run))
    assert found is not None
    by_name = {layer.name: layer.rms for layer in found.layers}
    moved = (after["model.embed_tokens.weight"].double() - before["model.embed_tokens.weight"].double()).square().mean()
    assert by_name["model.embed_tokens"] == pytest.approx(float(moved.sqrt()), rel=2e-3), "up to fp32's rounding"


def test_the_first_weights_stand_for_all_where_it_takes_long(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = movement(read(run))
    monkeypatch.setattr(module, "WORK", 60_000)
    monkeypatch.setattr(module, "LEAST", 256)
    part = movement(read(run))
    assert whole is not None
    assert part is not None
    assert "first weights of each tensor" in part.how
    for one, other in zip(whole.layers, part.layers):
        assert one.weights == other.weights
        assert other.rms == pytest.approx(one.rms, rel=0.2)
    monkeypatch.setattr(module, "CALLS", 1)
    bounded = movement(read(run))
    assert bounded is not None
    assert bounded.how.startswith("not computed: ")
    assert all(layer.rms is None for layer in bounded.layers)
    assert bounded.bound == whole.bound


def test_the_page_has_it_and_a_damaged_journal_is_none(run: Path, tmp_path: Path) -> None:
    page = Page(render(find([run])))
    found = movement(read(run))
    assert found is not None
    rows = page.tables["theta's movement by layer"]
    assert rows[0] == ["layer", "weights", "rms", "norm"]
    assert [row[0] for row in rows[1:]] == [layer.name for layer in found.layers]
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "journal.bin").write_bytes(b"ZOFOJ")
    assert movement(read(copy)) is None
