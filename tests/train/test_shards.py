"""A model that several processes hold: theta after a run is that of its journal on a whole model, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.family_runs import Directories
from tests.forked import run, zofo_main
from tests.in_ranks import in_ranks
from tests.in_shards import replayed, sharded
from zofo.api import finetune
from zofo.config import registry
from zofo.train import setup
from zofo.train.loop import Loop
from zofo.zo.journal import read_header, read_records

Start = Callable[..., list[str]]
COPY = "estimator.shift=copy"
CUTS = {"tensor": ["parallel.tensor=2"], "fsdp": ["parallel.fsdp=2", COPY]}


@pytest.fixture
def start(tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path) -> Start:
    """The command of a run in tmp_path/NAME, by its settings."""

    def arguments(*more: str, name: str = "run", model: Path = tiny_model_dir) -> list[str]:
        fixed = ["train", "--model", str(model), "--task", str(sentiment_file), "train.threads=1", "--method", "mezo"]
        cadence = ["--max-steps", "4", "train.eval_steps=2", "train.save_steps=2", "train.batch_size=4"]
        few = ["task.train_examples=16", "task.dev_examples=4", "task.test_examples=4", "method.lr=1e-4"]
        return [*fixed, *cadence, *few, "--output-dir", str(tmp_path / name), *more]

    return arguments


def coefficients(path: Path) -> list[float]:
    return [c for record in read_records(path, read_header(path)[1]) for _, c in record.terms]


def info(path: Path) -> dict[str, Any]:
    return json.loads((path / "run.json").read_text("utf-8"))


KINDS = {
    "tensor, bf16": (2, ["parallel.tensor=2", "model.dtype=bfloat16", "estimator.law=sphere", "rule=adam"]),
    "a mask over all": (2, [*CUTS["fsdp"], "mask=magnitude", "mask.scope=all", "mask.refresh=2", "rule=sign"]),
    "two by two, bf16": (4, ["parallel.tensor=2", "model.dtype=bfloat16", "mask=random", "rule=momentum"]),
    "tensor, in place": (2, ["parallel.tensor=2", "estimator.shift=inplace"]),
    "fsdp, in place": (2, ["parallel.fsdp=2", "estimator.shift=inplace"]),
    "tensor, copy, split": (2, ["parallel.tensor=2", COPY, "model.dtype=bfloat16", "rule.rounding=split"]),
    "fsdp, 16-bit moments": (2, [*CUTS["fsdp"], "model.dtype=bfloat16", "rule=adam", "rule.state=bfloat16"]),
    "directions shared": (4, ["parallel.tensor=2", "parallel.query=2", "estimator.q=2", "estimator=lozo"]),
    "fsdp by data, bf16": (4, [*CUTS["fsdp"], "model.dtype=bfloat16", "estimator=subzero"]),
}


def sweep() -> Iterator[Any]:
    """Any two of an estimator, a rule and a mask meet, on both cuts."""
    parts = [registry.names(kind) for kind in ("estimators", "rules", "masks")]
    for places in product(*map(range, map(len, parts))):
        names = [names[place] for names, place in zip(parts, places)]
        refused = "sensitivity" in names or {"svrg", "blocks"} <= set(names)  # as in one process, or on shards
        if sum(places) % 5 == 0 and not refused:
            for cut in CUTS:
                yield pytest.param(2, [*CUTS[cut], *map("{}={}".format, ("estimator", "rule", "mask"), names)])


@pytest.mark.parametrize(
    ("size", "settings"),
    [
        *(pytest.param(*k, id=n, marks=() if n in list(KINDS)[:2] else pytest.mark.slow) for n, k in KINDS.items()),
        *(pytest.param(*each.values, marks=pytest.mark.slow) for each in sweep()),
    ],
)
def test_theta_is_that_of_the_journal(size: int, settings: list[str], start: Start, tmp_path: Path) -> None:
    assert sharded(size, *start(*settings)) == {replayed(tmp_path / "run")}


@pytest.mark.parametrize("cut", CUTS)
def test_one_process_makes_the_same_run(cut: str, start: Start, tmp_path: Path) -> None:
    """FSDP2 computes what one process does, and has its journal; of tensor parallelism the sums have another order."""
    shift = [COPY] if cut == "fsdp" else []
    alone = run(zofo_main, *start(*shift, name="alone"))
    assert alone.returncode == 0, alone.stderr
    assert sharded(2, *start(*CUTS[cut])) == {replayed(tmp_path / "run")}
    one, many = (tmp_path / name / "journal.bin" for name in ("alone", "run"))
    if cut == "fsdp":
        assert one.read_bytes() == many.read_bytes()
    else:
        assert coefficients(many) == pytest.approx(coefficients(one), rel=1e-3, abs=1e-4)
    assert info(tmp_path / "run")["base_sha256"] == info(tmp_path / "alone")["base_sha256"]


def test_resumed_and_evaluated(start: Start, tmp_path: Path) -> None:
    """Cut after two steps and gone on with; then evaluated by two that hold the model, and by one."""
    assert len(sharded(2, *start("parallel.tensor=2", name="whole"))) == 1
    for each in in_ranks(2, *start("parallel.tensor=2", "--max-steps", "2")):
        assert each.returncode == 0, each.stderr
    again = ["--max-steps", "4", "--resume", "latest"]
    assert sharded(2, *start("parallel.tensor=2", *again)) == {replayed(tmp_path / "run")}
    assert (tmp_path / "run/journal.bin").read_bytes() == (tmp_path / "whole/journal.bin").read_bytes()
    results = {}
    for size, more in ((1, []), (2, ["parallel.tensor=2"])):
        out = str(tmp_path / f"eval{size}")
        for each in in_ranks(size, "eval", str(tmp_path / "run"), *more, "--output", out):
            assert each.returncode == 0, each.stderr
        results[size] = json.loads((Path(out) / "results.json").read_text("utf-8"))
    assert results[2]["loss"] == pytest.approx(results[1]["loss"], rel=1e-5)
    assert {**results[2], "loss": 0} == {**results[1], "loss": 0}


FAMILIES = ("llama-untied", "qwen2", "mistral", "gemma2", "cohere")  # gpt2, opt, mamba: no plan for tensor parallel
GATHERED = ("mamba", "opt", "gpt2", "mixtral", *FAMILIES)


@pytest.mark.parametrize(
    ("family", "cut"),
    [
        pytest.param("mamba", "fsdp"),  # of which a forward is tried that raises, and leaves weights gathered
        *(pytest.param(family, "fsdp", marks=pytest.mark.slow) for family in GATHERED[1:]),
        *(pytest.param(family, "tensor", marks=pytest.mark.slow) for family in FAMILIES),
    ],
)
def test_families(family: str, cut: str, start: Start, family_dir: Directories, tmp_path: Path) -> None:
    """Biases, softcaps, sliding layers, a gain of 1 + weight, transposed weights, stacked experts."""
    model = family_dir(family)
    alone = run(zofo_main, *start(*CUTS[cut][1:], name="alone", model=model))
    assert alone.returncode == 0, alone.stderr
    assert sharded(2, *start(*CUTS[cut], model=model)) == {replayed(tmp_path / "run")}
    one, many = (coefficients(tmp_path / name / "journal.bin") for name in ("alone", "run"))
    assert one == (many if cut == "fsdp" else pytest.approx(many, rel=1e-3, abs=1e-3))


@pytest.mark.slow
def test_four_that_hold_one(start: Start, family_dir: Directories, tmp_path: Path) -> None:
    model = family_dir("llama", num_key_value_heads=4)
    for settings in (["parallel.tensor=4", "rule=momentum", "estimator=svrg"], ["parallel.fsdp=4", COPY]):
        assert sharded(4, *start(*settings, "--overwrite", model=model)) == {replayed(tmp_path / "run")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("opt", "has no plan by which to cut this model"),
        ("mixtral", "gate_up_proj is cut as _StridedShard"),
        ("llama", "does not divide the model's num_key_value_heads, 2"),
    ],
)
def test_models_that_cannot_be_cut_are_refused(family: str, words: str, start: Start, family_dir: Directories) -> None:
    size = 4 if family == "llama" else 2
    for each in in_ranks(size, *start(f"parallel.tensor={size}", model=family_dir(family))):
        assert each.returncode == 2, each.stderr
        assert words in each.stderr


def with_another_bit(*args: str) -> None:
    """A process in whose part of theta one bit flips in the second step."""
    real = Loop._step

    def step(self: Loop) -> None:
        real(self)
        if self.count == 2:
            part = self.session.problem.theta["model.layers.0.self_attn.o_proj.weight"]
            part.view(-1).view(torch.int32)[3] ^= 1

    Loop._step = step
    zofo_main(*args)


def with_a_second_reference(*args: str) -> None:
    """A model of which a layer reads a weight past its parameters."""
    real = setup.audit

    def audit(session: Any) -> None:
        layer = session.loaded.model.model.layers[0]
        kept = layer.mlp.gate_proj.weight

        def read(*_: Any) -> None:
            kept.mul(2)

        layer.register_forward_pre_hook(read)
        real(session)

    finetune.audit = audit
    zofo_main(*args)


def test_a_part_that_no_stand_in_reaches_is_refused(start: Start) -> None:
    for each in in_ranks(2, *start("parallel.tensor=2"), act=with_a_second_reference):
        assert each.returncode == 2, each.stderr
        assert "model.layers.0.mlp.gate_proj.weight" in each.stderr


@pytest.mark.slow
def test_a_part_is_compared_with_the_same_part(start: Start) -> None:
    """Of four, 0 and 2 hold one part and 1 and 3 the other, which are not the same numbers."""
    settings = start("parallel.tensor=2", "parallel.check_steps=2", "train.eval_steps=4", "train.save_steps=4")
    for each in in_ranks(4, *settings, special={3: with_another_bit}):
        assert each.returncode == 1, each.stderr
        assert "ranks 1 and 3 differ in model.layers.0.self_attn.o_proj.weight" in each.stderr


@pytest.mark.slow
def test_three_shards_of_a_head_of_its_own(start: Start, tiny_llama_untied_dir: Path, tmp_path: Path) -> None:
    """Some of a tensor's rows may be more than others', or none."""
    settings = start("parallel.fsdp=3", COPY, "estimator.law=sphere", "mask=magnitude", model=tiny_llama_untied_dir)
    assert sharded(3, *settings) == {replayed(tmp_path / "run")}


@pytest.mark.slow
@pytest.mark.parametrize("cut", CUTS)
def test_a_run_in_one_piece_goes_on_in_parts(cut: str, start: Start, tmp_path: Path) -> None:
    """Its snapshots and a rule's numbers are of whole tensors: they are made again from the journal, or cut."""
    snapshots = ["train.max_replay_seconds=0", "rule=adam", *CUTS[cut][1:]]
    begun = run(zofo_main, *start(*snapshots, "--max-steps", "2"))
    assert begun.returncode == 0, begun.stderr
    assert (tmp_path / "run/checkpoint-2/backbone").is_dir()
    for each in in_ranks(2, "eval", str(tmp_path / "run"), CUTS[cut][0], "--output", str(tmp_path / "eval")):
        assert each.returncode == 0, each.stderr
    result = json.loads((tmp_path / "eval/results.json").read_text("utf-8"))
    assert result["loss"] == pytest.approx(info(tmp_path / "run")["test"]["theta"]["loss"], rel=1e-5)
    assert sharded(2, *start(*snapshots, CUTS[cut][0], "--resume", "latest")) == {replayed(tmp_path / "run")}


def test_shards_that_untie_the_head_are_refused(start: Start) -> None:
    """400 words are not even over three: torch pads each shard, of the embedding and of the head for itself."""
    for each in in_ranks(3, *start("parallel.fsdp=3", COPY)):
        assert each.returncode == 2, each.stderr
        assert "model.embed_tokens.weight and lm_head.weight are one tensor" in each.stderr
