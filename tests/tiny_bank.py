"""A tiny Llama with a bank of adapters for five tasks, and mixed batches of their examples.

What a bank computes is compared with each example alone, unpadded, under its own task's adapter (`TinyBank.alone`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tests.tiny_bilevel import PAD, SEED, examples, lively
from tests.tiny_models import VOCAB, build
from zofo.data import Example
from zofo.data.batch import collate
from zofo.data.example import objective_of
from zofo.data.tokenization import Encoded, Row
from zofo.models.activation_checkpointing import checkpoint_layers
from zofo.models.adapters import dept, ia3, lora, prefix, prompt
from zofo.models.adapters._bank import Bank, member
from zofo.models.adapters._set import AdapterSet
from zofo.models.label_head import LabelHead
from zofo.models.scorer import Scorer
from zofo.objectives._loss import Loss

# names that begin like others, and those with what torch's and PEFT's names are split at
TASKS = ("trec", "trec-finegrained", "superglue-cb:a", "v1.0-notes", "tr")
ORDER = (0, 3, 0, 1, 3, 2)  # the task of each example of a mixed batch; the last task is absent
ADAPTERS: dict[str, Any] = {
    "lora": lora.Adapter(lora.Config(r=4, alpha=8)),
    "prefix": prefix.Adapter(prefix.Config(tokens=3)),
    "prompt": prompt.Adapter(prompt.Config(tokens=3)),
    "dept": dept.Adapter(dept.Config(tokens=2, r=2, max_length=16)),
    "ia3": ia3.Adapter(ia3.Config()),
}
KINDS = tuple(ADAPTERS)


class Words:
    """What the soft adapters need of a tokenizer."""

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [5, 6, 7]}


def plain_loss(model: Any, head: LabelHead | None = None, objective: str = "lm") -> Loss:
    """F of a model without zofo's adapters."""
    return Loss(Scorer(model, head or LabelHead(model), PAD, torch.device("cpu")), objective_of(objective)())


@dataclass
class TinyBank:
    model: Any
    inner: AdapterSet
    bank: Bank
    head: LabelHead
    objective: str
    checkpointed: bool

    def loss(self, micro: int | None = None) -> Loss:
        scorer = Scorer(self.bank.model, self.head, PAD, torch.device("cpu"))
        return Loss(scorer, objective_of(self.objective)(), self.bank, micro, checkpointed=self.checkpointed)

    def alone(self, example: Encoded, name: str) -> tuple[Tensor, Tensor]:
        """(sum, weight) [1] of one example by itself, under its own task's adapter, with the graph."""
        loss = plain_loss(self.inner.model, self.head, self.objective)
        with self.inner.active(member(name, example.example.group)):
            return loss._sums(collate([example], PAD))

    def value(self, encoded: list[Encoded], name: str) -> float:
        """F by its definition: the sum over examples, over their weights."""
        with torch.no_grad():
            sums, weights = zip(*(self.alone(e, name) for e in encoded))
        return float(torch.cat(sums).double().sum() / torch.cat(weights).double().sum())


def new_bank(model: Any, adapter: Any) -> tuple[AdapterSet, Bank]:
    """A bank of p and s of each task, and the set of its members, as a run starts with them."""
    inner = adapter.build(model, Bank.all_members(("p", "s"), TASKS), SEED, Words())
    return inner, Bank(inner, ("p", "s"), TASKS)


def scatter(bank: Bank, *names: str) -> None:
    """Every member differs from every other, and all are away from their start."""
    generator = torch.Generator().manual_seed(5)
    for name in names:
        for tensor in bank.parameters(name).values():
            tensor.data += 0.2 * torch.randn(tensor.shape, generator=generator)


def tiny_bank(kind: str = "lora", objective: str = "lm", checkpointed: bool = False) -> TinyBank:
    model = lively(build("llama"))
    head = LabelHead(model)
    if checkpointed:
        checkpoint_layers(model)
    inner, bank = new_bank(model, ADAPTERS[kind])
    scatter(bank, "p", "s")
    return TinyBank(model, inner, bank, head, objective, checkpointed)


def mixed(objective: str, seed: int = 0, order: tuple[int, ...] = ORDER) -> list[Encoded]:
    """Examples of many tasks in one batch."""
    encoded = examples(objective, len(order), seed)
    return [replace(e, example=replace(e.example, group=TASKS[t])) for e, t in zip(encoded, order)]


def forked(seed: int = 1) -> list[Encoded]:
    """Examples whose options share a long prompt, so that an option tree pays."""
    rng, encoded = random.Random(seed), []
    for i, t in enumerate(ORDER):
        start = [rng.randrange(3, VOCAB) for _ in range(9)]
        rows = []
        for option in range(3):
            answer = [rng.randrange(3, VOCAB) for _ in range(2 + option % 2)]
            labels = tuple((len(start) - 1 + n, token, option) for n, token in enumerate(answer))
            rows.append(Row((*start, *answer[:-1]), labels))
        example = Example(f"f/{i}", "", ("", "", ""), (0,), group=TASKS[t])
        encoded.append(Encoded(example, tuple(rows), (rng.randrange(3),), 3))
    return encoded


def grads(bank: Bank, name: str) -> dict[str, Tensor | None]:
    return {key: None if p.grad is None else p.grad.clone() for key, p in bank.parameters(name).items()}
