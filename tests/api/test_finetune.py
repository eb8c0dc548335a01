"""finetune and its surroundings: what a run writes, what it leaves alone, how it fails."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import read_rows, sentiment_rows, write_rows
from tests.small_runs import METHODS, SMALL
from zofo import InputError, finetune
from zofo.cli.main import run


@pytest.mark.parametrize("family", ["tiny_model_dir", "tiny_opt_dir", "tiny_llama_untied_dir"])
@pytest.mark.parametrize("method", METHODS)
def test_each_method_on_each_family(method, family, request, tmp_path, sentiment_file):
    model = request.getfixturevalue(family)
    run = finetune(str(model), str(sentiment_file), METHODS[method], output_dir=tmp_path / "out", **SMALL)
    info = json.loads((tmp_path / "out" / "run.json").read_text())
    expected = {
        "zofo",
        "format",
        "method",
        "adapter",
        "task",
        "model",
        "seed",
        "steps",
        "examples_seen",
        "tokens",
        "forwards",
        "backward_passes",
        "dev",
        "test",
        "deployed",
        "seconds",
        "seconds_per_step",
        "peak_bytes",
        "phases",
        "world_size",
        "ranks",
        "config_hash",
        "environment",
    }
    assert expected <= set(info)
    counts = {"zero-shot": (0, 0), "fo-peft": (8, 0), "mezo": (0, 8), "bilevel-zofo": (4, 4)}
    assert (info["steps"]["lower"], info["steps"]["upper"]) == counts[method]
    calls = {"zero-shot": (0, 0), "fo-peft": (8, 8), "mezo": (16, 0), "bilevel-zofo": (4 + 4 * (2 + 2), 4 + 4 * 2)}
    assert (info["forwards"], info["backward_passes"]) == calls[method]
    assert run.deployed in info["test"]
    assert 0 <= run.test["accuracy"] <= 1
    moves = method in ("mezo", "bilevel-zofo")
    assert (tmp_path / "out" / "journal.bin").exists() == moves
    predictions = read_rows(tmp_path / "out" / "eval" / f"predictions-{run.deployed}.jsonl")
    assert np.mean([row["correct"] for row in predictions]) == pytest.approx(run.test["accuracy"])


def test_global_random_state_is_never_touched(tmp_path, tiny_model_dir, sentiment_file):
    before = random.getstate(), np.random.get_state(legacy=False)["state"]["key"].copy(), torch.get_rng_state()
    finetune(str(tiny_model_dir), str(sentiment_file), METHODS["bilevel-zofo"], output_dir=tmp_path / "out", **SMALL)
    after = random.getstate(), np.random.get_state(legacy=False)["state"]["key"], torch.get_rng_state()
    assert before[0] == after[0]
    assert (before[1] == after[1]).all()
    assert torch.equal(before[2], after[2])


def test_the_global_seed_does_not_matter_and_ours_does(tmp_path, tiny_model_dir, sentiment_file):
    tests = []
    for i, seed in enumerate((0, 0, 1)):
        torch.manual_seed(100 + i)
        run = finetune(
            str(tiny_model_dir),
            str(sentiment_file),
            METHODS["bilevel-zofo"],
            output_dir=tmp_path / str(i),
            seed=seed,
            **SMALL,
        )
        tests.append(run.info["dev"])
    assert tests[0] == tests[1] != tests[2]


def test_bad_input_names_the_place_and_the_fix(tmp_path, tiny_model_dir, sentiment_file):
    cases = {
        "no such model directory": {"model": str(tmp_path / "nowhere")},
        "has no config.json": {"model": str(sentiment_file.parent)},
        'unknown task "sst3"; did you mean "sst2"': {"task": "sst3"},
        'unknown adapter "lore"': {"adapter": "lore"},
        "candidates: .*q_proj": {"adapter": {"name": "lora", "target_modules": ["q_prj"]}},
        "does not use it": {"method": "fo-ft", "adapter": "lora"},
    }
    for message, change in cases.items():
        arguments = {"model": str(tiny_model_dir), "task": str(sentiment_file), "method": "fo-peft", **change}
        with pytest.raises(InputError, match=message):
            finetune(**arguments, output_dir=tmp_path / "out", **SMALL)
        assert not (tmp_path / "out").exists()  # nothing in the way of the next try


def test_another_run_is_not_overwritten(tmp_path, tiny_model_dir, sentiment_file):
    arguments = {
        "model": str(tiny_model_dir),
        "task": str(sentiment_file),
        "method": METHODS["fo-peft"],
        "output_dir": tmp_path / "out",
    }
    finetune(**arguments, **SMALL)
    before = (tmp_path / "out" / "run.json").read_bytes()
    with pytest.raises(InputError, match=r"holds this run already.*--resume latest.*--overwrite"):
        finetune(**arguments, **SMALL)
    with pytest.raises(InputError, match=r"holds another run.*--resume latest.*--overwrite"):
        finetune(**arguments, **{**SMALL, "seed": 1})
    assert (tmp_path / "out" / "run.json").read_bytes() == before
    (tmp_path / "out" / "notes.txt").write_text("mine")
    finetune(**arguments, overwrite=True, **SMALL)
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_pickled_weights_are_not_loaded(tmp_path, tiny_model_dir, sentiment_file):
    """A directory whose only weights are pickled is refused, and the pickle is never executed."""
    import pickle
    import shutil

    bad = tmp_path / "bad"
    shutil.copytree(tiny_model_dir, bad)
    (bad / "model.safetensors").unlink()
    fuse = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return (open, (str(fuse), "w"))

    (bad / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="safetensors"):
        finetune(str(bad), str(sentiment_file), METHODS["fo-peft"], output_dir=tmp_path / "out", **SMALL)
    assert not fuse.exists()


def test_completions_train_with_the_lm_objective(tmp_path, tiny_model_dir):
    rows = [{"prompt": f"count {i}:", "completion": " one two three"} for i in range(40)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    method = {"name": "fo-peft", "lr": 3e-2}
    run = finetune(str(tiny_model_dir), str(path), method, output_dir=tmp_path / "out", **{**SMALL, "max_steps": 32})
    first, *_, last = [line for line in read_rows(tmp_path / "out" / "metrics.jsonl") if line["event"] == "dev"]
    assert last["loss"] < 0.8 * first["loss"]
    assert "perplexity" in run.test


def test_dry_run_writes_nothing(tmp_path, tiny_model_dir, sentiment_file, capsys):
    run = finetune(
        str(tiny_model_dir),
        str(sentiment_file),
        METHODS["bilevel-zofo"],
        output_dir=tmp_path / "out",
        dry_run=True,
        **SMALL,
    )
    assert not (tmp_path / "out").exists()
    shown = capsys.readouterr().out
    assert shown.count("answers:") == 3
    assert "peak memory" in shown
    assert run.info["steps"] == 8


def test_theta_snapshots_where_replay_is_long(tmp_path, tiny_model_dir, sentiment_file):
    finetune(
        str(tiny_model_dir),
        str(sentiment_file),
        METHODS["mezo"],
        output_dir=tmp_path / "out",
        max_replay_seconds=0.0,
        **SMALL,
    )
    assert (tmp_path / "out" / "checkpoint-8" / "backbone" / "theta.safetensors").is_file()
    finetune(str(tiny_model_dir), str(sentiment_file), METHODS["mezo"], output_dir=tmp_path / "plain", **SMALL)
    assert not (tmp_path / "plain" / "checkpoint-8" / "backbone").exists()


def test_a_float16_checkpoint_is_cast_with_a_notice(tmp_path, tiny_model_dir, sentiment_file, caplog):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float16).save_pretrained(half)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(half)
    finetune(str(half), str(sentiment_file), METHODS["zero-shot"], output_dir=tmp_path / "out", **SMALL)
    assert "checkpoint is float16; it is cast to float32" in caplog.text


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_realised_share_of_the_shift_is_logged_in_16_bits(dtype, tmp_path, tiny_model_dir, sentiment_file):
    out = tmp_path / "out"
    overrides = [f"model.dtype={dtype}"]
    finetune(str(tiny_model_dir), str(sentiment_file), METHODS["mezo"], output_dir=out, overrides=overrides, **SMALL)
    lines = read_rows(out / "metrics.jsonl")
    shares = [line["shares"] for line in lines if line["event"] == "realised_shift"]
    assert len(shares) == 2
    assert len(shares[0]) == 20  # every tensor
    matrices = [share for name, share in shares[0].items() if "norm" not in name]
    assert all(0.7 < share < 1.3 for share in matrices)  # stochastic rounding: 1 on average, small tensors are noisy


@pytest.mark.parametrize("adapter", ["lora", "prefix", "prompt", "ia3"])
def test_bilevel_with_each_adapter_exports(adapter, tmp_path, tiny_model_dir, sentiment_file):
    """The run's own numbers again from the exported directory, which plain PEFT writes its logits from."""
    from zofo import evaluate

    run = finetune(
        str(tiny_model_dir),
        str(sentiment_file),
        METHODS["bilevel-zofo"],
        adapter,
        output_dir=tmp_path / "out",
        **{**SMALL, "max_steps": 16},
    )
    assert evaluate(run.path) == pytest.approx(run.test, rel=1e-5)
    out = run.export(tmp_path / "export", merge=False)
    assert (out / "adapter_config.json").is_file()


def test_the_run_prints_real_sizes_and_a_label_that_occurs_once(tmp_path, tiny_model_dir, capsys, caplog):
    rows = [*sentiment_rows(60), {"text": "film 60: a warm one", "label": "graet"}]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    overrides = ["task.train_examples=30", "task.dev_examples=20", "task.test_examples=5"]
    arguments: dict[str, Any] = {"model": str(tiny_model_dir), "task": str(path), "method": METHODS["zero-shot"]}
    finetune(**arguments, output_dir=tmp_path / "out", overrides=overrides, **SMALL)
    assert "examples: train 30, dev 20, test 5" in capsys.readouterr().err
    where = "(1 row, in test and in no training row)"
    assert f'rows.jsonl:61: the label "graet" {where} is a class of its own beside "great" (30 rows), ' in caplog.text
    finetune(**arguments, output_dir=tmp_path / "all", **SMALL)
    assert "of 1000 asked for" in capsys.readouterr().err


def test_several_processes_are_refused(tmp_path, tiny_model_dir, sentiment_file, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun and accelerate launch set it
    out = tmp_path / "out"
    with pytest.raises(InputError, match="2 processes: this runs in one"):
        finetune(str(tiny_model_dir), str(sentiment_file), METHODS["mezo"], output_dir=out, dry_run=True, **SMALL)
    assert run(["export", str(out), str(tmp_path / "exported")]) == 2
