"""`zofo meta-test`: open the target and its setting, measure, write what was found."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zofo import checkpoint
from zofo.config import Config, TaskConfig
from zofo.config import load as load_config
from zofo.deploy import as_path, is_run, recorded
from zofo.errors import InputError
from zofo.evaluation import task_config
from zofo.meta.plan import Plan, check_ways, default_ways
from zofo.meta.protocol import Protocol, claim
from zofo.meta.results import summary
from zofo.meta.subject import open_subject
from zofo.progress import counter
from zofo.tasks._setting import find_setting, open_setting


@dataclass(frozen=True)
class Target:
    """What is known of the target before its model is loaded."""

    path: Path
    config: Config | None
    method: str | None

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
    ways: Sequence[str] | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    eval_batch_size: int | None = None,
    overrides: Sequence[str] = (),
    **plan: Any,
) -> dict[str, Any]:
    """Measure a run, an export or a plain model on the target tasks of a setting.

    task, data: the setting and its directory, where they are not the run's. ways: see `zofo.meta.plan.WAYS`. plan:
    other fields of `zofo.meta.plan.Plan`. output: a directory for results.json, the parts, which a measurement that was
    cut goes on from, and the predictions. overrides: "task.key=value", such as task.template=channel or
    task.scoring=pmi. Returns the contents of results.json. Raises InputError.
    """
    found = _target(as_path(target))
    chosen = tuple(ways or default_ways(found.method, found.has_s, found.shared))
    check_ways(chosen, found.has_s, found.shared)
    cfg = _task(found.config, task, data, overrides)
    setting = find_setting(cfg.name)
    if setting is None:
        raise InputError(
            f"{cfg.name} is one task; a meta-test needs a setting such as class-to-class (zofo ls settings)"
        )
    if cfg.data is None:
        raise InputError("task.data: give --data, the directory with a folder for each task")
    seed = found.config.train.seed if found.config else 0
    if found.config and found.config.names["method"] in ("metaicl", "icl"):
        plan = {"k": cfg.num_fewshot, **plan}
    settled = Plan(chosen, **{key: value for key, value in plan.items() if value is not None})
    chooses = settled.tunes and len(settled.rates) > 1  # only then are held-out training tasks needed
    opened = open_setting(setting, Path(cfg.data), cfg.held_out if chooses else 0, seed)
    if not opened.target:
        raise InputError(f"{cfg.data}: no target task of {setting.name} is there; expected {setting.target[0]}/, ...")
    out = None if output is None else Path(output)
    facts = {
        "target": str(target), "setting": setting.name, "data": cfg.data, "template": cfg.template,
        "scoring": cfg.scoring, "held_out": sorted(opened.held_out), "seed": seed, **dataclasses.asdict(settled),
    }  # fmt: skip
    if out is not None:
        claim(out, facts, overwrite)
    batch = eval_batch_size or (found.config.train.eval_batch_size if found.config else 32)
    with counter(f"meta-test on {setting.name}", len(opened.target)) as (say, _):
        for line in opened.coverage:
            say(line)
        subject = open_subject(target, found.config, chosen, batch, seed)
        parts = Protocol(subject, opened, cfg, settled, seed, out, say).run()
    unseen = [name for name in opened.target if name in setting.unseen]
    result = {**facts, "coverage": opened.coverage, "ways": summary(parts, unseen)}
    if out is not None:
        checkpoint.write_json(out / "results.json", result)
    return result


def _target(path: Path) -> Target:
    if is_run(path):
        config = load_config(path / "config.yaml", files=False)
        return Target(path, config, config.names["method"])
    config = recorded(path)
    if config is not None and json.loads((path / "zofo.json").read_text()).get("adapter") != "theta":
        raise InputError(f"{path}: an export with an adapter; give the run's directory")
    return Target(path, config, config.names["method"] if config else None)


def _task(config: Config | None, task: str | None, data: str | None, overrides: Sequence[str]) -> TaskConfig:
    if task is None and config is None:
        raise InputError("--task: give a setting such as class-to-class (zofo ls settings)")
    return task_config(config, task, {"data": data}, overrides)
