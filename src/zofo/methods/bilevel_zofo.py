"""Bilevel ZOFO, Algorithm 2: zeroth-order steps of the backbone outside, first-order steps of an adapter inside.

Shirkavand, Yu, He, Huang (NeurIPS 2025, arXiv 2502.03604):

    min over theta, p, max over s of  G = F(theta, p; D_f) + lam [F(theta, p; D_p) - F(theta, s; D_p)]      (5)

| symbol | field | default | place |
|---|---|---|---|
| lambda | lam | 10, constant | section 4.3; B.1.4 has 10000 |
| T | inner_steps | 10 | section 4.1; B.1.4 has 20 |
| eta | lr_s | 1e-3 | line 5 |
| zeta for p | lr_p | lr_s | eq. (8); `lr_theta`: one zeta for both, line 9 |
| zeta for theta | lr_theta | 1e-6 | eq. (9) |
| D_f : D_p | upper_share | 1/3 | B.1.4 |

Where the paper leaves a choice open: the sign of s's term is "-" as in (5) and (9), not "+" as in (6); s^{k+1} enters
(9); the three terms of (9) share one z, and p and s one batch B_p; s descends F without the factor lam, and is warm.
Departures from Algorithm 2 are in `bilevel-ablations`, each off by default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

from zofo.data.example import split_levels, upper_part
from zofo.data.multitask.setting import trained_tasks
from zofo.errors import InputError
from zofo.methods._base import Base

if TYPE_CHECKING:
    from zofo.data.batch import Batch
    from zofo.data.example import Example, TaskData
    from zofo.methods._first_order import Descent
    from zofo.methods._problem import Metrics, Problem
    from zofo.models.adapters._set import AdapterSet
    from zofo.objectives._loss import Loss
    from zofo.zo.grad import ZOGrad


@dataclass(frozen=True)
class Config:
    lam: float = field(
        default=10.0, metadata={"help": "penalty lambda", "paper": "section 4.3; B.1.4 has 10000", "ge": 0}
    )
    inner_steps: int = field(
        default=10, metadata={"help": "T, lower steps between two upper steps", "paper": "section 4.1", "ge": 0}
    )
    lr_s: float = field(default=1e-3, metadata={"help": "rate of s", "paper": "eta, line 5", "ge": 0})
    lr_p: float | Literal["lr_theta"] | None = field(
        default=None,
        metadata={"help": "rate of p; null: lr_s; lr_theta: theta's, one zeta for both", "paper": "eq. (8)", "ge": 0},
    )
    lr_theta: float = field(default=1e-6, metadata={"help": "rate of theta", "paper": "eq. (9)", "ge": 0})
    optimizer: Literal["adamw", "sgd"] = field(
        default="adamw", metadata={"help": "optimizer of p and s, without weight decay", "paper": "B.1.4"}
    )
    upper_share: float = field(
        default=1 / 3, metadata={"help": "share of the training data in D_f", "paper": "B.1.4 (1:2)", "gt": 0, "lt": 1}
    )
    deploy: Literal["best", "s", "p"] = field(
        default="best", metadata={"help": "which adapter dev may choose", "paper": "Lemma 5.4 certifies (theta, s)"}
    )


class Penalised:
    """G on one pair of batches (eq. 5). p and s see the same B_p; the terms share one forward where they can."""

    further: Callable[[], Penalised] | None = None  # G on the next batches, for estimates that want more

    def __init__(self, loss: Loss, adapters: AdapterSet, batch_f: Batch, batch_p: Batch, lam: float) -> None:
        self.loss, self.adapters, self.lam = loss, adapters, lam
        self.batch_f, self.batch_p = batch_f, batch_p
        self.parts = [(batch_f, "p"), (batch_p, "p"), (batch_p, "s")]
        self.seen: list[tuple[float, ...]] = []  # F(theta, p; B_f), F(theta, p; B_p), F(theta, s; B_p)

    def __call__(self) -> float:
        """F(theta, p; B_f) + lam [F(theta, p; B_p) - F(theta, s; B_p)], without gradients."""
        if self.lam == 0:
            return self.loss.each(self.parts[:1])[0]
        if self.cancels:
            self.seen.append((self.loss.first(self.parts),))
            return self.seen[-1][0] + 0.0  # as with a penalty of 0: no minus 0
        f_p, p_p, p_s = self.loss.each(self.parts)
        self.seen.append((f_p, p_p, p_s))
        return f_p + self.lam * (p_p - p_s)

    @cached_property
    def cancels(self) -> bool:
        """Whether p is s, so that the penalty is 0 at every theta, and computes as 0. Neither moves while G lives."""
        return self.adapters.equal("p", "s") and not self.loss.cuts(self.parts)

    def grad_p(self) -> float:
        """Fill p's `.grad` with eq. (8)'s bracket, exactly (theta's too, where it is trainable). F(theta, p; B_f)."""
        with self.adapters.active("p"):
            value = self.loss.backward(self.batch_f)
            if self.lam:
                self.loss.backward(self.batch_p, scale=self.lam)
        return value


class Method(Base):
    """Algorithm 2. One `step` is one upper iteration k: T steps of s, then one of theta and p."""

    needs = frozenset({"adapter", "estimator", "rule"})
    optional = frozenset({"mask"})
    streams = ("f", "p")
    moves: ClassVar = "zo"
    adapters_used = ("p", "s")
    candidates = ("s", "p")  # s first: Lemma 5.4 certifies (theta, s)
    upper_per_step = 1

    def __init__(self, config: Config, with_adapter: bool = True) -> None:
        super().__init__(config)
        self.lower_per_step = config.inner_steps
        self.seen: list[tuple[float, ...]] = []  # of G, by the last estimate

    @property
    def deployable(self) -> tuple[str, ...]:
        return self.candidates if self.config.deploy == "best" else (self.config.deploy,)

    @property
    def draws(self) -> dict[str, int]:
        """B_f and B_p of each penalised step, and a batch of D_p for each lower one."""
        return {"f": self.upper_per_step, "p": self.lower_per_step + self.upper_per_step}

    def sizes(self, train: int, dev: int) -> dict[str, int]:
        del dev
        upper = upper_part(train, self.config.upper_share) if train > 1 else train
        return {"f": upper, "p": train - upper}

    def split(self, data: TaskData, seed: int) -> dict[str, list[Example]]:
        """D_f and D_p, the training data of the upper and the lower level (B.1.4); of many tasks, each task's."""
        levels: dict[str, list[Example]] = {"f": [], "p": []}
        for task in trained_tasks(data) or ("",):
            examples = [e for e in data.train if not task or e.group == task]
            if task and len(examples) < 2:
                raise InputError(f"{task}: one training row, and two levels need two; give more, or leave the task out")
            upper, lower = self.levels(examples, seed)
            levels["f"] += upper
            levels["p"] += lower
        return levels

    def levels(self, examples: list[Example], seed: int) -> tuple[list[Example], list[Example]]:
        """One task's training data as (D_f, D_p), a random split fixed by the seed: 1 : 2 (B.1.4)."""
        share = self.config.upper_share
        return split_levels(examples, seed, (share, 1 - share))

    def setup(self, problem: Problem) -> None:
        assert problem.adapters is not None
        self.problem, self.loss, self.theta, self.adapters = problem, problem.loss, problem.theta, problem.adapters
        self.estimate, self.rule = problem.estimator, problem.rule
        self.data_f, self.data_p = problem.streams["f"], problem.streams["p"]
        self.opt_s: Descent = problem.descent("s", self.config.optimizer)
        self.opt_p: Descent = problem.descent("p", self.config.optimizer)

    def step(self, k: int) -> Metrics:
        rates = {"lr_s": self.rate_s(k)}
        metrics = self.lower(k)  # lines 3-7: s^{k+1}
        G = self.penalised(k)  # line 8
        rates |= {"lr_p": self.rate_p(k), "lr_theta": self.rate_theta(k)}
        with self.problem.update("upper"):
            metrics |= self.upper(G, k)  # lines 9-10, every gradient at (theta^k, p^k, s^{k+1})
        return metrics | rates

    def lower(self, k: int) -> Metrics:
        """s <- s - lr_s grad_s F(theta^k, s; B), T times, a new batch of D_p each time."""
        losses: list[float] = []
        with self.adapters.active("s"):
            for t in range(self.config.inner_steps):
                with self.problem.update("lower"):
                    losses.append(self.loss.backward(next(self.data_p)))
                    self.opt_s.step(self.rate_s(k, t))
        return {"loss_s": sum(losses) / len(losses)} if losses else {}

    def upper(self, G: Penalised, k: int) -> Metrics:
        """theta along z by c, eq. (9), and p by its exact gradient, eq. (8)."""
        assert self.rule is not None
        loss_p = G.grad_p()
        self.opt_p.check()  # theta and p move both or not at all
        g_theta = self.zeroth_order(G, k)  # right before its update: in place, one pass restores theta and moves it
        self.seen = G.seen[:]  # before a rule asks G for more
        self.rule.update_(self.theta, g_theta, self.rate_theta(k), k, G)  # at p^k: before p moves
        self.opt_p.step(self.rate_p(k))
        return {"loss_p": loss_p, "G": g_theta.value, "c": g_theta.c}

    @property
    def details(self) -> Metrics:
        """F in each of G's terms, the mean over the estimate's evaluations, as G's is; none where they are apart, and
        G_f alone where the others cancel and are not computed."""
        return {name: sum(f) / len(f) for name, f in zip(("G_f", "G_p", "G_s"), zip(*self.seen))}

    def zeroth_order(self, G: Penalised, k: int) -> ZOGrad:
        """(9): one z for the three terms. SPSA is linear, so one estimate of G is the sum of three with the same z."""
        assert self.estimate is not None
        return self.estimate(G, self.theta, k, self.problem.key("z", k))

    def penalised(self, k: int) -> Penalised:
        """G of iteration k on the next batches of both levels."""
        G = Penalised(self.loss, self.adapters, next(self.data_f), next(self.data_p), self.config.lam)
        G.further = lambda: self.penalised(k)
        return G

    def rate_s(self, k: int, t: int = 0) -> float:
        return self.problem.lr("lower", self.config.lr_s, self.now(k, t))

    def rate_theta(self, k: int) -> float:
        return self.problem.lr("upper", self.config.lr_theta, self.now(k, self.config.inner_steps))

    def rate_p(self, k: int, i: int = 0) -> float:
        """The rate of p's step i of iteration k; there is one."""
        cfg = self.config
        lr_p = {None: cfg.lr_s, "lr_theta": cfg.lr_theta}.get(cfg.lr_p, cfg.lr_p)
        return self.problem.lr("upper", lr_p, self.now(k, cfg.inner_steps + i))

    def optimizers(self) -> dict[str, Descent]:
        return {"s": self.opt_s, "p": self.opt_p}
