"""Every method's rates follow the schedule, and what is not given is what its page and its paper say."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.family_runs import METHODS, save_rows
from zofo import finetune
from zofo.api.configure import resolve
from zofo.config import registry

STEPS = 12
RATES = {  # of a logged line: {rate: the setting it starts from}
    "bilevel-zofo": {"lr_s": "lr_s", "lr_p": "lr_s", "lr_theta": "lr_theta"},
    "bilevel-ablations": {"lr_s": "lr_s", "lr_p": "lr_s", "lr_theta": "lr_theta"},
    "bilevel-fo": {"lr_s": "lr_s", "lr_p": "lr_s", "lr_theta": "lr_theta"},
    "two-stage": {"lr": "lr", "lr_theta": "lr_theta"},
    "fo-ft": {"lr_theta": "lr"},
    "fo-peft": {"lr": "lr"},
    "mezo": {"lr_theta": "lr"},
    "sparse-mezo": {"lr_theta": "lr"},
}
SETTINGS = {**METHODS, "bilevel-ablations": METHODS["bilevel-zofo"], "sparse-mezo": METHODS["mezo"]}
TRAINED_ALONE = ("icl", "zero-shot")  # nothing is
OF_MANY_TASKS = ("meta-bilevel-zofo", "metaicl", "multi-task-ft")  # by the code of bilevel-zofo and fo-ft


def test_the_table_has_every_method() -> None:
    assert {*RATES, *TRAINED_ALONE, *OF_MANY_TASKS} == set(registry.names("methods"))


@pytest.mark.parametrize("method", RATES)
def test_the_rates_fall_with_the_schedule(method: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    """Linear to 0 over the run: at each logged step every rate is on the line from its setting, and falls."""
    run = finetune(
        str(tiny_model_dir),
        str(save_rows(tmp_path)),
        {"name": method, **SETTINGS[method]},
        output_dir=tmp_path / "out",
        max_steps=STEPS,
        batch_size=4,
        logging_steps=1,
        lr_scheduler_type="linear",
        overrides=["task.dev_examples=4", "task.test_examples=4"],
    )
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["event"] == "train"]
    for rate, setting in RATES[method].items():
        logged = [line[rate] for line in train if rate in line]
        base = SETTINGS[method][setting]
        assert len(logged) >= 2
        assert all(one > other for one, other in pairwise(logged))
        slots = [base * (1 - step / STEPS) for step in range(STEPS)]
        assert all(min(abs(value - slot) for slot in slots) < 1e-9 * base for value in logged)


DEFAULTS: dict[str, dict[str, Any]] = {  # beside what a method's own Config has
    "icl": {"task.num_fewshot": 4},
    "metaicl": {"task.num_fewshot": 4, "train.batch_size": 8, "task.train_examples": 768},
    "meta-bilevel-zofo": {"train.batch_size": 4, "task.train_examples": 768, "task.dev_examples": 100},
    "multi-task-ft": {"task.num_fewshot": 0, "task.train_examples": 768},
    "sparse-mezo": {"mask.sparsity": None, "mask.name": "magnitude", "estimator.eps": 1e-3, "method.lr": 2e-6},
    "mezo": {"estimator.eps": 1e-3, "method.lr": 1e-6, "estimator.name": "spsa", "rule.name": "sgd"},
    "bilevel-zofo": {"adapter.name": "lora", "estimator.name": "spsa", "rule.name": "sgd", "method.lam": 10.0},
}


@pytest.mark.parametrize("method", DEFAULTS)
def test_what_is_not_given(method: str) -> None:
    task = "class-to-class" if method in OF_MANY_TASKS else "sst2"
    config = resolve(model="no/model", task=task, method=method, train={"output_dir": "out"}, files=False).to_dict()
    for path, expected in DEFAULTS[method].items():
        section, _, key = path.partition(".")
        assert config[section][key] == expected, path


def test_sparse_mezo_moves_the_small_weights_alone(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Without a section of its own: 75 % of each matrix rests."""
    run = finetune(
        str(tiny_model_dir),
        str(save_rows(tmp_path)),
        {"name": "sparse-mezo", "lr": 1e-2},
        output_dir=tmp_path / "out",
        max_steps=1,
        batch_size=4,
        overrides=["task.dev_examples=4", "task.test_examples=4", "model.dtype=float32"],
    )
    from transformers import AutoModelForCausalLM

    from zofo import load

    before: Any = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    after = load(run.path)[0]
    for (name, one), other in zip(before.named_parameters(), after.parameters(), strict=True):
        moved = one != other
        if one.ndim == 1:
            assert not moved.any(), name
        else:
            assert 0.1 < float(moved.float().mean()) < 0.3, name
            assert one[moved].abs().max() <= one[~moved].abs().min(), name
