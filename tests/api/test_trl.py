"""Zeroth-order steps inside TRL's SFTTrainer, in the five lines that docs/zo_family.md shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.conftest import make_tokenizer, save_tiny, sentiment_rows
from tests.tiny_models import config
from zofo import TrainerMixin, replay

trl = pytest.importorskip("trl", reason="needs the extra trl")


def test_it_trains_logs_saves_and_replays(tmp_path: Path) -> None:
    from datasets import Dataset

    tokenizer = make_tokenizer()
    base = save_tiny(tmp_path / "base", config("llama", vocab=len(tokenizer)), tokenizer)
    rows = Dataset.from_list([{"prompt": r["text"], "completion": " " + r["label"]} for r in sentiment_rows(16)])

    trainer_class: Any = trl.SFTTrainer

    class ZOTrainer(TrainerMixin, trainer_class):
        zeroth_order = {"estimator": {"name": "spsa", "q": 2}, "journal": tmp_path / "run.bin"}  # noqa: RUF012

    def trained(out: str, **more: Any) -> Any:
        args = trl.SFTConfig(
            str(tmp_path / out),
            max_steps=6,
            save_steps=3,
            logging_steps=1,
            learning_rate=1e-2,
            per_device_train_batch_size=4,
            report_to=[],
            use_cpu=True,
            bf16=False,
        )
        model = AutoModelForCausalLM.from_pretrained(base)
        made: Any = ZOTrainer  # whose constructor is TRL's
        trainer = made(model=model, args=args, train_dataset=rows, processing_class=tokenizer)
        trainer.train(**more)
        return trainer

    trainer = trained("out")
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert len(lines) == 6
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[0]["num_tokens"] > 0  # TRL's own numbers are those of a training
    again = AutoModelForCausalLM.from_pretrained(base)
    assert replay(again, tmp_path / "run.bin") == 6
    whole = dict(trainer.model.named_parameters())
    assert all(torch.equal(p, whole[name]) for name, p in again.named_parameters())
    resumed = trained("out", resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    assert all(torch.equal(p, whole[name]) for name, p in resumed.model.named_parameters())
