"""Random models of real sizes, with batches of random tokens: for speed and memory, never for a loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch

from zofo.data import Example
from zofo.data.batch import Batch, collate
from zofo.data.tokenization import Encoded, Row
from zofo.methods import bilevel_zofo, fo_peft, mezo
from zofo.methods._problem import Problem
from zofo.models.adapters import lora
from zofo.models.label_head import LabelHead
from zofo.models.scorer import Scorer
from zofo.objectives import options
from zofo.objectives._loss import Loss
from zofo.zo.estimators import spsa
from zofo.zo.journalled import Journalled
from zofo.zo.point import Point
from zofo.zo.rules import sgd

MODELS = ("smollm2-135m", "opt-1.3b")
T = 10


SMOLLM: dict[bool, dict[str, Any]] = {
    False: {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
    },
    True: {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 128,
    },
}
OPT: dict[bool, dict[str, Any]] = {
    False: {
        "hidden_size": 2048,
        "word_embed_proj_dim": 2048,
        "ffn_dim": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "vocab_size": 50272,
    },
    True: {
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 128,
    },
}


def config(name: str, tiny: bool) -> Any:
    """The sizes of SmolLM2-135M and OPT-1.3B; tiny: two narrow layers of the same kinds."""
    import transformers as t

    if name == "smollm2-135m":
        return t.LlamaConfig(**SMOLLM[tiny], tie_word_embeddings=True)
    return t.OPTConfig(**OPT[tiny], dropout=0.0, max_position_embeddings=2048)


def batch(rows: int, length: int, seed: int, vocab: int) -> Batch:
    """rows examples of `length` random tokens, two options behind each."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, vocab, (rows, length), generator=generator).tolist()
    example = Example("random", "", ("a", "b"), (0,))
    labels = ((length - 1, 5, 0), (length - 1, 9, 1))
    return collate([Encoded(example, (Row(tuple(row), labels),), (i % 2,), 2) for i, row in enumerate(ids)], 2)


@dataclass
class World:
    """One model with LoRAs p and s, and the methods on it, at rates of 0: every step is the same."""

    problem: Problem
    vocab: int

    def use(self, f: Batch, p: Batch) -> None:
        self.problem.streams = {"f": repeat(f), "p": repeat(p), "train": repeat(f)}

    def _step(self, method: Any) -> Callable[[], object]:
        method.setup(self.problem)
        return lambda: method.step(0)

    def mezo(self) -> Callable[[], object]:
        return self._step(mezo.Method(mezo.Config(lr=0.0)))

    def fo(self) -> Callable[[], object]:
        return self._step(fo_peft.Method(fo_peft.Config(lr=0.0)))

    def bilevel(self) -> Callable[[], object]:
        return self._step(bilevel_zofo.Method(bilevel_zofo.Config(inner_steps=T, lr_s=0.0, lr_theta=0.0)))


def world(name: str, dtype: torch.dtype, device: str, tiny: bool = False) -> World:
    from transformers import AutoModelForCausalLM

    settings = config(name, tiny)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(settings, dtype=dtype).eval().requires_grad_(False)
    theta, head = Point(model), LabelHead(model)
    adapters = lora.Adapter(lora.Config()).build(model, ("p", "s"), 0)
    loss = Loss(Scorer(adapters.model, head, 2, torch.device(device)), options.Objective(), adapters)
    problem = Problem(theta, adapters, loss, {}, 0)
    problem.estimator = spsa.Estimator(spsa.Config())
    problem.rule = Journalled(sgd.Rule(sgd.Config(), 0), None)
    return World(problem, settings.vocab_size)
