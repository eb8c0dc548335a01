"""Zeroth-order steps inside transformers' Trainer: zofo's own numbers, their loop, checkpoints and callbacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from tests.conftest import make_tokenizer, save_tiny
from tests.tiny_models import config
from zofo import InputError, TrainerMixin, ZerothOrder, replay

LR = 1e-3


class Rows(Dataset[dict[str, torch.Tensor]]):
    """24 sequences of unequal length, padded with labels that do not count."""

    def __init__(self, vocab: int) -> None:
        g = torch.Generator().manual_seed(0)
        self.rows = []
        for i in range(24):
            ids = torch.randint(3, vocab, (12,), generator=g)
            length = 4 + i % 9
            labels = ids.masked_fill(torch.arange(12) >= length, -100)
            self.rows.append({"input_ids": ids, "attention_mask": (torch.arange(12) < length).long(), "labels": labels})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return self.rows[i]


class ZOTrainer(TrainerMixin, Trainer):
    zeroth_order = {"estimator": {"name": "spsa", "eps": 1e-3}}  # noqa: RUF012


class InOrder(ZOTrainer):
    """The rows in their order, so that a loop of one's own has the same batches."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)  # pyright: ignore


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = make_tokenizer()
    return save_tiny(tmp_path_factory.mktemp("trainer") / "base", config("llama", vocab=len(tokenizer)), tokenizer)


def loaded(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")


def args(out: Path, **more: Any) -> TrainingArguments:
    settings: dict[str, Any] = {"max_steps": 10, "per_device_train_batch_size": 4, "learning_rate": LR, "seed": 3}
    settings |= {"lr_scheduler_type": "linear", "logging_steps": 1, "save_steps": 4, "use_cpu": True}
    return TrainingArguments(str(out), report_to=[], disable_tqdm=True, **(settings | more))


def losses(trainer: Any) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def token_mean(model: Any, rows: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    """By hand: -log p of each label, over all labels of the rows."""
    batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
    logp = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].log_softmax(-1)
    labels = batch["labels"][:, 1:]
    picked = logp.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return -(picked * (labels >= 0)).sum() / (labels >= 0).sum()


@pytest.mark.parametrize("accumulated", [1, 3])
def test_ten_steps_are_those_of_ones_own_loop(base: Path, tmp_path: Path, accumulated: int) -> None:
    rows = Rows(len(make_tokenizer()))
    ours = loaded(base).eval()
    opt = ZerothOrder(ours, lr=LR, estimator={"name": "spsa", "eps": 1e-3}, seed=3)
    seen, at = [], 0
    for step in range(10):
        opt.param_groups[0]["lr"] = LR * (10 - step) / 10
        batch = [rows[(at + i) % 24] for i in range(4 * accumulated)]
        at += 4 * accumulated
        seen.append(opt.step(lambda batch=batch: token_mean(ours, batch)))

    model = loaded(base)
    trainer = InOrder(model, args(tmp_path, gradient_accumulation_steps=accumulated), train_dataset=rows)
    trainer.train()
    assert losses(trainer) == pytest.approx(seen, abs=2e-4)  # the Trainer's logs have four digits
    theirs = weights(model)
    for name, p in ours.named_parameters():
        torch.testing.assert_close(theirs[name], p.detach(), rtol=1e-4, atol=2e-5)
    assert not same(theirs, weights(loaded(base)))


class Stops(TrainerCallback):
    def __init__(self, at: int) -> None:
        self.at, self.rates = at, []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rates.append(kwargs["optimizer"].param_groups[0]["lr"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.at


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_saved_resumed_and_replayed_bit_for_bit(base: Path, tmp_path: Path, rule: str) -> None:
    def trainer(out: str, stops: Stops) -> tuple[Any, Any]:
        class Journalled(ZOTrainer):
            zeroth_order = {"rule": rule, "mask": "random", "journal": tmp_path / f"{out}.bin"}  # noqa: RUF012

        model = loaded(base)
        return model, Journalled(
            model, args(tmp_path / out), train_dataset=Rows(len(make_tokenizer())), callbacks=[stops]
        )

    uncut, one = trainer("uncut", stops := Stops(10))
    one.train()
    assert stops.rates == pytest.approx([LR * (10 - i) / 10 for i in range(10)])
    _, two = trainer("cut", Stops(6))
    two.train()
    resumed, three = trainer("cut", Stops(10))
    three.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-4"))
    assert same(weights(uncut), weights(resumed))
    assert losses(three)[-4:] == losses(one)[-4:]
    assert (tmp_path / "cut.bin").read_bytes() == (tmp_path / "uncut.bin").read_bytes()
    again = loaded(base)
    assert replay(again, tmp_path / "uncut.bin") == 10
    assert same(weights(again), weights(uncut))
    size = (tmp_path / "uncut" / "checkpoint-8" / "optimizer.pt").stat().st_size
    if rule == "sgd":  # no state for a weight
        assert size < 4 * sum(p.numel() for p in uncut.parameters()) / 4
    state = json.loads((tmp_path / "uncut" / "checkpoint-8" / "trainer_state.json").read_text())
    assert state["global_step"] == 8


def test_of_a_peft_model_the_adapter_moves(base: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(loaded(base), LoraConfig(r=2, target_modules=["q_proj"]))
    before = weights(model)
    ZOTrainer(model, args(tmp_path, learning_rate=1e-2, save_strategy="no"), train_dataset=Rows(90)).train()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert moved == {name for name in before if "lora_" in name}


def test_what_it_cannot_do_is_said(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = Rows(90)
    trainer = ZOTrainer(loaded(base), args(tmp_path), train_dataset=rows)
    trainer.args.fp16 = True  # TrainingArguments itself refuses it on a CPU
    with pytest.raises(InputError, match=r"args\.fp16: its scaling is of gradients"):
        trainer.train()
    with caplog.at_level("WARNING", "zofo"):
        ZOTrainer(loaded(base), args(tmp_path / "b", weight_decay=0.1, max_steps=1), train_dataset=rows).train()
    assert "args.weight_decay: does nothing here" in caplog.text

    class Wrong(ZOTrainer):
        zeroth_order = {"estimator": "spssa"}  # noqa: RUF012

    with pytest.raises(InputError, match='did you mean "spsa"'):
        Wrong(loaded(base), args(tmp_path / "c"), train_dataset=rows).train()
