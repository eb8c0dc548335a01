"""Exports: loaded by plain transformers and peft with equal logits; rebuilt from base, adapters and journal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.conftest import sentiment_rows, write_rows
from zofo import InputError, evaluate, export, finetune, load
from zofo.zo.point import Point

IDS = torch.tensor([[5, 9, 20, 33, 7], [8, 2, 40, 11, 30]])


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl", sentiment_rows(80))


@pytest.fixture(scope="module", params=["float32", "bfloat16", "float16"])
def run(request, tmp_path_factory, tiny_model_dir, data):
    """A Bilevel run whose theta moved a lot, so that a forgotten backbone cannot pass."""
    method = {"name": "bilevel-zofo", "inner_steps": 2, "lr_s": 1e-2, "lr_theta": 1e-3, "lam": 1.0}
    return finetune(
        str(tiny_model_dir),
        str(data),
        method,
        output_dir=tmp_path_factory.mktemp("run") / "out",
        max_steps=24,
        batch_size=4,
        eval_steps=12,
        save_steps=12,
        overrides=[f"model.dtype={request.param}"],
    )


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_plain_transformers_and_peft_load_it(run, tmp_path, tiny_model_dir):
    from peft import AutoPeftModelForCausalLM, PeftModel
    from transformers import AutoModelForCausalLM

    ours, _ = load(run.path)
    out = run.export(tmp_path / "export", merge=False)
    dtype = next(ours.parameters()).dtype
    backbone = AutoModelForCausalLM.from_pretrained(out / "backbone", dtype=dtype)
    theirs = PeftModel.from_pretrained(backbone, str(out)).eval()
    assert torch.equal(logits(ours), logits(theirs))
    auto = AutoPeftModelForCausalLM.from_pretrained(str(out), dtype=dtype).eval()
    assert torch.equal(logits(ours), logits(auto))
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=dtype).eval()
    assert not torch.allclose(logits(ours).float(), logits(base).float(), atol=1e-2)
    again, _ = load(out)
    assert torch.equal(logits(again).float(), logits(ours).float()) or dtype != torch.float32


def test_merged_export_is_one_plain_model(run, tmp_path):
    from transformers import AutoModelForCausalLM

    ours, _ = load(run.path)
    out = run.export(tmp_path / "merged")
    assert not (out / "adapter_config.json").exists()
    dtype = next(ours.parameters()).dtype
    merged = AutoModelForCausalLM.from_pretrained(out, dtype=dtype).eval()
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.15, torch.float16: 0.02}[dtype]
    torch.testing.assert_close(logits(merged).float(), logits(ours).float(), atol=tolerance, rtol=tolerance)


def test_base_adapters_and_journal_alone_give_the_same_bytes(run, tmp_path):
    first = bytes_of(run.export(tmp_path / "export"))
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("config.yaml", "run.json", "journal.bin", "manifest.json"):
        shutil.copy(run.path / name, alone / name)
    best = f"best-{run.info['best_step']}"
    shutil.copytree(run.path / best, alone / best, ignore=shutil.ignore_patterns("backbone"))
    shutil.rmtree(tmp_path / "export")
    assert bytes_of(export(alone, tmp_path / "export")) == first


def test_journal_replay_is_the_trained_theta(tmp_path, tiny_model_dir, data):
    """The tensors in memory at the end of training, against base + journal in another model object."""
    from zofo.api.configure import resolve
    from zofo.api.restore import restore
    from zofo.train.loop import Loop
    from zofo.train.run_dir import RunDir
    from zofo.train.setup import build

    out = tmp_path / "out"
    method = {"name": "mezo", "lr": 1e-3}
    train = {"output_dir": str(out), "max_steps": 12, "batch_size": 4, "eval_steps": 12}
    config = resolve(model=str(tiny_model_dir), task=str(data), method=method, train=train)
    finetune(str(tiny_model_dir), str(data), method, **train)
    again = RunDir(out / "again")
    again.begin({})
    loop = Loop(build(config), again)
    loop.checkpoints.start()
    loop.fit()
    trained = loop.session.problem.theta.sha256()
    replayed = Point(restore(out).model).sha256()
    assert replayed == trained
    assert replayed != Point(restore(out).loaded.model.__class__.from_pretrained(tiny_model_dir)).sha256()


def test_evaluate_measures_the_recorded_numbers_again(run):
    assert evaluate(run.path) == pytest.approx(run.test, rel=1e-6)
    other = "p" if run.deployed == "s" else "s"
    assert evaluate(run.path, adapter=other) == pytest.approx(run.info["test"][other], rel=1e-6)


def test_refusals(run, tmp_path, tiny_model_dir):
    with pytest.raises(InputError, match="no finished run"):
        export(tmp_path, tmp_path / "x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        run.export(tmp_path / "full")
    with pytest.raises(InputError, match="no export of zofo"):
        export(run.path, tmp_path / "full", overwrite=True)
    assert (tmp_path / "full" / "thesis.txt").read_text() == "mine"
    with pytest.raises(InputError, match="this run has"):
        export(run.path, tmp_path / "y", adapter="q")


@pytest.mark.parametrize("merge", [None, False])
def test_overwriting_leaves_what_is_not_ours(merge, run, tmp_path, caplog):
    """Also where the export is of the other form, whose files go."""
    out = run.export(tmp_path / "export", merge=False if merge is None else None)
    (out / "notes.txt").write_text("mine")
    (out / "runs").mkdir()
    (out / "runs" / "events").write_text("mine")
    export(run.path, out, merge=merge, overwrite=True)
    assert f"{out}: not zofo's, and left there: notes.txt, runs/events" in caplog.text
    there = set(bytes_of(out))
    assert there - {"notes.txt", "runs/events"} == set(bytes_of(run.export(tmp_path / "fresh", merge=merge)))
    assert (out / "notes.txt").read_text() == (out / "runs" / "events").read_text() == "mine"
    load(out)
    (out / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest.json: missing or damaged, so it is not known what zofo wrote"):
        export(run.path, out, merge=merge, overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"


def test_a_changed_base_model_is_refused(run, tmp_path, tiny_model_dir):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = tmp_path / "base"
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    with torch.no_grad():
        model.model.norm.weight[3] += 0.5
    model.save_pretrained(base)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(base)
    with pytest.raises(InputError, match=r"tensor model.norm.weight of the base model is not the one"):
        load(run.path, model=str(base))


@pytest.mark.parametrize(("adapter", "kind"), [("prompt", "prompt tuning"), ("prefix", "prefix tuning")])
def test_a_merge_of_what_changes_no_weights_is_refused(adapter, kind, tmp_path, tiny_model_dir, data):
    made = finetune(
        str(tiny_model_dir),
        str(data),
        {"name": "fo-peft", "lr": 1e-2},
        adapter,
        output_dir=tmp_path / "run",
        max_steps=2,
        batch_size=4,
        eval_steps=2,
    )
    with pytest.raises(InputError, match=f"^--merge: a {kind} adapter adds to the text and changes no weights"):
        made.export(tmp_path / "merged", merge=True)
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    made.export(tmp_path / "kept")


def test_an_export_beside_another_backbone_is_refused(run, tmp_path, tiny_model_dir):
    """As after copying one export's adapter over another's."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    out = run.export(tmp_path / "export", merge=False)
    config = AutoConfig.from_pretrained(tiny_model_dir)
    config.num_hidden_layers = 3
    shutil.rmtree(out / "backbone")
    AutoModelForCausalLM.from_config(config).save_pretrained(out / "backbone")
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(out / "backbone")
    with pytest.raises(InputError, match=r"backbone/config.json: its checksum is wrong.*it is opened as any model"):
        load(out)
    (out / "manifest.json").unlink()
    (out / "zofo.json").unlink()
    with pytest.raises(InputError) as caught:
        load(out)
    line = str(caught.value)
    assert line.startswith(f"{out}: the adapter does not fit the model (it lacks ")
    assert line.endswith(f"{out / 'backbone'} is here (llama, 3 layers of width 32)")


def test_a_run_whose_adapter_is_anothers_is_refused(run, tmp_path, tiny_model_dir):
    from zofo.models.sealed import sha256_of
    from zofo.models.tensors import load_tensors, save_tensors

    moved = tmp_path / "run"
    shutil.copytree(run.path, moved)
    file = moved / f"best-{run.info['best_step']}" / run.deployed / "adapter_model.safetensors"
    tensors = load_tensors(file)
    save_tensors({key: value[:3] if "lora_A" in key else value for key, value in tensors.items()}, file)
    with pytest.raises(InputError, match=r"adapter_model.safetensors: its checksum is wrong"):
        load(moved)
    manifest = moved / f"best-{run.info['best_step']}" / "manifest.json"
    sums = json.loads(manifest.read_text())
    sums["sha256"][f"{run.deployed}/adapter_model.safetensors"] = sha256_of(file)
    manifest.write_text(json.dumps(sums))
    with pytest.raises(InputError, match=r"best-\d+/[ps]: the saved adapter has other tensors.*saved for .*is here"):
        load(moved)
