"""What fits: depth told from few layers, the largest batch, shapes by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.footprints import configuration
from tests.tiny_models import config as tiny_config
from zofo.api.memory import named_shapes
from zofo.api.memory.depth import ALIKE, shallow
from zofo.api.memory.fits import CPU, CUDA, Way, with_batch
from zofo.api.memory.footprint import Rows, predict
from zofo.errors import InputError

LAYERS = 7


def deep(folder: Path, family: str, layers: int = LAYERS) -> Path:
    """The config.json of a family's tiny model with more layers."""
    plain = tiny_config(family, vocab=400, positions=256).to_dict()
    plain.pop("layer_types", None)
    plain["n_layer" if family == "gpt2" else "num_hidden_layers"] = layers
    (folder / "config.json").write_text(json.dumps(plain))
    return folder


# ---- depth

FAMILIES = ("llama", "llama-untied", "opt", "gpt2", "qwen2", "mistral", "gemma2")
WAYS: list[tuple[str, str | None, list[str]]] = [
    ("fo-ft", None, []),
    ("mezo", None, []),
    ("fo-peft", "lora", ["train.gradient_checkpointing=true"]),
    ("mezo", "lora", ["model.quantization=int8"]),
    ("mezo", None, ["rule.name=adam"]),
    ("mezo", None, ["estimator.shift=copy"]),
    ("mezo", None, ["estimator.name=lozo"]),
    ("sparse-mezo", None, []),
    ("fo-ft", None, ["train.micro_batch_size=2"]),
    ("fo-ft", None, ["model.dtype=bfloat16"]),
    ("fo-peft", "prefix", ["train.micro_batch_size=1"]),
    ("two-stage", "prompt", []),
    ("bilevel-zofo", "lora", []),
    ("bilevel-zofo", "dept", []),
    ("bilevel-fo", "ia3", []),
]
QUICK = [("fo-ft", "llama-untied")]
SLIDING = ("mistral", "gemma2")  # a window of few tokens, in which the prefix has no room


def case(way: tuple[str, str | None, list[str]], family: str) -> Any:
    quick = (way[0], family) in QUICK and way in WAYS[:3]
    return pytest.param(way, family, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(("way", "family"), [case(way, family) for way in WAYS for family in FAMILIES])
def test_a_deep_model_is_told_from_few_layers(
    way: tuple[str, str | None, list[str]], family: str, tmp_path: Path
) -> None:
    """To the byte, part by part, what all layers take."""
    method, adapter, overrides = way
    folder = deep(tmp_path, family, 8 if family == "gemma2" else LAYERS)
    config = configuration(folder, "sst2", *overrides, method=method, adapter=adapter)
    for rows in (Rows(8), Rows(96, options=2, answer=3)):  # one where gradients are most, one where activations are
        if adapter == "prefix" and family in SLIDING:
            for whole in (True, False):
                with pytest.raises(InputError, match="does not fit the model's sliding window"):
                    predict(config, rows, whole=whole)
            continue
        assert predict(config, rows) == predict(config, rows, whole=True)


def test_which_models_are_told_from_few_layers() -> None:
    plain = tiny_config("llama")
    plain.num_hidden_layers = 9
    few = shallow(plain)
    assert few is not None
    assert (few.layers, few.whole) == ((2, 3), 9)
    assert plain.num_hidden_layers == 9, "the model's own is left alone"
    gemma = tiny_config("gemma2")  # every other layer slides
    gemma.num_hidden_layers, gemma.layer_types = 9, ["sliding_attention", "full_attention"] * 4 + ["sliding_attention"]
    few = shallow(gemma)
    assert few is not None
    assert few.layers == (3, 5)
    assert few.settings[0].layer_types == gemma.layer_types[:3]
    gemma.layer_types = ["full_attention"] * 8 + ["sliding_attention"]
    assert shallow(gemma) is None, "no period"
    plain.num_hidden_layers = 3
    assert shallow(plain) is None
    mixtral = tiny_config("mixtral")
    mixtral.num_hidden_layers = 9
    assert shallow(mixtral) is None
    assert "mixtral" not in ALIKE


# ---- shapes

PUBLISHED = {
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.1-8b": 8_030_261_248,
    "llama-2-7b": 6_738_415_616,
    "tinyllama-1.1b": 1_100_048_384,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "mistral-7b": 7_241_732_096,
    "gemma-2-2b": 2_614_341_888,
    "opt-1.3b": 1_315_758_080,
    "opt-2.7b": 2_651_596_800,
    "opt-6.7b": 6_658_473_984,
}


def test_shapes_have_the_published_numbers_of_parameters() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    assert named_shapes.names() == sorted(PUBLISHED)
    for name, number in PUBLISHED.items():
        sizes = []
        settings = AutoConfig.from_pretrained(named_shapes.FOLDER / f"{name}.json")
        layers, kinds = settings.num_hidden_layers, getattr(settings, "layer_types", None)
        for few in (2, 4):  # layers are alike; building all of them takes seconds
            settings.num_hidden_layers = few
            if kinds:
                settings.layer_types = kinds[:few]
            with torch.device("meta"):
                sizes.append(sum(p.numel() for p in AutoModelForCausalLM.from_config(settings).parameters()))
        assert sizes[0] + (sizes[1] - sizes[0]) // 2 * (layers - 2) == number, name


def test_a_shapes_name_is_no_directory_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert named_shapes.place("Llama-3.1-8B") == str(named_shapes.FOLDER / "llama-3.1-8b.json")
    assert named_shapes.place("llama-3.1-9b") == "llama-3.1-9b"
    Path("llama-3.1-8b").mkdir()
    assert named_shapes.place("llama-3.1-8b") == "llama-3.1-8b"


# ---- the table


@pytest.mark.slow
def test_largest_batches(tmp_path: Path) -> None:
    """Each cell is what `predict` says of that setting, the next batch does not fit, and longer rows fit no more."""
    config = configuration(deep(tmp_path, "llama"), "sst2", method="fo-peft", adapter="lora")
    rows, lengths, batches = Rows(8), (8, 64, 200), (1, 2, 4)
    sizes = {n: CPU.needs(predict(with_batch(config, n), Rows(64))) for n in batches}
    assert list(sizes.values()) == sorted(sizes.values())
    room_for = sizes[2]
    way = Way(config, CPU, rows)
    cells = way.row(lengths, batches, room_for)
    assert [cell.length for cell in cells] == list(lengths)
    assert (cells[1].batch_size, cells[1].needs, cells[1].fits) == (2, sizes[2], True)
    assert cells[1].tensors == predict(with_batch(config, 2), Rows(64)).peak.total
    assert cells[0].batch_size == 4
    assert cells[2].batch_size == 1
    known = len(way.asked(1))
    (none,) = way.row((64,), (1, 2, 4), 1)
    assert (none.batch_size, none.fits) == (1, False)
    assert len(way.asked(1)) <= known + 1, "another card's table asks for nothing twice"


def test_allowances() -> None:
    """What docs/memory.md measured beside the predicted tensors of SmolLM2 (MiB): the process at most, within 5 %."""
    for weights, tensors, first_order, measured in ((513, 1047, True, 1924), (513, 582, False, 1202)):
        share = CPU.first_order if first_order else CPU.others
        assert (CPU.base >> 20) + tensors + share * (tensors - weights) == pytest.approx(measured, rel=0.05)
    assert CUDA.first_order == CUDA.others
