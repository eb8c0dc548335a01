"""`zofo meta-test`: open the target and its setting, measure, write what was found."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zofo.api.evaluate import task_config
from zofo.api.metatest.plan import WAYS, Plan, check_ways, default_ways
from zofo.api.metatest.protocol import Protocol
from zofo.api.metatest.results import summary
from zofo.api.metatest.store import Store, digest
from zofo.api.metatest.subject import open_subject
from zofo.api.out_of_memory import smaller, with_options
from zofo.api.restore import given_model
from zofo.api.states import finished_only, info_of, is_run, is_state
from zofo.api.targets import as_path, export_info, recorded
from zofo.config.registry import canonical
from zofo.config.resolve import Config
from zofo.config.sections import TaskConfig, kind_of_task
from zofo.data.files import BadRows
from zofo.data.multitask.setting import OpenSetting, Setting, find_setting, open_setting
from zofo.errors import InputError, did_you_mean
from zofo.train.files import write_json
from zofo.train.lease import Lease
from zofo.train.progress import counter
from zofo.train.run_dir import RunDir

OWNED = {"num_fewshot": "--num-fewshot", "test_examples": "--test-examples"}  # of the plan, not of the task


@dataclass(frozen=True)
class Target:
    """What is known of the target before its model is loaded. tasks: those it was trained on, and those held out."""

    path: Path
    config: Config | None = None
    tasks: dict[str, list[str]] | None = None

    @property
    def method(self) -> str | None:
        return self.config.names["method"] if self.config else None

    @property
    def has_s(self) -> bool:
        return self.method == "meta-bilevel-zofo" and is_run(self.path)

    @property
    def shared(self) -> bool:
        return self.has_s and self.config is not None and self.config.method.adapters == "shared"


def meta_test(
    target: str | Path,
    *,
    task: str | None = None,
    data: str | None = None,
    model: str | None = None,
    ways: Sequence[str] | str | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    eval_batch_size: int | None = None,
    overrides: Sequence[str] = (),
    **plan: Any,
) -> dict[str, Any]:
    """Measure a run, an export or a plain model on the target tasks of a setting.

    task, data: the setting and its directory, where they are not the run's. ways: see `plan.WAYS`.
    plan: other fields of `plan.Plan`. output: a directory for results.json, the parts, which a measurement that was
    cut goes on from, and the predictions. model: where the base model is now. overrides: "task.key=value" and
    "model.key=value", such as task.template=channel or task.scoring=pmi. Returns the contents of results.json. Raises
    InputError, RunError.
    """
    given, overrides = given_model(model, overrides, "meta-test", tasks=True)
    _check_plan(ways.split(",") if isinstance(ways, str) else ways, plan, overrides)
    known = _target(as_path(target))
    cfg, setting = _task(known, task, data, overrides)
    settled = _plan(known, cfg, ways.split(",") if isinstance(ways, str) else ways, plan)
    seed = known.config.train.seed if known.config else 0
    opened = _open(known, cfg, setting, settled, seed)
    batch = eval_batch_size or (known.config.train.eval_batch_size if known.config else 32)
    less = [f"--eval-batch-size {batch // 4}" if batch > 3 else "", *smaller(given)]
    with with_options("the meta-test", less), counter(f"meta-test on {setting.name}", len(opened.target)) as (say, _):
        for line in opened.coverage:
            say(line)
        subject = open_subject(target, known.config, settled.ways, batch, seed, given)
        facts = {"target": str(target), "model_sha256": subject.sha256, "setting": setting.name, "data": str(cfg.data)}
        facts |= {"data_sha256": digest(opened), "template": cfg.template, "scoring": cfg.scoring}
        facts |= {"held_out": sorted(opened.held_out), "seed": seed, **dataclasses.asdict(settled)}
        store = Store(None if output is None else Path(output))
        protocol = Protocol(subject, opened, cfg, settled, seed, store, say)
        protocol.read()  # what is wrong with the rows is said before anything is written
        if store.out is not None and store.out.exists() and not store.out.is_dir():
            raise InputError(f"{store.out}: exists and is no meta-test's; choose another --output")
        try:
            with Lease(store.out) if store.out is not None else nullcontext():
                store.claim(facts, overwrite)
                parts = protocol.run()
        except KeyboardInterrupt:
            if store.out is not None:
                say(f"what is measured is kept in {store.out}: the same command goes on from there")
            raise
    unseen = [name for name in opened.target if name in setting.unseen_domain]
    result = {**facts, "coverage": opened.coverage, "ways": summary(parts, unseen)}
    if store.out is not None:
        write_json(store.out / "results.json", result)
    return result


def _target(path: Path) -> Target:
    """Raises InputError for a run or an export that is more than a backbone, and no meta-training's."""
    if is_run(path):
        run = RunDir(path)
        info = info_of(run)
        target = Target(path, run.read_config(), info.get("tasks"))
        if not target.has_s and info["deployed"] != "theta":
            raise InputError(
                f"{path}: the run deploys an adapter, without which it is the plain model; merge it "
                f"(zofo export RUN OUT --merge) and test that"
            )
        return target
    if is_state(path):
        raise finished_only(path)
    config = recorded(path)
    if config is None:
        return Target(path)
    info = export_info(path)
    if info.get("adapter") != "theta" and not info.get("merged"):
        raise InputError(f"{path}: an export with an adapter; give the run's directory, or an export made with --merge")
    return Target(path, config, info.get("tasks"))


def _task(target: Target, task: str | None, data: str | None, overrides: Sequence[str]) -> tuple[TaskConfig, Setting]:
    """The run's task section, or another setting in the run's layout."""
    if task is None and target.config is None:
        if not target.path.exists():
            raise InputError(f"{target.path}: no such directory; a model on the hub needs --task")
        raise InputError("--task: give a setting such as class-to-class (zofo ls settings)")
    changes: dict[str, Any] = {"data": data}
    if task is not None and target.config is not None and find_setting(target.config.task.name) is not None:
        changes |= {key: getattr(target.config.task, key) for key in ("template", "scoring", "num_fewshot")}
    name = task or (target.config.task.name if target.config else "")
    if kind_of_task(name) in ("known", "rows"):  # before its rows are looked for
        _setting_of(name)
    cfg = task_config(target.config, task, changes, overrides)
    setting = _setting_of(cfg.name)
    if cfg.data is None:
        raise InputError("task.data: give --data, the directory with a folder for each task")
    return cfg, setting


def _setting_of(name: str) -> Setting:
    setting = find_setting(name)
    if setting is None:
        raise InputError(f"task.name: {name} is one task; give a setting such as class-to-class (zofo ls settings)")
    return setting


def _check_plan(ways: Sequence[str] | None, given: dict[str, Any], overrides: Sequence[str]) -> None:
    """What is wrong with the words of a plan, whatever the target is. Raises InputError."""
    for text in overrides:
        for key, flag in OWNED.items():
            if text.startswith(f"task.{key}="):
                raise InputError(f"task.{key}: give {flag}")
    known = [f.name for f in dataclasses.fields(Plan) if f.name != "ways"]
    for name in given:
        if name not in known:
            raise InputError(f"{name}: unknown{did_you_mean(name, known) or '; known: ' + ', '.join(known)}")
    Plan(tuple(WAYS if ways is None else ways), **{key: value for key, value in given.items() if value is not None})


def _plan(target: Target, cfg: TaskConfig, ways: Sequence[str] | None, given: dict[str, Any]) -> Plan:
    chosen = default_ways(target.method, target.has_s, target.shared) if ways is None else tuple(ways)
    shots = {"k": cfg.num_fewshot} if target.method in ("metaicl", "icl") else {}
    settled = Plan(chosen, **{**shots, **{key: value for key, value in given.items() if value is not None}})
    check_ways(chosen, target.has_s, target.shared)
    return settled


def _open(target: Target, cfg: TaskConfig, setting: Setting, plan: Plan, seed: int) -> OpenSetting:
    """The setting's tasks. Held-out ones only where a rate is to be chosen: those that the run held out, if it is one.

    Raises InputError where the model was trained on a target task.
    """
    if target.tasks and cfg.held_out != getattr(target.config and target.config.task, "held_out", cfg.held_out):
        raise InputError(f"task.held_out: the run held out {', '.join(target.tasks['held_out'])}; leave it out")
    held: int | list[str] = 0
    if plan.tunes and len(plan.rates) > 1:
        held = target.tasks["held_out"] if target.tasks else cfg.held_out
    opened = open_setting(setting, Path(str(cfg.data)), held, seed, BadRows(cfg.on_bad_row == "skip"))
    if not opened.target:
        raise InputError(f"{cfg.data}: no target task of {setting.name} is there; expected {setting.target[0]}/, ...")
    seen = {canonical(name) for names in (target.tasks or {}).values() for name in names}
    if both := [name for name in opened.target if canonical(name) in seen]:
        raise InputError(
            f"{target.path}: was trained, or selected, on target tasks of {setting.name}: {', '.join(both)}"
        )
    return opened
