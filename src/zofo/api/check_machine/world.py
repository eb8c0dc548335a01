"""A model of SmolLM2-135M's shape with random weights, and batches of random tokens: for bits, bytes and seconds, never
for a loss. Nothing is downloaded, and torch's global random state is left as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch

from zofo.api.memory import named_shapes
from zofo.config.json_text import read_json
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

TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY |= {"num_key_value_heads": 2, "vocab_size": 128}
SHAPE = "smollm2-135m"
T = 2  # lower steps of the upper one that is measured


@dataclass
class World:
    """The model with LoRAs p and s, and methods on it at rates of 0: every step is the same."""

    problem: Problem
    vocab: int
    device: torch.device

    def use(self, rows: int, length: int) -> Batch:
        """Batches of so many rows and tokens for every stream; that of the objective."""
        f, p = (batch(rows, length, seed, self.vocab).to(self.device) for seed in (0, 1))
        self.problem.streams = {"f": repeat(f), "p": repeat(p), "train": repeat(f)}
        return f

    def steps(self, inner_steps: int = T) -> dict[str, Callable[[], object]]:
        """By method: one step."""
        kinds: dict[str, Any] = {
            "mezo": mezo.Method(mezo.Config(lr=0.0)),
            "fo-peft": fo_peft.Method(fo_peft.Config(lr=0.0)),
            "bilevel-zofo": bilevel_zofo.Method(bilevel_zofo.Config(inner_steps=inner_steps, lr_s=0.0, lr_theta=0.0)),
        }
        for method in kinds.values():
            method.setup(self.problem)
        return {name: lambda method=method: method.step(0) for name, method in kinds.items()}


def world(device: torch.device, dtype: torch.dtype, tiny: bool = False, mode: str = "layer") -> World:
    """tiny: two narrow layers of the same kind. mode: how theta is shifted, see `Point`."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    shape = read_json(named_shapes.FOLDER / f"{SHAPE}.json")
    shape = {key: value for key, value in shape.items() if key not in ("model_type", "architectures")}
    settings = LlamaConfig(**{**shape, **(TINY if tiny else {})})
    with torch.random.fork_rng():  # transformers draws weights from the global state
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(settings, dtype=dtype).eval().requires_grad_(False)
    return of_model(model.to(device), settings.vocab_size, mode)


def of_model(model: Any, vocab: int, mode: str = "layer") -> World:
    """A world of a model that is there, on its device."""
    theta, head = Point(model, mode=mode), LabelHead(model)
    adapters = lora.Adapter(lora.Config()).build(model, ("p", "s"), 0)
    loss = Loss(Scorer(adapters.model, head, 2, model.device), options.Objective(), adapters)
    problem = Problem(theta, adapters, loss, {}, 0)
    problem.estimator = spsa.Estimator(spsa.Config())
    problem.rule = Journalled(sgd.Rule(sgd.Config(), 0), None)
    return World(problem, vocab, model.device)


def batch(rows: int, length: int, seed: int, vocab: int) -> Batch:
    """rows examples of `length` random tokens, two options behind each."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, vocab, (rows, length), generator=generator).tolist()
    example = Example("random", "", ("a", "b"), (0,))
    labels = ((length - 1, 5, 0), (length - 1, 9, 1))
    return collate([Encoded(example, (Row(tuple(row), labels),), (i % 2,), 2) for i, row in enumerate(ids)], 2)
