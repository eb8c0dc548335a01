"""Trained adapters of every kind, as plain PEFT saves them and as zofo does: random weights, the same every time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tests.conftest import make_tokenizer
from tests.small_runs import SMALL
from zofo.config import registry

# What PEFT is told, and the settings that zofo is to find in what it writes
Q, V = (f"model.layers.1.self_attn.{name}_proj" for name in "qv")
PEFT: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "lora": (
        "LoraConfig",
        {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "o_proj"], "lora_dropout": 0.1},
        {"name": "lora", "r": 4, "alpha": 8, "target_modules": ["o_proj", "q_proj"]},
    ),
    "lora of some layers": (
        "LoraConfig",
        {"r": 2, "lora_alpha": 2, "target_modules": r".*\.(q|v)_proj", "exclude_modules": r".*layers\.0\..*"},
        {"name": "lora", "r": 2, "alpha": 2, "target_modules": [Q, V]},
    ),
    "ia3": (
        "IA3Config",
        {"target_modules": ["v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
        {"name": "ia3", "target_modules": ["down_proj", "v_proj"], "feedforward_modules": ["down_proj"]},
    ),
    "prefix": ("PrefixTuningConfig", {"num_virtual_tokens": 3}, {"name": "prefix", "tokens": 3}),
    "prefix of an encoder": (
        "PrefixTuningConfig",
        {"num_virtual_tokens": 4, "prefix_projection": True, "encoder_hidden_size": 8},
        {"name": "prefix", "tokens": 4},
    ),
    "prompt": ("PromptTuningConfig", {"num_virtual_tokens": 6}, {"name": "prompt", "tokens": 6}),
    "p-tuning": (
        "PromptEncoderConfig",
        {"num_virtual_tokens": 4, "encoder_hidden_size": 8},
        {"name": "prompt", "tokens": 4},
    ),
}
OWN: dict[str, dict[str, Any]] = {
    "lora": {"r": 3, "alpha": 5, "target_modules": ["k_proj", "up_proj"]},
    "ia3": {},
    "prefix": {"tokens": 2},
    "prompt": {"tokens": 3},
    "dept": {"tokens": 2, "r": 2, "max_length": 40, "scale": 0.5},
}


def spread(params: Any) -> None:
    """Weights far from where an adapter starts, the same every time."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for param in params:
            param.add_(0.2 * torch.randn(param.shape, generator=generator))


def by_peft(model: Path, folder: Path, kind: str, **changes: Any) -> Path:
    """PEFT's directory of an adapter on a model's directory. kind: of PEFT; changes: to its configuration."""
    import peft

    name, options, _ = PEFT[kind]
    base = AutoModelForCausalLM.from_pretrained(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made: Any = peft.get_peft_model(base, getattr(peft, name)(task_type="CAUSAL_LM", **{**options, **changes}))
    spread(param for param in made.parameters() if param.requires_grad)
    made.eval().save_pretrained(str(folder))
    return folder


def by_zofo(model: Path, folder: Path, kind: str) -> Path:
    """The same of an adapter of zofo's own, as a run saves it."""
    module, base = registry.load("adapters", kind), AutoModelForCausalLM.from_pretrained(model).eval()
    adapters = module.Adapter(module.Config(**OWN[kind])).build(base.requires_grad_(False), ("p",), 1, make_tokenizer())
    spread(adapters.parameters("p").values())
    adapters.save("p", folder, str(model))
    return folder


def computed(model: Path, folder: Path, zofos: bool = False) -> Callable[[torch.Tensor], torch.Tensor]:
    """ids [1, L] -> logits [1, L, V] of plain PEFT with a directory; of zofo.load where PEFT does not know the kind."""
    import peft

    if zofos:
        import zofo

        whole, _ = zofo.load(folder)
    else:
        whole = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), str(folder)).eval()

    @torch.no_grad()
    def logits(ids: torch.Tensor) -> torch.Tensor:
        return whole(input_ids=ids, use_cache=False).logits[:, -ids.shape[1] :]

    return logits


def train(rows: Path, out: Path, method: Any, start: Path, **options: Any) -> Any:
    """A finished run that begins with the adapter in `start`. options: of the train section, and `model`."""
    import zofo
    from zofo.api import configure

    model = options.pop("model", None)
    if isinstance(method, str) and method != "fo-peft":
        method = {"name": method, **({} if method == "mezo" else {"inner_steps": 1})}
    sections: dict[str, Any] = {} if model is None else {"model": str(model)}
    config = configure.resolve(
        None,
        task=str(rows),
        method=method,
        adapter={"start": str(start)},
        train={"output_dir": str(out), **SMALL, **options},
        **sections,
    )
    return zofo.train(config)
