"""Bilevel ZOFO with departures from Algorithm 2, each an option that is off by default: for ablations.

With all of them off it computes what `bilevel-zofo` (arXiv 2502.03604) computes, to the last bit.

| field | what it does | where it stands in |
|---|---|---|
| stratified | D_f and D_p have the same shares of each label | ours |
| upper_data | D_f is the dev set and D_p all training data | the authors' code |
| upper_objective | minus the task's metric of (theta, p) on B_f is G's first term | MeZO, section 3.3 |
| lam_schedule, lam_start | lambda goes from lam_start to lam | lambda_k, eq. (6) |
| s_start | s starts each iteration at p, or at the initial adapter | ours |
| p_start, p_steps | p restarts at s^{k+1}; p takes several steps an iteration | ours |
| apart | p and s start from different draws | the authors' code |
| independent_z | another z for each of (9)'s three terms; the error grows | ours |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from zofo.data.example import split_levels
from zofo.methods import bilevel_zofo

if TYPE_CHECKING:
    from zofo.data.batch import Batch
    from zofo.data.example import Example, TaskData
    from zofo.methods._problem import Metrics, Problem
    from zofo.models.adapters._set import AdapterSet
    from zofo.objectives._loss import Loss
    from zofo.zo.grad import ZOGrad


@dataclass(frozen=True)
class Config(bilevel_zofo.Config):
    stratified: bool = field(default=False, metadata={"help": "D_f and D_p have the same shares of each label"})
    upper_objective: Literal["loss", "metric"] = field(
        default="loss",
        metadata={
            "help": "metric: theta's estimate has minus the task's metric of (theta, p) on B_f as G's first term"
        },
    )
    upper_data: Literal["train", "dev"] = field(
        default="train", metadata={"help": "dev: D_f is the dev set and D_p all training data, as in the authors' code"}
    )
    lam_schedule: Literal["constant", "linear", "geometric"] = field(
        default="constant", metadata={"help": "how lambda goes from lam_start to lam", "paper": "lambda_k, eq. (6)"}
    )
    lam_start: float | None = field(default=None, metadata={"help": "lambda of the first iteration", "ge": 0})
    s_start: Literal["warm", "from_p", "reset"] = field(
        default="warm",
        metadata={"help": "where s starts each iteration: its last value, p, or the initial adapter (optimizer anew)"},
    )
    p_start: Literal["own", "s"] = field(default="own", metadata={"help": "s: p restarts at s^{k+1} each iteration"})
    p_steps: int = field(
        default=1, metadata={"help": "steps of p an iteration, the further ones on batches of their own", "ge": 1}
    )
    apart: bool = field(default=False, metadata={"help": "p and s start from different draws, as in the authors' code"})
    independent_z: bool = field(
        default=False, metadata={"help": "another z for each of (9)'s three terms; an ablation, the error grows"}
    )

    def problems(self) -> list[str]:
        faults = []
        if self.lam_schedule != "constant" and self.lam_start is None:
            faults.append(f"lam_start: needed for lam_schedule={self.lam_schedule}")
        if self.lam_schedule == "constant" and self.lam_start is not None:
            faults.append("lam_start: has no effect with lam_schedule=constant; give linear or geometric")
        if self.lam_schedule == "geometric" and (self.lam_start == 0 or self.lam == 0):
            faults.append("lam_schedule: geometric cannot start or end at 0; give linear")
        if self.upper_data == "dev" and (self.stratified or self.upper_share != 1 / 3):
            faults.append("upper_data: dev splits nothing, so leave out upper_share and stratified")
        return faults


class Penalised(bilevel_zofo.Penalised):
    """G with another function in place of F as what theta minimises on B_f; p's gradient is F's."""

    def __init__(
        self, loss: Loss, adapters: AdapterSet, batch_f: Batch, batch_p: Batch, lam: float, upper: Loss
    ) -> None:
        """upper: the function of the first term, such as minus a metric."""
        super().__init__(loss, adapters, batch_f, batch_p, lam)
        self.upper = upper

    def __call__(self) -> float:
        if self.upper is self.loss:
            return super().__call__()
        (first,) = self.upper.each([(self.batch_f, "p")])
        if self.lam == 0:
            return first
        if self.cancels:
            self.seen.append((first,))
            return first + 0.0
        p, s = self.loss.each([(self.batch_p, "p"), (self.batch_p, "s")])
        self.seen.append((first, p, s))
        return first + self.lam * (p - s)

    def terms(self) -> list[Callable[[], float]]:
        """The three terms of (9), their factors 1, lam and -lam included."""
        each, lam = self.loss.each, self.lam
        return [
            lambda: self.upper.each([(self.batch_f, "p")])[0],
            lambda: lam * each([(self.batch_p, "p")])[0],
            lambda: -lam * each([(self.batch_p, "s")])[0],
        ]


class Method(bilevel_zofo.Method):
    """Algorithm 2 with what the options say. One `step` is one upper iteration k."""

    def __init__(self, config: Config, with_adapter: bool = True) -> None:
        super().__init__(config, with_adapter)
        self.upper_per_step, self.apart = config.p_steps, config.apart
        if config.upper_objective == "metric":
            self.objectives = ("loss", "metric")

    @property
    def remarks(self) -> tuple[str, ...]:
        cfg = self.config
        if cfg.p_start != "s" or cfg.independent_z or not (cfg.lam or cfg.lam_start):
            return ()
        return (
            "method.p_start=s: p is s in theta's estimate, where the penalty's terms cancel: G is its first term, the "
            "forwards of the others are left out",
        )

    @classmethod
    def faults(cls, parts: Mapping[str, Any]) -> list[str]:
        if parts["method"].independent_z and parts["estimator"].anchored:
            return ["method.independent_z: svrg's anchor is of one function, G, not of its three terms; leave it false"]
        return []

    def sizes(self, train: int, dev: int) -> dict[str, int]:
        return {"f": dev, "p": train} if self.config.upper_data == "dev" else super().sizes(train, dev)

    def split(self, data: TaskData, seed: int) -> dict[str, list[Example]]:
        if self.config.upper_data == "dev":
            return {"f": data.dev, "p": data.train}
        return super().split(data, seed)

    def levels(self, examples: list[Example], seed: int) -> tuple[list[Example], list[Example]]:
        share = self.config.upper_share
        return split_levels(examples, seed, (share, 1 - share), self.config.stratified)

    def setup(self, problem: Problem) -> None:
        super().setup(problem)
        self.upper_loss = self.loss
        if "metric" in self.objectives:
            assert problem.metric is not None
            self.upper_loss = problem.metric
        if self.config.apart:
            self.adapters.redraw("s", problem.key("adapter/s", 0))
        if self.config.s_start == "reset":
            self.initial = {key: value.detach().clone() for key, value in self.adapters.parameters("s").items()}

    def step(self, k: int) -> Metrics:
        metrics = super().step(k)
        for i in range(1, self.config.p_steps):
            G = self.penalised(k)
            with self.problem.update("upper"):
                G.grad_p()
                self.opt_p.step(self.rate_p(k, i))
        return metrics

    def lower(self, k: int) -> Metrics:
        self.start_s()
        metrics = super().lower(k)
        if self.config.p_start == "s":
            self.adapters.copy("s", "p")
        return metrics

    def start_s(self) -> None:
        """s^k_0: the last s by default."""
        if self.config.s_start == "from_p":
            self.adapters.copy("p", "s")
            self.opt_s.forget()
        elif self.config.s_start == "reset":
            self.adapters.put("s", self.initial)
            self.opt_s.forget()

    def zeroth_order(self, G: bilevel_zofo.Penalised, k: int) -> ZOGrad:
        if not self.config.independent_z:
            return super().zeroth_order(G, k)
        assert isinstance(G, Penalised)
        assert self.estimate is not None
        keys = (self.problem.key(name, k) for name in ("z", "z/p", "z/s"))
        parts = [self.estimate(f, self.theta, k, key) for f, key in zip(G.terms(), keys)]
        return sum(parts[1:], parts[0])

    def penalised(self, k: int) -> Penalised:
        batches = next(self.data_f), next(self.data_p)
        G = Penalised(self.loss, self.adapters, *batches, self.lam(k), self.upper_loss)
        G.further = lambda: self.penalised(k)
        return G

    def scheduled(self, k: int, total: int) -> dict[str, float]:
        return {**super().scheduled(k, total), "lam": self.lam(k, total)}

    def lam(self, k: int, total: int | None = None) -> float:
        """lambda of iteration k: lam, or on the way from lam_start (k = 0) to lam (the last iteration).

        total: counted steps of the run, where they are not this run's.
        """
        cfg = self.config
        if cfg.lam_schedule == "constant":
            return cfg.lam
        assert cfg.lam_start is not None
        counted = 1 if self.problem.count == "outer" else self.per_step
        rounds = (self.problem.total if total is None else total) // counted
        share = min(1.0, k / max(1, rounds - 1))
        if cfg.lam_schedule == "linear":
            return cfg.lam_start + (cfg.lam - cfg.lam_start) * share
        return cfg.lam_start * (cfg.lam / cfg.lam_start) ** share
