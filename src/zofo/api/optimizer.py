"""ZerothOrder: zeroth-order optimization in somebody's own training loop, of any torch module.

    opt = ZerothOrder(model, lr=1e-2)
    for x, y in batches:
        loss = opt.step(lambda: F.cross_entropy(model(x), y))

The estimators, masks and rules are those of zofo's methods, with the same settings (`zofo show spsa`). The closure is
called several times a step, without gradients: the model is at theta + eps z in one call and at theta - eps z in the
next. It must not draw new noise in each call (dropout off, one batch), or the difference measures the noise.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zofo.api.own_loop import (
    Closure,
    Objective,
    check_modes,
    check_names,
    check_rate,
    check_seed,
    closure_of,
    is_compiled,
    module_of,
)
from zofo.config import registry
from zofo.config.layers import Value
from zofo.config.typed import build
from zofo.errors import InputError
from zofo.zo.estimators._base import Base as Estimator
from zofo.zo.grad import ZOGrad
from zofo.zo.journal import Journal, Records, read_header, read_records
from zofo.zo.journalled import Journalled
from zofo.zo.keys import derive
from zofo.zo.masks._base import Gradients
from zofo.zo.point import Point
from zofo.zo.replay import check_initial
from zofo.zo.replay import replay as replay_records
from zofo.zo.rules._base import Base as Rule
from zofo.zo.support import Support

log = logging.getLogger("zofo")
Part = str | Mapping[str, Any]


class ZerothOrder(torch.optim.Optimizer):
    """theta <- rule(theta, estimate of the gradient from evaluations of a closure). One parameter group.

    `param_groups[0]["lr"]` is the rate, so torch's schedulers work. theta's `requires_grad` becomes False.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float | Tensor = 1e-6,
        *,
        estimator: Part = "spsa",
        rule: Part = "sgd",
        mask: Part | None = None,
        names: Iterable[str] | None = None,
        seed: int = 0,
        journal: str | Path | None = None,
        overwrite: bool = False,
    ) -> None:
        """estimator, rule, mask: a name, or its settings with the name: {"name": "spsa", "eps": 1e-3, "q": 4}.

        names: the parameters of `model` that move (as in named_parameters); None: all of floating point. journal: a
        file to write every update to, from which `replay` makes theta again, bit for bit. The first step makes it, or
        `load_state_dict` goes on with it. overwrite: the first step may replace a journal that is there.
        Of a model that torch.compile made, the shifted weights are a second copy, unless `shift` says otherwise.
        Raises InputError for unknown names and settings, and what is no module or no rate.
        """
        inside, names = module_of(model), names if names is None or isinstance(names, str) else list(names)
        check_names(names, inside)
        check_rate(lr)
        check_seed(seed)
        if is_compiled(model):
            estimator = _copying(estimator)
        model = self._model = inside
        self._overwrite = overwrite
        self._parts = _read(estimator=estimator, rule=rule, mask=mask)
        self.seed, self.steps = seed, 0
        self._records = Records()
        self._closures: list[Callable[[], Tensor]] = []
        self.estimator, self.rule = _build(self._parts, seed, self._records, self._gradients)
        self.theta = Point(model, None if names is None else set(names), mode=self.estimator.config.shift)
        if not self.theta:
            raise InputError("names: nothing is left to move")
        super().__init__([{"params": list(self.theta.values())}], {"lr": lr})
        self._path = None if journal is None else Path(journal)
        self._journalled = Journalled(self.rule, self._records)
        self._found: tuple[Objective, ZOGrad] | None = None  # of an estimate whose update has not been made

    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, closure: Closure | None = None, further: Callable[[], Closure] | None = None
    ) -> float:
        """One estimate and one update. Returns the loss as the estimate saw it: for spsa the mean of its two sides.

        closure: () -> loss, a number or a tensor of one element; None: the update by what `estimate` found. further: ()
        -> the closure of another batch, for `svrg`. Raises NonFiniteError, before anything moves, where the estimate is
        NaN or infinite; InputError where the closure gives no loss, the rate is none, or a part of the model is in
        training mode that must not be.
        """
        if closure is not None:
            self.estimate(closure, further)
        elif self._found is None:
            closure_of(closure)
        assert self._found is not None
        (f, g), self._found = self._found, None
        lr = self.param_groups[0]["lr"]
        check_rate(lr)
        self._journalled.update_(self.theta, g, float(lr), self.steps, f)
        self.steps += 1
        if self.estimator.mask is not None and (words := self.estimator.mask.words()):
            log.info("%s", words)
        return g.value

    def estimate(self, closure: Closure, further: Callable[[], Closure] | None = None) -> float:
        """The first half of a step, for loops that do something between the two: `step()` without a closure makes the
        update. Nothing has moved yet. Arguments, the loss returned and errors as `step`'s."""
        f = Objective(closure, further)
        check_rate(self.param_groups[0]["lr"])
        check_modes(self._model)
        if self._path is not None and self._records.journal is None:
            self._records.open(Journal.create(self._free(self._path), self._header()))
        g: ZOGrad = self.estimator(f, self.theta, self.steps, derive(self.seed, "z", self.steps))
        self._found = f, g
        return g.value

    def _free(self, path: Path) -> Path:
        """Where a journal may be begun. Raises InputError where a file is there, which holds somebody's run."""
        if path.is_file() and path.stat().st_size and not self._overwrite:
            raise InputError(
                f"journal: {path} is there already; load_state_dict goes on with it, overwrite=True replaces it, or "
                f"give another name"
            )
        return path

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Raises InputError: theta is one group, made of the model."""
        if self.param_groups:
            raise InputError("ZerothOrder has one group of parameters, those of the model; names=[...] chooses them")
        super().add_param_group(param_group)

    def sensitivities(self, closures: Iterable[Callable[[], Tensor]]) -> None:
        """For the mask `sensitivity`, before the first step: closures () -> loss with a gradient, one a batch."""
        self._closures = list(closures)

    def _gradients(self, number: int) -> Iterator[Callable[[], object]]:
        """As masks ask for them, see `zo.masks._base.Base`."""
        if not self._closures:
            raise InputError("mask.name: it needs gradients once: call sensitivities() before the first step")
        return (_backward(closure) for closure in self._closures[:number])

    @property
    def bytes_per_weight(self) -> float:
        """What the rule keeps for each weight."""
        return self.rule.bytes_per_weight

    def _header(self) -> dict[str, Any]:
        return {
            "tensors": self.theta.catalogue(),
            "model": "a torch module",
            "theta": "backbone",
            "seed": self.seed,
            **{key: _plain(part) for key, part in self._parts.items()},
        }

    def state_dict(self) -> dict[str, Any]:
        """With theta's own state_dict all that a later `step` needs. The tensors are the optimizer's own."""
        mask = self.estimator.mask
        support = None if mask is None or mask.now is None else [mask.start, mask.now.pack()]
        return {
            "steps": self.steps,
            "seed": self.seed,
            "lr": self.param_groups[0]["lr"],
            "support": support,
            "rule": self.rule.state_dict(),
            "estimator": self.estimator.state_dict(),
            "journal": None if self._records.journal is None else self._records.journal.position,
            "journal_crc": None if self._records.journal is None else self._records.journal.crc,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; a journal is cut back to there. Raises JournalError where it is
        shorter, damaged or another, and InputError for a state that is no ZerothOrder's."""
        wanted = ("steps", "seed", "lr", "support", "rule", "estimator", "journal")
        missing = [key for key in wanted if key not in state_dict]
        if missing:
            raise InputError(f"state_dict: no state of a ZerothOrder: it has no {', '.join(missing)}")
        if self._path is not None and state_dict["journal"] is not None:
            self._records.open(Journal.open(self._path, state_dict["journal"], state_dict.get("journal_crc")))
        self.steps, self.seed, self.param_groups[0]["lr"] = (state_dict[key] for key in ("steps", "seed", "lr"))
        self.rule.load_state_dict(state_dict["rule"])
        self.estimator.load_state_dict(state_dict["estimator"])
        if state_dict["support"] is not None:
            device = next(iter(self.theta.values())).device
            self.estimator.mask.restore(state_dict["support"][0], Support.unpack(state_dict["support"][1], device))


def _copying(estimator: Part) -> Part:
    """The estimator's settings with shift=copy, where they say nothing of it: compiled code can read no stand-in.
    Raises InputError where they say `layer`."""
    settings = {"name": estimator} if isinstance(estimator, str) else dict(estimator)
    if settings.setdefault("shift", "copy") == "layer":
        raise InputError(
            "estimator.shift: layer shifts a weight while it is read, which torch.compile's code cannot do; leave it "
            "out (copy, a second copy of the weights), or give the model without torch.compile"
        )
    return settings


def replay(model: nn.Module, journal: str | Path) -> int:
    """Make the updates of a journal again on a model with the weights that it started from. Returns their number.

    Raises InputError for another model, JournalError for a damaged file.
    """
    path, model = Path(journal), module_of(model)
    header, start = read_header(path)
    estimator, rule = _build(
        _read(**{key: header[key] for key in ("estimator", "rule", "mask")}), header["seed"], Records()
    )
    theta = Point(model, {tensor["name"] for tensor in header["tensors"]}, mode=estimator.config.shift)
    check_initial(theta, header, path)
    return replay_records(theta, estimator, rule, read_records(path, start))


def _read(**parts: Part | None) -> dict[str, tuple[str, Any] | None]:
    """{section: (name, its Config) or None}. Raises InputError with one line for each thing that is wrong."""
    sections: dict[str, tuple[str, Any] | None] = {}
    errors: list[str] = []
    for section, given in parts.items():
        if given is None:
            sections[section] = None
            continue
        settings = {"name": given} if isinstance(given, str) else dict(given)
        if "name" not in settings:
            raise InputError(f"{section}.name: required; known: {', '.join(registry.names(f'{section}s'))}")
        name = settings.pop("name")
        config = registry.load(f"{section}s", name).Config
        values = {key: Value(value, "caller") for key, value in settings.items()}
        sections[section] = (name, build(f"{section}.", config, values, errors))
    configs = {section: part[1] if part else None for section, part in sections.items()}
    for config in () if errors else configs.values():
        faults = getattr(config, "faults", None)
        errors += faults({"method": None, **configs}) if faults else []
    if errors:
        raise InputError("\n".join(errors))
    return sections


def _build(
    parts: Mapping[str, tuple[str, Any] | None], seed: int, records: Records, gradients: Gradients | None = None
) -> tuple[Estimator, Rule]:
    def of(section: str, kind: str) -> Any:
        part = parts[section]
        return None if part is None else (getattr(registry.load(f"{section}s", part[0]), kind), part[1])

    mask, (estimator, settings), (rule, of_rule) = of("mask", "Mask"), of("estimator", "Estimator"), of("rule", "Rule")
    made = None if mask is None else mask[0](mask[1], seed, gradients, records.append_support)
    return estimator(settings, seed, made), rule(of_rule, seed)


def _plain(part: tuple[str, Any] | None) -> dict[str, Any] | None:
    return None if part is None else {"name": part[0], **dataclasses.asdict(part[1])}


def _backward(closure: Callable[[], Tensor]) -> Callable[[], object]:
    return lambda: closure().backward()
