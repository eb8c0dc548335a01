"""finetune and its surroundings: what a run writes, what it leaves alone, how it fails."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import EarlyStoppingCallback, TrainerCallback

from tests.conftest import sentiment_rows
from zofo import InputError, RunError, finetune

SMALL: dict[str, Any] = {"max_steps": 8, "batch_size": 4, "eval_steps": 4, "save_steps": 4, "logging_steps": 2}
METHODS: dict[str, dict[str, Any]] = {
    "zero-shot": {"name": "zero-shot"},
    "fo-peft": {"name": "fo-peft"},
    "mezo": {"name": "mezo"},
    "bilevel-zofo": {"name": "bilevel-zofo", "inner_steps": 1},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in sentiment_rows(60)))
    return path


@pytest.mark.parametrize("family", ["tiny_model_dir", "tiny_opt_dir", "tiny_llama_untied_dir"])
@pytest.mark.parametrize("method", METHODS)
def test_each_method_on_each_family(method, family, request, tmp_path, data):
    model = request.getfixturevalue(family)
    run = finetune(str(model), str(data), METHODS[method], output_dir=tmp_path / "out", **SMALL)
    info = json.loads((tmp_path / "out" / "run.json").read_text())
    expected = {"zofo", "format", "method", "adapter", "task", "model", "seed", "steps", "examples_seen", "tokens",
                "forwards", "backward_passes", "dev", "test", "deployed", "seconds", "seconds_per_step", "peak_bytes",
                "world_size", "config_hash", "environment"}  # fmt: skip
    assert expected <= set(info)
    counts = {"zero-shot": (0, 0), "fo-peft": (8, 0), "mezo": (0, 8), "bilevel-zofo": (4, 4)}
    assert (info["steps"]["lower"], info["steps"]["upper"]) == counts[method]
    calls = {"zero-shot": (0, 0), "fo-peft": (8, 8), "mezo": (16, 0), "bilevel-zofo": (4 + 4 * (2 + 2), 4 + 4 * 2)}
    assert (info["forwards"], info["backward_passes"]) == calls[method]
    assert run.deployed in info["test"]
    assert 0 <= run.test["accuracy"] <= 1
    moves = method in ("mezo", "bilevel-zofo")
    assert (tmp_path / "out" / "journal.bin").exists() == moves
    predictions = [
        json.loads(line) for line in (tmp_path / "out" / "eval" / f"predictions-{run.deployed}.jsonl").open()
    ]
    assert np.mean([row["correct"] for row in predictions]) == pytest.approx(run.test["accuracy"])


def test_global_random_state_is_never_touched(tmp_path, tiny_model_dir, data):
    before = random.getstate(), np.random.get_state(legacy=False)["state"]["key"].copy(), torch.get_rng_state()
    finetune(str(tiny_model_dir), str(data), METHODS["bilevel-zofo"], output_dir=tmp_path / "out", **SMALL)
    after = random.getstate(), np.random.get_state(legacy=False)["state"]["key"], torch.get_rng_state()
    assert before[0] == after[0]
    assert (before[1] == after[1]).all()
    assert torch.equal(before[2], after[2])


def test_the_global_seed_does_not_matter_and_ours_does(tmp_path, tiny_model_dir, data):
    tests = []
    for i, seed in enumerate((0, 0, 1)):
        torch.manual_seed(100 + i)
        run = finetune(
            str(tiny_model_dir), str(data), METHODS["bilevel-zofo"], output_dir=tmp_path / str(i), seed=seed, **SMALL
        )
        tests.append(run.info["dev"])
    assert tests[0] == tests[1] != tests[2]


class Spy(TrainerCallback):
    def __init__(self):
        self.events = []

    def on_train_begin(self, args, state, control, model=None, processing_class=None, **kwargs):
        assert model is not None
        assert processing_class is not None
        self.events.append("begin")

    def on_step_end(self, args, state, control, **kwargs):
        self.events.append(state.global_step)

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        self.events.append(("eval", sorted(k for k in metrics if "loss" in k)))

    def on_save(self, args, state, control, **kwargs):
        assert (Path(str(args.output_dir)) / f"checkpoint-{state.global_step}").is_dir()
        self.events.append("save")

    def on_log(self, args, state, control, logs, **kwargs):
        self.events.append(("log", state.global_step))

    def on_train_end(self, args, state, control, **kwargs):
        self.events.append("end")


def test_hf_callbacks_see_the_run(tmp_path, tiny_model_dir, data):
    spy = Spy()
    finetune(
        str(tiny_model_dir), str(data), METHODS["bilevel-zofo"], output_dir=tmp_path / "out", callbacks=[spy], **SMALL
    )
    assert spy.events[0] == "begin"
    assert spy.events[-1] == "end"
    assert [e for e in spy.events if isinstance(e, int)] == [2, 4, 6, 8]
    assert spy.events.count("save") == 2
    assert ("eval", ["eval_loss", "eval_p_loss", "eval_s_loss"]) in spy.events


def test_hf_early_stopping_stops(tmp_path, tiny_model_dir, data):
    """With all rates 0 the dev loss never improves: patience 2 ends the run at the third evaluation."""
    run = finetune(
        str(tiny_model_dir), str(data), {"name": "mezo", "lr": 0.0}, output_dir=tmp_path / "out",
        callbacks=[EarlyStoppingCallback(2)], **{**SMALL, "max_steps": 100},
    )  # fmt: skip
    assert run.info["steps"]["upper"] == 12


@pytest.mark.parametrize("method", ["mezo", "fo-peft", "bilevel-zofo"])
def test_a_loss_that_is_nan_stops_with_theta_intact(method, tmp_path, tiny_model_dir, data, monkeypatch):
    """One weight of the head's norm becomes NaN after the model is loaded: every loss is NaN from the first step."""
    from zofo.models import load as models

    real = models.load

    def broken(config):
        loaded = real(config)
        with torch.no_grad():
            loaded.model.model.norm.weight[0] = float("nan")
        return loaded

    monkeypatch.setattr(models, "load", broken)
    with pytest.raises(RunError, match=r"step 0: .*nan.*theta is intact"):
        finetune(str(tiny_model_dir), str(data), METHODS[method], output_dir=tmp_path / "out", **SMALL)


def test_a_rate_far_too_high_ends_in_a_clear_error(tmp_path, tiny_model_dir, data):
    with pytest.raises(RunError, match=r"train\.on_nonfinite=skip"):
        finetune(str(tiny_model_dir), str(data), {"name": "mezo", "lr": 1e41}, output_dir=tmp_path / "out", **SMALL)


def test_nonfinite_updates_are_skipped_where_asked(tmp_path, tiny_model_dir, data, monkeypatch):
    from zofo.objectives import _loss

    real, calls = _loss.Loss.backward, []

    def sometimes(self, batch, scale=1.0):
        calls.append(1)
        if len(calls) == 3:
            raise _loss.NonFiniteError("the loss is nan")
        return real(self, batch, scale)

    monkeypatch.setattr(_loss.Loss, "backward", sometimes)
    run = finetune(
        str(tiny_model_dir), str(data), METHODS["fo-peft"], output_dir=tmp_path / "out", on_nonfinite="skip", **SMALL
    )
    assert run.info["skipped"] == 1
    assert len(calls) == 8


def test_bad_input_names_the_place_and_the_fix(tmp_path, tiny_model_dir, data):
    cases = {
        "no such model directory": {"model": str(tmp_path / "nowhere")},
        "has no config.json": {"model": str(data.parent)},
        'unknown task "sst3"; did you mean "sst2"': {"task": "sst3"},
        'unknown adapter "lore"': {"adapter": "lore"},
        "candidates: .*q_proj": {"adapter": {"name": "lora", "target_modules": ["q_prj"]}},
        "does not use it": {"method": "fo-ft", "adapter": "lora"},
    }
    for message, change in cases.items():
        arguments = {"model": str(tiny_model_dir), "task": str(data), "method": "fo-peft", **change}
        with pytest.raises(InputError, match=message):
            finetune(**arguments, output_dir=tmp_path / "out", **SMALL)
        assert not (tmp_path / "out").exists()  # nothing in the way of the next try


def test_a_shift_without_effect_is_reported(tmp_path, tiny_model_dir, data, capsys):
    method = {"name": "mezo", "lr": 1e30}  # saturates every norm: the loss is finite and constant from then on
    finetune(str(tiny_model_dir), str(data), method, output_dir=tmp_path / "out", **SMALL)
    assert "c was exactly 0 three times" in capsys.readouterr().err


def test_another_run_is_not_overwritten(tmp_path, tiny_model_dir, data):
    arguments = {
        "model": str(tiny_model_dir),
        "task": str(data),
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


def test_pickled_weights_are_not_loaded(tmp_path, tiny_model_dir, data):
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
        finetune(str(bad), str(data), METHODS["fo-peft"], output_dir=tmp_path / "out", **SMALL)
    assert not fuse.exists()


def test_completions_train_with_the_lm_objective(tmp_path, tiny_model_dir):
    rows = [{"prompt": f"count {i}:", "completion": " one two three"} for i in range(40)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    method = {"name": "fo-peft", "lr": 3e-2}
    run = finetune(str(tiny_model_dir), str(path), method, output_dir=tmp_path / "out", **{**SMALL, "max_steps": 32})
    first, *_, last = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").open() if '"dev"' in line]
    assert last["loss"] < 0.8 * first["loss"]
    assert "perplexity" in run.test


def test_dry_run_writes_nothing(tmp_path, tiny_model_dir, data, capsys):
    run = finetune(
        str(tiny_model_dir), str(data), METHODS["bilevel-zofo"], output_dir=tmp_path / "out", dry_run=True, **SMALL
    )
    assert not (tmp_path / "out").exists()
    shown = capsys.readouterr().out
    assert shown.count("answers:") == 3
    assert "peak memory" in shown
    assert run.info["steps"] == 8


def test_theta_snapshots_where_replay_is_long(tmp_path, tiny_model_dir, data):
    finetune(
        str(tiny_model_dir), str(data), METHODS["mezo"], output_dir=tmp_path / "out", max_replay_seconds=0.0, **SMALL
    )
    assert (tmp_path / "out" / "checkpoint-8" / "backbone" / "theta.safetensors").is_file()
    finetune(str(tiny_model_dir), str(data), METHODS["mezo"], output_dir=tmp_path / "plain", **SMALL)
    assert not (tmp_path / "plain" / "checkpoint-8" / "backbone").exists()


def test_a_float16_checkpoint_is_cast_with_a_notice(tmp_path, tiny_model_dir, data, caplog):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float16).save_pretrained(half)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(half)
    finetune(str(half), str(data), METHODS["zero-shot"], output_dir=tmp_path / "out", **SMALL)
    assert "checkpoint is float16; it is cast to float32" in caplog.text


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_realised_share_of_the_shift_is_logged_in_16_bits(dtype, tmp_path, tiny_model_dir, data):
    out = tmp_path / "out"
    overrides = [f"model.dtype={dtype}"]
    finetune(str(tiny_model_dir), str(data), METHODS["mezo"], output_dir=out, overrides=overrides, **SMALL)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    shares = [line["shares"] for line in lines if line["event"] == "realised_shift"]
    assert len(shares) == 2
    assert len(shares[0]) == 20  # every tensor
    matrices = [share for name, share in shares[0].items() if "norm" not in name]
    assert all(0.7 < share < 1.3 for share in matrices)  # stochastic rounding: 1 on average, small tensors are noisy


@pytest.mark.parametrize("adapter", ["lora", "prefix", "prompt", "ia3"])
def test_bilevel_with_each_adapter_exports(adapter, tmp_path, tiny_model_dir, data):
    """The run's own numbers again from the exported directory, which plain PEFT writes its logits from."""
    from zofo import evaluate

    run = finetune(
        str(tiny_model_dir), str(data), METHODS["bilevel-zofo"], adapter, output_dir=tmp_path / "out",
        **{**SMALL, "max_steps": 16},
    )  # fmt: skip
    assert evaluate(run.path) == pytest.approx(run.test, rel=1e-5)
    out = run.export(tmp_path / "export")
    assert (out / "adapter_config.json").is_file()


def test_the_run_prints_real_sizes_and_a_label_that_occurs_once(tmp_path, tiny_model_dir, capsys, caplog):
    rows = [*sentiment_rows(60), {"text": "film 60: a warm one", "label": "graet"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = ["task.train_examples=30", "task.dev_examples=20", "task.test_examples=5"]
    arguments: dict[str, Any] = {"model": str(tiny_model_dir), "task": str(path), "method": METHODS["zero-shot"]}
    finetune(**arguments, output_dir=tmp_path / "out", overrides=overrides, **SMALL)
    assert "examples: train 30, dev 20, test 5" in capsys.readouterr().err
    assert 'the label "graet" occurs once; did you mean "great"?' in caplog.text
    finetune(**arguments, output_dir=tmp_path / "all", **SMALL)
    assert "of 1000 asked for" in capsys.readouterr().err


def test_validate_reports_a_missing_model_beside_other_mistakes(tmp_path):
    from zofo.api.configure import resolve

    with pytest.raises(InputError) as caught:
        resolve(model=str(tmp_path / "nowhere"), task="sst3", method={"name": "mezo", "lr": -1})
    lines = str(caught.value).splitlines()
    assert len(lines) >= 4
    assert any(line.startswith("model.name: no such model directory") for line in lines)
    assert any("method.lr" in line for line in lines)
    assert any("sst2" in line for line in lines)
    assert any("train.output_dir: required" in line for line in lines)


def test_several_processes_are_refused(tmp_path, tiny_model_dir, data, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun and accelerate launch set it
    with pytest.raises(InputError, match="2 processes: not supported yet"):
        finetune(str(tiny_model_dir), str(data), METHODS["mezo"], output_dir=tmp_path / "out", **SMALL)
