"""Bilevel ZOFO, Algorithm 2: zeroth-order steps of the backbone outside, first-order steps of an adapter inside.

Shirkavand, Yu, He, Huang (NeurIPS 2025, arXiv 2502.03604):

    min over theta, p, max over s of  G = F(theta, p; D_f) + lam [F(theta, p; D_p) - F(theta, s; D_p)]      (5)

| symbol | field | default | place |
|---|---|---|---|
| lambda | lam | 10 | section 4.3; B.1.4 has 10000 |
| T | inner_steps | 10 | section 4.1; B.1.4 has 20 |
| eta | lr_s | 1e-3 | line 5 |
| zeta for p | lr_p | lr_s | eq. (8) |
| zeta for theta | lr_theta | 1e-6 | eq. (9) |
| D_f : D_p | upper_share | 1/3 | B.1.4 |

Where the paper leaves a choice open: the sign of s's term is "-" as in (5) and (9), not "+" as in (6); s^{k+1} enters
(9); the three terms of (9) share one z, and p and s one batch B_p; s descends F without the factor lam, and is warm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from zofo.adapters._set import AdapterSet
    from zofo.data import Batch
    from zofo.first_order import Descent
    from zofo.objective import Loss
    from zofo.problem import Metrics, Problem


@dataclass(frozen=True)
class Config:
    lam: float = field(
        default=10.0, metadata={"help": "penalty lambda", "paper": "section 4.3; B.1.4 has 10000", "ge": 0}
    )
    inner_steps: int = field(
        default=10, metadata={"help": "T, lower steps between two upper steps", "paper": "section 4.1", "ge": 0}
    )
    lr_s: float = field(default=1e-3, metadata={"help": "rate of s", "paper": "eta, line 5", "ge": 0})
    lr_p: float | None = field(default=None, metadata={"help": "rate of p; default lr_s", "paper": "eq. (8)", "ge": 0})
    lr_theta: float = field(default=1e-6, metadata={"help": "rate of theta", "paper": "eq. (9)", "ge": 0})
    optimizer: Literal["adamw", "sgd"] = field(
        default="adamw", metadata={"help": "optimizer of p and s, without weight decay", "paper": "B.1.4"}
    )
    upper_share: float = field(
        default=1 / 3, metadata={"help": "share of the training data in D_f", "paper": "B.1.4 (1:2)", "gt": 0, "lt": 1}
    )


class Penalised:
    """G on one pair of batches (eq. 5). p and s see the same B_p; the terms share one forward where they can."""

    def __init__(self, loss: Loss, adapters: AdapterSet, batch_f: Batch, batch_p: Batch, lam: float) -> None:
        self.loss, self.adapters, self.lam = loss, adapters, lam
        self.batch_f, self.batch_p = batch_f, batch_p

    def __call__(self) -> float:
        """F(theta, p; B_f) + lam [F(theta, p; B_p) - F(theta, s; B_p)], without gradients."""
        if self.lam == 0:
            return self.loss.each([(self.batch_f, "p")])[0]
        f_p, p_p, p_s = self.loss.each([(self.batch_f, "p"), (self.batch_p, "p"), (self.batch_p, "s")])
        return f_p + self.lam * (p_p - p_s)

    def grad_p(self) -> float:
        """Fill p's `.grad` with eq. (8)'s bracket, exactly. Returns F(theta, p; B_f)."""
        with self.adapters.active("p"):
            value = self.loss.backward(self.batch_f)
            if self.lam:
                self.loss.backward(self.batch_p, scale=self.lam)
        return value


class Method:
    """Algorithm 2. One `step` is one upper iteration k: T steps of s, then one of theta and p."""

    needs: ClassVar[frozenset[str]] = frozenset({"adapter", "estimator", "rule"})
    streams: ClassVar[tuple[str, ...]] = ("f", "p")
    adapters_used: ClassVar[tuple[str, ...]] = ("p", "s")
    candidates: ClassVar[tuple[str, ...]] = ("s", "p")  # what may be deployed; s first: Lemma 5.4 certifies (theta, s)
    upper_per_step = 1

    def __init__(self, config: Config) -> None:
        self.config = config
        self.lower_per_step = config.inner_steps

    def setup(self, problem: Problem) -> None:
        assert problem.adapters is not None
        assert problem.estimator is not None
        assert problem.rule is not None
        self.problem, self.loss, self.theta, self.adapters = problem, problem.loss, problem.theta, problem.adapters
        self.estimate, self.rule = problem.estimator, problem.rule
        self.data_f, self.data_p = problem.streams["f"], problem.streams["p"]
        self.opt_s: Descent = problem.descent("s", self.config.optimizer)
        self.opt_p: Descent = problem.descent("p", self.config.optimizer)

    def step(self, k: int) -> Metrics:
        cfg, rate = self.config, self.problem.rate
        first = k * (cfg.inner_steps + 1)  # counted steps before this iteration
        inner: list[float] = []
        with self.adapters.active("s"):  # lines 3-7: s^{k+1}
            for t in range(cfg.inner_steps):
                with self.problem.update():
                    inner.append(self.loss.backward(next(self.data_p)))
                    self.opt_s.step(rate(cfg.lr_s, first + t))
        now = first + cfg.inner_steps
        metrics: Metrics = {"loss_s": sum(inner) / len(inner)} if inner else {}
        batch_f, batch_p = next(self.data_f), next(self.data_p)  # line 8
        with self.problem.update():
            G = Penalised(self.loss, self.adapters, batch_f, batch_p, cfg.lam)
            g_theta = self.estimate(G, self.theta, k, self.problem.key("z", k))  # line 9: one z for the three terms
            loss_p = G.grad_p()  # (8), taken at theta^k
            self.opt_p.check()  # theta and p move both or not at all
            self.rule.update_(self.theta, g_theta, rate(cfg.lr_theta, now), k, G)  # (9), at p^k
            self.opt_p.step(rate(cfg.lr_s if cfg.lr_p is None else cfg.lr_p, now))
            metrics |= {"loss_p": loss_p, "G": g_theta.value, "c": g_theta.terms[0][0]}
        return metrics | {"lr_s": rate(cfg.lr_s, now), "lr_theta": rate(cfg.lr_theta, now)}

    def state_dict(self) -> dict[str, Any]:
        return {"s": self.opt_s.state_dict(), "p": self.opt_p.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.opt_s.load_state_dict(state.get("s", {}))
        self.opt_p.load_state_dict(state.get("p", {}))
