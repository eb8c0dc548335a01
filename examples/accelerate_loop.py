"""A causal language model tuned without gradients in an accelerate loop: `python examples/accelerate_loop.py MODEL`."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

from zofo import ZerothOrder

TEXTS = [
    f"{film} film, it was {word}" for film in ("a warm", "a dull", "an odd", "a long") for word in ("great", "bad")
]


def batches(tokenizer, texts, size=4):
    """Batches of tokens with their labels, -100 where there is padding; the same ones in each epoch."""

    def collate(some):
        batch = tokenizer(some, return_tensors="pt", padding=True)
        return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}

    return DataLoader(texts, size, collate_fn=collate)


def main(name: str, out: str = "out/accelerate", epochs: int = 5, resume: str | None = None) -> list[float]:
    """The loss of each step; each epoch ends with a checkpoint, of which `resume` names one."""
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModelForCausalLM.from_pretrained(name).eval()
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model, loader = accelerator.prepare(model, batches(tokenizer, TEXTS))
    # Not prepared: accelerate's wrapper of an optimizer drops the loss that step() returns
    opt = ZerothOrder(model, lr=1e-4, estimator={"name": "spsa", "q": 2})
    accelerator.register_for_checkpointing(opt)
    losses, start = [], 0
    if resume is not None:
        accelerator.load_state(resume)
        start = opt.steps // len(loader)
    for epoch in range(start, epochs):
        for batch in loader:
            losses.append(opt.step(lambda batch=batch: model(**batch).loss))
        accelerator.save_state(str(Path(out) / f"epoch-{epoch}"))
        print(f"epoch {epoch}  loss {losses[-1]:.4f}")
    return losses


if __name__ == "__main__":
    main(*sys.argv[1:3])
