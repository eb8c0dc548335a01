"""A session whose steps are made one by one, taken back, and spoilt at a chosen place: what `numbers` is made of."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tests.conftest import make_tokenizer, save_tiny, sentiment_rows, write_rows
from tests.setting_files import task_args
from tests.small_setting import make_setting
from transformers import LlamaConfig

from zofo.api.configure import resolve
from zofo.objectives._loss import Loss
from zofo.train.checkpoint_manager import journal_header
from zofo.train.setup import Session, build
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.journal import Journal

LORA = ["adapter=lora", "adapter.r=2"]
# name: (the method, settings). Rates that move every weight in fp16 and bf16 too
METHODS: dict[str, tuple[str, list[str]]] = {
    "mezo": ("mezo", ["method.lr=1e-3"]),
    "mezo, q = 3": ("mezo", ["method.lr=1e-3", "estimator.q=3"]),
    "mezo, one-sided": ("mezo", ["method.lr=1e-3", "estimator=one-sided"]),
    "mezo, lozo, momentum": ("mezo", ["method.lr=1e-3", "estimator=lozo", "rule=momentum"]),
    "mezo, subzero, sign": ("mezo", ["method.lr=1e-4", "estimator=subzero", "rule=sign"]),
    "mezo, svrg": ("mezo", ["method.lr=1e-3", "estimator=svrg", "estimator.refresh=2", "estimator.anchor_batches=2"]),
    "mezo, adamw": ("mezo", ["method.lr=1e-3", "rule=adamw"]),
    "mezo, normalize": ("mezo", ["method.lr=1e-3", "rule.normalize=true"]),
    "mezo, conservative": ("mezo", ["method.lr=1e-3", "rule=conservative"]),
    "mezo on lora": ("mezo", [*LORA, "method.lr=1e-2"]),
    "sparse-mezo": ("sparse-mezo", ["method.lr=1e-3"]),
    "two-stage": ("two-stage", [*LORA, "method.inner_steps=1", "method.lr_theta=1e-3"]),
    "bilevel-zofo": ("bilevel-zofo", [*LORA, "method.inner_steps=2", "method.lr_theta=1e-4"]),
    "bilevel-ablations": ("bilevel-ablations", [*LORA, "method.inner_steps=1", "method.p_steps=2"]),
    "bilevel-fo": ("bilevel-fo", [*LORA, "method.inner_steps=1"]),
    "meta-bilevel-zofo": ("meta-bilevel-zofo", [*LORA, "method.inner_steps=1", "method.tasks_per_step=2"]),
    "fo-peft": ("fo-peft", [*LORA]),
    "fo-ft": ("fo-ft", []),
    "metaicl": ("metaicl", ["task.num_fewshot=2"]),
    "multi-task-ft": ("multi-task-ft", []),
}
MANY = ("meta-bilevel-zofo", "metaicl", "multi-task-ft")


@dataclass(frozen=True)
class Small:
    """A Llama of one layer and width 16, rows, and a setting. Made once, in a folder."""

    root: Path

    @cached_property
    def model(self) -> Path:
        tokenizer = make_tokenizer()
        ids: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
        sizes: dict[str, Any] = {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "max_position_embeddings": 128,
        }
        heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}
        config = LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.1, **sizes, **heads, **ids)
        return save_tiny(self.root / "model", config, tokenizer)

    @cached_property
    def rows(self) -> Path:
        return write_rows(self.root / "rows.jsonl", sentiment_rows(24))

    @cached_property
    def setting(self) -> list[str]:
        return task_args(make_setting(self.root / "setting"))

    def options(self, name: str, *more: str) -> tuple[dict[str, Any], list[str]]:
        """(the sections, the settings) of METHODS[name]."""
        method, settings = METHODS[name]
        few = [f"task.{split}_examples={n}" for split, n in (("train", 12), ("dev", 4), ("test", 4))]
        train = ["train.batch_size=2", "train.threads=1", "train.max_steps=24"]
        if method not in MANY:
            return {"model": str(self.model), "task": str(self.rows), "method": method}, [
                *few, *train, *settings, *more,
            ]  # fmt: skip
        task, data = self.setting[1], self.setting[3]
        many = ["task.train_examples=18", "task.dev_examples=6", "task.test_examples=6", f"task.data={data}"]
        return {"model": str(self.model), "task": task, "method": method}, [*many, *train, *settings, *more]

    def session(self, name: str, *more: str) -> Session:
        sections, settings = self.options(name, *more)
        config = resolve(None, settings, None, train={"output_dir": "unused"}, source="caller", **sections)
        return build(config)


def tensors(session: Session) -> dict[str, torch.Tensor]:
    """All that a run moves, by name: theta, the backbone, every adapter. The tensors themselves."""
    held = {f"theta: {k}": v for k, v in session.problem.theta.params.items()}
    held |= {f"backbone: {k}": v for k, v in session.backbone.params.items()}
    adapters = session.problem.adapters
    for name in session.method.adapters_used:
        assert adapters is not None
        held |= {f"{name}: {k}": v for k, v in adapters.parameters(name).items()}
    return held


def state_of(session: Session) -> dict[str, Any]:
    """What an update changes beside the tensors: moments, the rule's numbers, the method's own."""
    rule = session.rule
    return {"method": session.method.state_dict(), "rule": rule.state_dict() if rule is not None else {}}


@dataclass
class Snapshot:
    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]

    @classmethod
    def of(cls, session: Session) -> Snapshot:
        held = {name: value.detach().clone() for name, value in tensors(session).items()}
        return cls(held, copy.deepcopy(state_of(session)))

    def differs(self, session: Session) -> list[str]:
        """The names of what is not bit for bit what it was."""
        now = tensors(session)
        names = [name for name, value in self.tensors.items() if not same(value, now[name])]
        return names + [f"state: {key}" for key in unequal(self.state, state_of(session))]

    @torch.no_grad()
    def restore(self, session: Session) -> None:
        now = tensors(session)
        for name, value in self.tensors.items():
            now[name].copy_(value)
        for descent in session.method.optimizers().values():
            descent.forget()
        session.method.load_state_dict(copy.deepcopy(self.state["method"]))
        if session.rule is not None:
            session.rule.load_state_dict(copy.deepcopy(self.state["rule"]))


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bit for bit: NaN is itself, and -0 is not 0."""
    raw = [t.detach().contiguous().view(-1).view(torch.uint8) for t in (a, b)]
    return torch.equal(*raw)


def unequal(a: Any, b: Any, path: str = "") -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {**a, **b}:
            yield from unequal(a.get(key), b.get(key), f"{path}/{key}")
    elif isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.shape != b.shape or not same(a, b):
            yield path
    elif a != b:
        yield path


@dataclass(frozen=True)
class Place:
    """Where a step is spoilt: the `number`-th value of this kind in it, from 0."""

    kind: str  # "loss", "loss with gradient", "gradient"
    number: int = 0


@contextmanager
def spoilt(place: Place | None, bad: float, counts: dict[str, int] | None = None) -> Iterator[list[str]]:
    """Inside, the value at the place is `bad`, of a gradient its first number. Yields what was spoilt.

    counts: filled with how many values of each kind there were.
    """
    seen, done = counts if counts is not None else {}, list[str]()
    real = Loss._mean, Loss.backward, Loss._sums

    def due(kind: str) -> bool:
        number = seen[kind] = seen.get(kind, -1) + 1
        hit = place is not None and (place.kind, place.number) == (kind, number)
        if hit:
            done.append(kind)
        return hit

    def mean(self: Loss, sums: torch.Tensor, weights: torch.Tensor) -> float:
        value = real[0](self, sums, weights)
        return bad if due("loss") else value

    inside = [False]

    def backward(self: Loss, batch: Any, scale: float = 1.0, everywhere: bool = False) -> float:
        inside[0] = due("loss with gradient")
        try:
            value = real[1](self, batch, scale, everywhere)
        finally:
            inside[0] = False
        if due("gradient"):
            next(p.grad for p in self.scorer.model.parameters() if p.grad is not None).view(-1)[0] = bad
        return value

    def sums(self: Loss, batch: Any, **kwargs: Any) -> Any:
        total, weights = real[2](self, batch, **kwargs)
        return (total * 0 + bad, weights) if inside[0] else (total, weights)

    Loss._mean, Loss.backward, Loss._sums = mean, backward, sums  # type: ignore[method-assign]
    try:
        yield done
    finally:
        Loss._mean, Loss.backward, Loss._sums = real  # type: ignore[method-assign]
        seen.update({kind: number + 1 for kind, number in seen.items()})


@contextmanager
def coefficient(session: Session, c: float) -> Iterator[None]:
    """Inside, the first coefficient of every estimate is c, rounded to fp32."""
    estimator = session.problem.estimator
    assert estimator is not None
    kind, real = type(estimator), type(estimator).__call__

    def spoil(self: Any, *args: Any, **kwargs: Any) -> ZOGrad:
        g = real(self, *args, **kwargs)
        (_, z), *rest = g.terms
        return replace(g, terms=((float32(c), z), *rest))

    kind.__call__ = spoil  # type: ignore[method-assign]
    try:
        yield
    finally:
        kind.__call__ = real  # type: ignore[method-assign]


@contextmanager
def watched(session: Session, at: Callable[[str, int, Snapshot], None]) -> Iterator[None]:
    """Inside, `at(level, number, what was before it)` is called after each update, number from 0, refused or not."""
    problem, real, number = session.problem, session.problem.update, [0]

    @contextmanager
    def update(level: str) -> Iterator[None]:
        before, this = Snapshot.of(session), number[0]
        number[0] += 1
        try:
            with real(level):
                yield
        finally:
            at(level, this, before)

    problem.update = update  # type: ignore[method-assign]
    try:
        yield
    finally:
        del problem.update


def with_journal(session: Session, path: Path) -> Journal:
    """The session's updates go into a journal from now on."""
    journal = Journal.create(path, journal_header(session))
    session.records.open(journal)
    return journal
