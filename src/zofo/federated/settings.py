"""fed.yaml: a run's sections as in any configuration, and what makes a federation of it (docs/federated.md).

    federation: {mode: same, rounds: 200, min_clients: 8, wait: 600}
    model: MODEL_DIR
    method: mezo
    task: {name: sst2}
    train: {batch_size: 8}

Server and clients have the same file; a client adds its rows (task.train_file=mine.csv) and where its model is.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zofo.api.configure import resolve
from zofo.config import registry
from zofo.config.cadence import counted_per_step
from zofo.config.instantiate import make_method
from zofo.config.json_text import dumps
from zofo.config.layers import SECTIONS, Layer
from zofo.config.paths import located
from zofo.config.resolve import Config
from zofo.config.typed import build
from zofo.config.yaml_reader import dump, read_yaml, scalar
from zofo.errors import InputError, did_you_mean, printable
from zofo.federated.sections import Federation, Simulation
from zofo.methods._problem import Schedule

RATES = {"mezo": "lr", "bilevel-zofo": "lr_theta"}  # the methods, and the field of theta's rate
NAMED = ("method", "method.name")


@dataclass(frozen=True)
class Settings:
    """A fed.yaml, read. run: its other sections; `train.max_steps` is made of the rounds."""

    federation: Federation
    simulation: Simulation
    run: Config

    def alike(self) -> dict[str, Any]:
        """What moves theta, {section: {field: value}}, which a federation keeps from its first round to its last. How
        many rounds there are is of it where a schedule goes by them."""
        run, fed = self.run.to_dict(), dataclasses.asdict(self.federation)
        keys = ["seed", "batch_size", "lr_scheduler_type", "warmup_steps", "count"]
        keys += ["max_steps"] if self.run.train.lr_scheduler_type != "constant" else []
        out = {section: run.get(section) or {} for section in ("method", "adapter", "estimator", "rule", "mask")}
        out["train"] = {key: run["train"][key] for key in keys}
        steps = ("mode", "local_steps", "pool", "aggregate", "trim", "clip", "noise")
        return out | {"federation": {key: fed[key] for key in steps}}

    def shared(self) -> bytes:
        """SHA-256 of what server and clients have in common, 32 bytes: `alike` without what the server alone does."""
        out = self.alike()
        out["federation"] = {key: value for key, value in out["federation"].items() if key not in ("aggregate", "trim")}
        return hashlib.sha256(dumps(out, sort_keys=True).encode()).digest()

    def rate(self, round: int) -> float:
        """theta's, of a round."""
        train, method = self.run.train, make_method(self.run)
        rate = getattr(self.run.method, RATES[self.run.names["method"]])
        schedule = Schedule(train.lr_scheduler_type, train.max_steps, train.warmup_steps)
        inner = 0 if train.count == "outer" else method.lower_per_step
        return schedule(rate, round * counted_per_step(train, method.per_step) + inner)

    @property
    def coefficients(self) -> int:
        """Of an answer."""
        return self.federation.local_steps * self.run.estimator.q

    def to_yaml(self) -> str:
        """The file that reads as this, with absolute paths."""
        parts = {"federation": self.federation, "simulate": self.simulation}
        return dump({name: dataclasses.asdict(part) for name, part in parts.items()} | self.run.absolute().to_dict())


def read(path: str | Path, overrides: Iterable[str] = (), files: bool = True) -> Settings:
    """files: whether the model and the rows must be there; a server has neither. Raises InputError with a line for each
    fault."""
    content = read_yaml(Path(path), "federation's file", 'sections such as "federation:"')
    errors: list[str] = []
    overrides, layer = list(overrides), Layer("command line")
    ours = [text for text in overrides if text.strip().partition(".")[0] in ("federation", "simulate")]
    for text in ours:
        place, equals, raw = text.partition("=")
        section, _, key = place.strip().partition(".")
        if equals and key:
            layer.put(section, key, scalar(raw), raw)
        else:
            errors.append(f'{printable(text, 100)}: expected "section.key=value"')
    federation = _section("federation", Federation, content.pop("federation", None), layer.sections, errors)
    simulation = _section("simulate", Simulation, content.pop("simulate", None), layer.sections, errors)
    others = [text for text in overrides if text not in ours]
    if federation is not None:
        federation = _placed(federation, Path(path).parent)
    run = None
    try:
        run = _run(content, Path(path).parent, federation, others, files)
    except InputError as error:
        errors += str(error).split("\n")
    if errors or federation is None or simulation is None or run is None:
        raise InputError("\n".join(f"{path}: {line}" for line in errors))
    return Settings(federation, simulation, run)


def _placed(federation: Federation, folder: Path) -> Federation:
    """Certificates' paths are the file's own, and absolute from here on."""
    out = dict[str, str]()
    for name in ("certificate", "key", "ca"):
        if (given := getattr(federation, name)) is not None:
            out[name] = str((folder / Path(given).expanduser()).resolve())
    return dataclasses.replace(federation, **out)


def _section(name: str, cls: type, content: Any, layer: Mapping[str, Any], errors: list[str]) -> Any:
    if content is not None and not isinstance(content, Mapping):
        errors.append(f"{name}: expected a mapping")
        return None
    return build(f"{name}.", cls, {**(content or {}), **layer.get(name, {})}, errors)


def _run(
    content: dict[str, Any], folder: Path, federation: Federation | None, overrides: list[str], files: bool
) -> Config:
    """Raises InputError for what is wrong, or does not go with a federation."""
    unknown = [key for key in content if key not in (*SECTIONS, "preset")]
    if unknown:
        known = (*SECTIONS, "preset", "federation", "simulate")
        hint = did_you_mean(unknown[0], known) or f"; known: {', '.join(known)}"
        raise InputError(f'unknown section "{printable(str(unknown[0]), 60)}"{hint}')
    faults = list(_without_form(content, overrides))
    if faults:
        raise InputError("\n".join(faults))
    preset = content.pop("preset", None)
    sections = located(content, folder)
    if isinstance(train := sections.setdefault("train", {}), Mapping):  # each has a directory of its own
        sections["train"] = {"output_dir": "federation", **train}
    config = resolve(None, overrides, preset, source="federation's file", files=files, **sections)
    faults = list(_faults(config, federation))
    if faults:
        raise InputError("\n".join(faults))
    if federation is None:
        return config
    method = make_method(config)
    steps = federation.rounds * counted_per_step(config.train, method.per_step)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, max_steps=steps))


def _without_form(content: Mapping[str, Any], overrides: Iterable[str]) -> Iterable[str]:
    """Said before what its sections lack or have too much."""
    method = content.get("method")
    named = [raw.strip() for key, _, raw in (text.partition("=") for text in overrides) if key in NAMED]
    name = named[-1] if named else method.get("name") if isinstance(method, Mapping) else method
    if name is not None and registry.canonical(str(name)) not in RATES:
        known = registry.canonical(str(name)) in registry.names("methods")
        hint = ";" if known else did_you_mean(str(name), RATES) or ";"
        yield f"method.name: {printable(str(name), 60)} has no federated form{hint} known: {', '.join(RATES)}"


def _faults(config: Config, federation: Federation | None) -> Iterable[str]:
    """What is no sum of directions that a seed alone gives, or needs more of theta than its journal."""
    method = config.names["method"]
    if method not in RATES:  # a preset's
        yield f"method.name: {method} has no federated form; known: {', '.join(RATES)}"
        return
    if method == "mezo" and config.adapter is not None:
        yield "adapter.name: a federation's theta is the backbone; leave adapter out, or use bilevel-zofo"
    if config.names["estimator"] not in ("spsa", "one-sided"):
        yield f"estimator.name: {config.names['estimator']} keeps more than seeds; use spsa or one-sided"
    if config.estimator.shift == "inplace":
        yield "estimator.shift: inplace writes theta, which drifts for each client otherwise; use layer or copy"
    rule = config.rule
    if config.names["rule"] != "sgd" or rule.normalize or rule.clip is not None or rule.scalar_sign:
        yield "rule.name: every client adds the same terms; use sgd as it is (federation.clip bounds c)"
    if rule is not None and getattr(rule, "rounding", "") == "split":
        yield "rule.rounding: split keeps 16 more bits a weight, which a snapshot would have to carry; use stochastic"
    if config.model.quantization:
        yield "model.quantization: a quantised base model was not tried in a federation; leave it out"
    if config.mask is not None:
        yield "mask.name: no masks in a federation yet; leave it out"
    if config.task.objective == "metric":
        yield "task.objective: metric was not tried in a federation; leave it out"
    if config.train.num_train_epochs is not None:
        yield "train.num_train_epochs: a federation has federation.rounds; leave it out"
    if federation is not None and federation.local_steps > 1 and make_method(config).first_order:
        yield "federation.local_steps: an adapter is trained at theta itself, so 1; use mezo for more"
