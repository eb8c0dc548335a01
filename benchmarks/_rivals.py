"""What zofo is measured against, written as their papers and documentation describe it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zofo.data.tokenization import Encoded


class MeZOArithmetic:
    """MeZO's step (arXiv 2305.17333, Algorithm 1): theta + eps z, - 2 eps z, + eps z in place, z drawn anew each time.

    A forward is given, so that the arithmetic is compared and not the logits.
    """

    def __init__(self, params: Sequence[Tensor], forward: Callable[[], float], eps: float = 1e-3, lr: float = 0.0):
        self.params, self.forward, self.eps, self.lr, self.seed = list(params), forward, eps, lr, 0

    def move(self, scale: float) -> None:
        """One pass: theta + scale z."""
        torch.manual_seed(self.seed)
        for param in self.params:
            z = torch.normal(mean=0.0, std=1.0, size=param.shape, dtype=param.dtype, device=param.device)
            param.data = param.data + scale * z

    @torch.no_grad()
    def step(self) -> float:
        self.seed += 1
        self.move(self.eps)
        plus = self.forward()
        self.move(-2 * self.eps)
        minus = self.forward()
        self.move(self.eps)
        c = (plus - minus) / (2 * self.eps)
        self.move(-self.lr * c)
        return c


class TrainerSteps:
    """transformers.Trainer + PEFT's LoRA: the answer's tokens as labels, torch's fused AdamW, dynamic padding.

    `run(n)` trains n steps over its examples in order.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, encoded: Sequence[Encoded], batch_size: int, out: str) -> None:
        from peft import LoraConfig, get_peft_model
        from transformers import DataCollatorForSeq2Seq

        config = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
        self.model = get_peft_model(model, config)  # pyright: ignore[reportArgumentType]
        self.rows = [_labelled(e) for e in encoded]
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self.collator = DataCollatorForSeq2Seq(tokenizer, padding=True)
        self.batch_size, self.out = batch_size, out

    def run(self, steps: int) -> None:
        self._trainer(steps).train()

    def _trainer(self, steps: int) -> Any:
        from transformers import Trainer, TrainingArguments

        args = TrainingArguments(
            self.out,
            per_device_train_batch_size=self.batch_size,
            max_steps=steps,
            learning_rate=1e-3,
            weight_decay=0.0,
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_num_workers=0,
            max_grad_norm=0.0,
        )
        return Trainer(self.model, args, train_dataset=self.rows, data_collator=self.collator)  # pyright: ignore

    def timed(self, steps: int) -> Callable[[], float]:
        """Seconds of `steps` steps without the Trainer's start, by its own callbacks."""
        import time

        from transformers import TrainerCallback

        marks: list[float] = []

        class Clock(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                marks.append(time.perf_counter())

        trainer = self._trainer(steps + 1)
        trainer.add_callback(Clock())

        def run() -> float:
            trainer.train()
            return marks[-1] - marks[0]  # from the end of the first step to the end of the last

        return run


def _labelled(encoded: Encoded) -> dict[str, list[int]]:
    """input_ids and labels of the right answer; its last token is a label that the model also reads."""
    row = encoded.rows[0]
    tokens = [(at, token) for at, token, option in row.labels if option == encoded.gold[0]]
    end = tokens[-1][0] + 1
    ids = [*row.ids[:end], tokens[-1][1]]
    labels = [-100] * len(ids)
    for at, token in tokens:
        labels[at + 1] = token
    return {"input_ids": ids, "labels": labels, "attention_mask": [1] * len(ids)}


@torch.no_grad()
def one_forward_per_option(model: Any, encoded: Sequence[Encoded]) -> list[int]:
    """Score each option by a forward of its own with all its logits; the predicted options."""
    predicted = []
    for e in encoded:
        scores = []
        for option in range(e.n_options):
            row = next(r for r in e.rows if any(o == option for _, _, o in r.labels))
            labels = [(at, token) for at, token, o in row.labels if o == option]
            ids = torch.tensor([row.ids[: labels[-1][0] + 1]])
            logp = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0].float(), -1)
            scores.append(sum(float(logp[at, token]) for at, token in labels) / len(labels))
        predicted.append(max(range(e.n_options), key=scores.__getitem__))
    return predicted
