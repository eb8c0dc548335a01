"""`zofo validate RUN`, what needs the base model or the data: theta made again, adapters loaded, examples compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zofo.config import registry
from zofo.config.instantiate import make_estimator, make_method, make_rule
from zofo.config.resolve import Config
from zofo.config.task_rows import rows_are_there
from zofo.data import load_task
from zofo.errors import InputError
from zofo.methods._base import Base as Method
from zofo.models.adapters._bank import Bank
from zofo.models.adapters._set import WEIGHTS, AdapterSet, difference
from zofo.models.adapters._start import digest
from zofo.models.backbone import Loaded
from zofo.models.load import load as load_model
from zofo.models.tensors import load_tensors
from zofo.train.checks import shift_mode
from zofo.train.inputs import SPLITS, check_inputs, examples_digest, tokenizer_digest
from zofo.train.ownership import START
from zofo.train.run_dir import RunDir
from zofo.zo.journal import JournalError, read_header, read_records
from zofo.zo.keys import derive
from zofo.zo.point import Point
from zofo.zo.replay import check_initial, replay

Results = list[tuple[str, str]]
States = Mapping[Path, Mapping[str, Any]]
FIX = {
    "model": "give the one that it was with --model",
    "tokenizer": "give the model's directory as it was with --model",
    "examples": "give the rows as they were with --data",
}
COPY = "put back a copy, or train again (--overwrite)"


def check_weights(run: RunDir, config: Config, info: Mapping[str, Any], states: States) -> Results:
    """Of a run whose files are whole. config: with the base model's place now. states: of the checkpoints."""
    if not (Path(config.model.name).is_dir() or _in_cache(config.model.name)):
        why = f"not checked, the base model {config.model.name} is not here; --model says where it is"
        return [(f"theta, adapters, examples: {why}", "")]
    try:
        loaded = load_model(config.model)
    except InputError as error:
        return [("the base model can be loaded", line) for line in str(error).split("\n")]
    check = _Weights(run, config, info, states, loaded)
    if check.one("the base model and its tokenizer are the run's", check.base):
        check.theta_made_again()
        check.adapters()
    check.examples()
    return check.results


def _in_cache(name: str) -> bool:
    """Whether a hub's model is on this machine."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:  # no hub id
        return False


class _Weights:
    def __init__(self, run: RunDir, config: Config, info: Mapping[str, Any], states: States, loaded: Loaded) -> None:
        self.run, self.config, self.info, self.states, self.loaded = run, config, info, states, loaded
        self.method: Method = make_method(config)
        self.theta = loaded.point(shift_mode(config), self.method.moves == "zo")
        self.base_sha256 = loaded.base_sha256(self.theta)
        self.results: Results = []

    def one(self, what: str, check: Callable[[], object]) -> bool:
        """Do it; what it raises is its fault."""
        try:
            check()
        except InputError as error:
            self.results += [(what, line) for line in str(error).split("\n")]
            return False
        self.results.append((what, ""))
        return True

    def base(self) -> None:
        then = self.info.get("base_sha256") or next((s.get("base_sha256") for s in self.states.values()), None)
        known = {"model": then, **self.run.inputs} if then else self.run.inputs
        now = {"model": self.base_sha256, "tokenizer": tokenizer_digest(self.loaded.tokenizer)}
        check_inputs(known, now, str(self.run.root), FIX)

    # ---------------------------------------------------------------------------------------------------------- theta

    def _snapshots(self) -> Iterator[tuple[Path, int | None]]:
        """(the directory of a snapshot of theta, the bytes of the journal that it stands for)"""
        at = {
            self.run.best(state["best"]["count"]): state["best"]["journal"]
            for state in self.states.values()
            if state["best"]
        }
        if self.info:
            at[self.run.best(self.info["best_step"])] = self.info["journal_position"]
        at |= {directory: state["journal"] for directory, state in self.states.items()}
        yield from ((path, position) for path, position in sorted(at.items()) if (path / "backbone").is_dir())

    def theta_made_again(self) -> None:
        method, snapshots = self.method, list(self._snapshots())
        if method.moves == "zo" and method.theta_of == "backbone":
            self.one("theta: the journal replayed, and every snapshot equal to it bit for bit", self._replay)
            return
        if method.moves == "zo":
            self.results.append(("theta is the adapter, and is in its files: the journal's replay is not checked", ""))
        for path, _ in snapshots:
            self.one(f"{path.name}/backbone: theta's names and shapes", partial(self._load, path))

    def _load(self, directory: Path) -> dict[str, Tensor]:
        """A snapshot. Raises InputError unless it is one of theta."""
        path = directory / "backbone" / "theta.safetensors"
        try:
            tensors = load_tensors(path)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: {error}; {COPY}") from error
        if word := difference(self.theta, tensors):
            raise InputError(f"{path}: not this model's, {word}; {COPY}")
        return tensors

    def _replay(self) -> None:
        """theta <- that of every position that is referred to, the best step's last of all."""
        path, snapshots = self.run.journal, dict(self._snapshots())
        wanted = {position for position in snapshots.values() if position is not None}
        wanted |= {state["journal"] for state in self.states.values()}
        wanted |= {self.info["journal_position"]} if self.info else set()
        try:
            header, done = read_header(path)
            check_initial(self.theta, header, path)
            estimator, rule = make_estimator(self.config), make_rule(self.config)
            for position in sorted(wanted):
                replay(self.theta, estimator, rule, read_records(path, done, position))
                done = position
                for directory in (each for each, at in snapshots.items() if at == position):
                    self._compare(directory)
        except (JournalError, OSError) as error:
            raise InputError(str(error)) from error

    def _compare(self, directory: Path) -> None:
        for name, tensor in self._load(directory).items():
            here = self.theta[name].detach().cpu().contiguous()
            if tensor.dtype != here.dtype or not torch.equal(tensor.view(torch.uint8), here.view(torch.uint8)):
                raise InputError(f"{directory / 'backbone'}: {name} is not what the journal's replay gives; {COPY}")

    # ------------------------------------------------------------------------------------------- adapters and examples

    def adapters(self) -> None:
        names = self.method.adapters_used
        if not names:
            return
        built = self._built(names)
        if "start" in self.run.inputs:
            self.one("adapter-start: the adapter that the run began with", partial(self._start, built, names[0]))
        for directory in [*self.run.bests(), *self.run.checkpoints()]:
            for name in names:
                self.one(
                    f"{directory.name}/{name}: an adapter of this model", lambda d=directory, n=name: _fits(built, d, n)
                )

    def _start(self, built: AdapterSet, name: str) -> None:
        """The copy in the run; where theta is the adapter, the journal leads from it to every adapter that is kept."""
        member = built.members(name, self._tasks() or [""])[0] if self.method.bank else name
        inner = built.inner if isinstance(built, Bank) else built
        _fits(inner, self.run.root, member, START)
        if digest(inner.parameters(member)) != self.run.inputs["start"]["sha256"]:
            raise InputError(f"{self.run.root / START}: not the adapter that the run began with; {COPY}")
        if self.method.moves != "zo" or self.method.theta_of != "adapter":
            return
        theta, path = Point(built.model, params=built.parameters(name), mode=shift_mode(self.config)), self.run.journal
        wanted = {state["journal"]: directory / name for directory, state in self.states.items()}
        if self.info and self.run.best(self.info["best_step"]).is_dir():
            wanted[self.info["journal_position"]] = self.run.best(self.info["best_step"]) / name
        try:
            header, done = read_header(path)
            check_initial(theta, header, path)
            estimator, rule = make_estimator(self.config), make_rule(self.config)
            for position in sorted(wanted):
                replay(theta, estimator, rule, read_records(path, done, position))
                done = position
                self._is_replayed(built.state(name), wanted[position])
        except (JournalError, OSError) as error:
            raise InputError(str(error)) from error

    def _is_replayed(self, state: Mapping[str, Tensor], directory: Path) -> None:
        try:
            kept = load_tensors(directory / WEIGHTS)
        except (OSError, ValueError) as error:
            raise InputError(f"{directory}: {error}; {COPY}") from error
        for key, tensor in state.items():
            if key not in kept or not torch.equal(tensor, kept[key]):
                raise InputError(f"{directory}: {key} is not what the journal's replay from {START} gives; {COPY}")

    def _built(self, names: tuple[str, ...]) -> AdapterSet:
        adapter = registry.load("adapters", self.config.names["adapter"]).Adapter(self.config.adapter)
        every, tasks = names, self._tasks()
        if self.method.bank:
            every = Bank.all_members(names, tasks)
        built = adapter.build(
            self.loaded.model, every, derive(self.config.train.seed, "adapter"), self.loaded.tokenizer
        )
        return Bank(built, names, tasks) if self.method.bank else built

    def _tasks(self) -> list[str]:
        known = self.info.get("tasks") or next((s.get("tasks") for s in self.states.values()), None)
        return (known or {}).get("train", [])

    def examples(self) -> None:
        what, cfg = "examples: those that the run was made with", self.config.task
        then = self.run.inputs.get("examples")
        place = cfg.place
        if then is None or not rows_are_there(cfg):
            why = f"{place} is not a place here; --data says where the rows are now"
            if then is None:
                of_many = "federation" in self.run.manifest
                why = "they are its clients'" if of_many else "the run is of a version that kept no digests"
            self.results.append((f"{what}: not checked, {why}", ""))
            return
        try:
            data = load_task(cfg, self.config.train.seed, self.loaded.tokenizer, None, self.method.demonstrates)
        except InputError as error:
            if cfg.data is None and Path(cfg.name).suffix in (".yaml", ".yml"):  # the hub's rows may be out of reach
                self.results.append((f"{what}: not checked, {' '.join(str(error).split())}", ""))
            else:
                self.results += [(what, line) for line in str(error).split("\n")]
            return
        now = {"examples": {split: examples_digest(getattr(data, split)) for split in SPLITS}}
        if cfg.on_bad_row == "skip" and now["examples"] != then:  # rows that the model had no room for are not in it
            self.results.append((f"{what}: not checked, rows were left out (task.on_bad_row=skip)", ""))
            return
        self.one(what, lambda: check_inputs(self.run.inputs, now, str(place), FIX))


def _fits(built: AdapterSet, directory: Path, name: str, part: str | None = None) -> None:
    """part: the adapter's directory, where it has another name."""
    place = directory / (part or name)
    try:
        built.restore(name, place)
    except (OSError, ValueError) as error:
        raise InputError(f"{place}: {error}; {COPY}") from error
