"""A study's directory: plan.yaml, what the plan was read as (study.json), trials.log, a folder for each row."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from zofo.config.json_text import dumps, read_json
from zofo.config.layers import brief
from zofo.errors import InputError, first_few
from zofo.study.plan import Plan
from zofo.study.plan_read import plan_of
from zofo.train.files import make_directory, write_json, write_text
from zofo.train.lease import Lease, of_a_lock

FORMAT = "zofo.study/1"
PLAN, FACTS = "plan.yaml", "study.json"


def open_study(plan: Plan, study: Path) -> None:
    """Make it, or find it as this plan's. Raises InputError for what is none, and for another plan's, naming it."""
    with patiently(study):
        check_study(plan, study)
        if not (study / FACTS).is_file() or read_json(study / FACTS).get("plan") != read_json_data(plan.data):
            make_directory(study)
            write_text(study / PLAN, plan.text)
            write_json(study / FACTS, {"format": FORMAT, "plan": plan.data, "digest": plan.digest()})


def check_study(plan: Plan, study: Path) -> None:
    """Whether the directory is this plan's, or can be. Writes nothing."""
    if study.exists() and not study.is_dir():
        raise InputError(f"--output-dir: {study} is a file")
    # Listed before FACTS is looked for: another worker may be making the study, and FACTS is there before all but PLAN
    there = [path.name for path in study.iterdir() if not of_a_lock(path.name)] if study.is_dir() else []
    if (study / FACTS).is_file():
        facts = read_json(study / FACTS)
        before, now = facts.get("plan"), read_json_data(plan.data)
        if not isinstance(before, dict):
            raise InputError(f"{study / FACTS}: damaged; put back a copy, or choose another --output-dir")
        if before != now and not _goes_on(before, plan):
            differences = first_few(list(_differences(before, now)), 5, "; ")
            more = "seeds and rows may be added to a study; for other changes choose another directory"
            raise InputError(f"--output-dir: {study} is another plan's study: {differences}; {more}")
        return
    if others := sorted(name for name in there if name not in (PLAN, f".{PLAN}.tmp", f".{FACTS}.tmp")):
        raise InputError(f"--output-dir: {study} holds other files ({first_few(others)}); choose another directory")


def _goes_on(before: Mapping[str, Any], plan: Plan) -> bool:
    """Whether `plan` has all of what a study's plan had, and more seeds behind its own, or more rows. Then every run
    that is there is one of it. More values to search are none of these: another trial may be chosen, and the runs of
    further seeds are those of what was chosen before."""
    try:
        old = plan_of(before, "", plan.folder / f"{plan.name}.yaml")
    except InputError:
        return False
    rows = {row.name: row for row in plan.rows}
    if (old.sampler, old.prune, old.seed, old.preset) != (plan.sampler, plan.prune, plan.seed, plan.preset):
        return False
    for row in old.rows:
        new = rows.get(row.name)
        if new is None or new.seeds[: len(row.seeds)] != row.seeds or replace(new, seeds=row.seeds) != row:
            return False
    return True


def read_json_data(data: Mapping[str, Any]) -> Any:
    """As it is in a JSON file."""
    import json

    return json.loads(dumps(data, default=str))


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], place: str = "") -> Iterator[str]:
    for key in dict.fromkeys([*before, *now]):
        one, other = before.get(key), now.get(key)
        if one == other:
            continue
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _differences(one, other, f"{place}{key}.")
        else:
            yield f"{place}{key} is {_shown(one)} there and {_shown(other)} in this plan"


def _shown(value: Any) -> str:
    return "not given" if value is None else brief(value)


@contextmanager
def patiently(study: Path) -> Iterator[None]:
    """With the study's lock, which is held for moments: whoever has it is waited for."""
    while True:
        try:
            lease = Lease(study, inside=False).__enter__()
            break
        except InputError as error:
            if "in use" not in str(error):
                raise
            time.sleep(0.2)
    try:
        yield
    finally:
        lease.__exit__(None, None, None)
