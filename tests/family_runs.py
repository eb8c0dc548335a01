"""Short real runs on tiny model directories of every family, and what each run must keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, TrainerCallback

from tests.conftest import make_tokenizer, read_rows, save_tiny, sentiment_rows, write_rows
from tests.tiny_models import config
from zofo import Run, evaluate, finetune, load
from zofo.api.restore import restore
from zofo.config import registry
from zofo.zo.digests import tensor_sha256
from zofo.zo.point import Point
from zofo.zo.quantized import parts

WINDOW = 16  # of the sliding layers: more than a prefix has tokens, fewer than a text has
ROWS = 24

# Adapters that a family's defaults cannot build: the reason, and the settings that make it fit (None: nothing does).
# Whether Mamba's dt_proj is called, so that an adapter reaches it, hangs on the version of transformers.
REFUSED: dict[tuple[str, str], tuple[str, dict[str, Any] | None]] = {
    ("mamba", "lora"): (
        "no default for 'mamba' models; name some of: (dt_proj, )?in_proj, x_proj$",
        {"target_modules": ["in_proj", "x_proj"]},
    ),
    ("mamba", "ia3"): (
        "no default for 'mamba' models; .* feed-forward modules, of: (dt_proj, )?in_proj, x_proj$",
        {"target_modules": ["in_proj"]},
    ),
    ("mamba", "prefix"): ("prefix needs a model that caches keys and values; mamba does not", None),
    ("mixtral", "ia3"): (
        r"weights of all experts in one tensor.*target_modules=\[k_proj, v_proj\]",
        {"target_modules": ["k_proj", "v_proj"]},
    ),
}

NOT_PEFTS = ("dept",)  # adapters that PEFT does not know: an export of theirs is for zofo.load

# Settings with T = 2 and rates that move every tensor of theta in a few steps
METHODS: dict[str, dict[str, Any]] = {
    "bilevel-zofo": {"inner_steps": 2, "lr_theta": 1e-4, "lr_s": 1e-2},
    "bilevel-fo": {"inner_steps": 2, "lr_theta": 1e-4, "lr_s": 1e-2},
    "bilevel-ablations": {"inner_steps": 2, "lr_theta": 1e-4, "lr_s": 1e-2, "stratified": True},
    "meta-bilevel-zofo": {"inner_steps": 2, "lr_theta": 1e-4, "lr_s": 1e-2, "tasks_per_step": 2},
    "metaicl": {"lr": 1e-3},
    "multi-task-ft": {"lr": 1e-3},
    "two-stage": {"inner_steps": 2, "lr_theta": 1e-4, "lr": 1e-2},
    "fo-ft": {"lr": 1e-4},
    "fo-peft": {"lr": 1e-2},
    "mezo": {"lr": 1e-3},
    "sparse-mezo": {"lr": 1e-3},
}


def save_family(
    family: str, root: Path, tokenizer: Any = None, positions: int = 128, window: int = WINDOW, **changes: Any
) -> Path:
    """root/family with a tiny model and a tokenizer; weights of 0.1, so that adapters and shifts matter.

    tokenizer: another one than make_tokenizer's. changes: fields of the model's config.
    """
    tokenizer = tokenizer or make_tokenizer()
    settings = config(family, vocab=len(tokenizer), positions=positions, window=window)
    for name in ("initializer_range", "init_std"):
        if hasattr(settings, name):
            setattr(settings, name, 0.1)
    settings.update(changes)
    return save_tiny(root / family, settings, tokenizer)


class Directories:
    """directories(family, **changes of its config) -> a directory; the plain family's is made once. Read only."""

    def __init__(self, root: Path) -> None:
        self.root, self.changed = root, 0

    def __call__(self, family: str, **changes: Any) -> Path:
        self.changed += bool(changes)
        root = self.root / (str(self.changed) if changes else "plain")
        return path if (path := root / family).is_dir() else save_family(family, root, **changes)


def load_family(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory).eval().requires_grad_(False)


def save_rows(root: Path) -> Path:
    return write_rows(root / "rows.jsonl", sentiment_rows(ROWS))


def adapter_for(family: str, name: str) -> dict[str, Any] | None:
    """The adapter's section with what this family needs; None where it does not fit."""
    extra = REFUSED.get((family, name), ("", {}))[1]
    return None if extra is None else {"name": name, **extra}


def adapted(
    name: str, model: Any, tokenizer: Any, noise: float = 0.3, moved: Sequence[str] = ("p",), **settings: Any
) -> Any:
    """A set of p and s. moved: those that are away from their start, and from each other."""
    module = registry.load("adapters", name)
    adapters = module.Adapter(module.Config(**settings)).build(model, ("p", "s"), 7, tokenizer)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for adapter in moved:
            for param in adapters.parameters(adapter).values():
                param.add_(noise * torch.randn(param.shape, generator=generator))
    return adapters


class Watch(TrainerCallback):
    """Sees that nothing is in training mode at any step; keeps the hashes of all tensors at the end."""

    def __init__(self) -> None:
        self.steps, self.final = 0, set()

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        assert not any(module.training for module in model.modules())

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.on_step_begin(args, state, control, model)
        self.steps += 1

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.final = hashes(model)


def short_run(
    model: Path,
    rows: Path,
    out: Path,
    method: str = "bilevel-zofo",
    adapter: dict[str, Any] | None = None,
    steps: int = 6,
    overrides: Sequence[str] = (),
    **settings: Any,
) -> tuple[Run, Watch]:
    """Six counted steps, evaluated once at the end: what is deployed is the last step. settings: the method's."""
    watch = Watch()
    run = finetune(
        str(model),
        str(rows),
        {"name": method, **METHODS.get(method, {}), **settings},
        adapter,
        output_dir=out,
        max_steps=steps,
        batch_size=4,
        eval_steps=steps,
        save_steps=steps,
        logging_steps=1,
        callbacks=[watch],
        overrides=["model.device=cpu", *overrides],
    )
    return run, watch


def check_run(run: Run, watch: Watch) -> None:
    """theta moved as the method promises, losses are finite, and the files alone give the same model."""
    method = registry.load("methods", run.info["method"]).Method
    section = restore(run.path, "theta").config
    made = method(section.method, section.adapter is not None)
    moves = made.moves if made.theta_of == "backbone" else "nothing"
    assert watch.steps == (6 // made.per_step if made.per_step else 0)
    lines = read_rows(run.path / "metrics.jsonl")
    losses = [value for line in lines for key, value in line.items() if key.startswith("loss") or key == "c"]
    losses += [values["loss"] for split in ("dev", "test") for values in run.info[split].values()]
    assert losses
    assert all(math.isfinite(value) for value in losses)

    replayed = restore(run.path, "theta")
    final, base = Point(replayed.model).sha256(), load_family(Path(replayed.config.model.name))
    before = Point(base).sha256()
    assert set(final.values()) <= watch.final  # bit for bit the tensors in memory at the end
    same = {name for name in final if final[name] == before[name]}
    every = moves == "zo" and section.mask is None  # a mask may rest a tensor of equal weights whole
    assert same == (set(final) if moves == "nothing" else set() if every else same)
    assert len(same) < len(final) or moves == "nothing"
    assert math.isclose(evaluate(run.path)["loss"], run.test["loss"], rel_tol=1e-5)


def logits(model: Any, ids: Tensor, **kwargs: Any) -> Tensor:
    """Of the tokens themselves, without a soft prompt's positions."""
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), **kwargs).logits[:, -ids.shape[1] :]


def check_export(run: Run, out: Path) -> None:
    """Plain transformers and peft, from the export alone, give the tensors and logits of the run's restored model.

    Tensors bit for bit; logits to rounding, since products depend on where in memory a file's tensors lie.
    """
    from peft import PeftModel

    ids = torch.randint(3, 90, (2, 30), generator=torch.Generator().manual_seed(0))
    restored, exported = load(run.path)[0], run.export(out, merge=False)
    if run.info["adapter"] in NOT_PEFTS:
        theirs = load(exported)[0]
    elif (exported / "adapter_config.json").exists():
        theirs = PeftModel.from_pretrained(load_family(exported / "backbone"), str(exported)).eval()
    else:
        theirs = load_family(exported)
    ours = logits(restored, ids)
    torch.testing.assert_close(logits(theirs, ids), ours, rtol=1e-5, atol=2e-6)
    assert hashes(theirs) == hashes(restored)
    if sum(run.info["steps"].values()):  # zero-shot and icl train nothing
        base = load_family(Path(restore(run.path, "theta").config.model.name))
        assert not torch.allclose(logits(base, ids), ours, atol=1e-3)


def hashes(model: Any) -> set[str]:
    """Of all parameters; of a quantised one, of its codes and scales."""
    return {tensor_sha256(part) for param in model.parameters() for _, part in parts(param)}
