"""`zofo show TASK`: what the task is, and a real prompt with its answers under each template."""

from __future__ import annotations

from pathlib import Path

from zofo.data.files import Record, Records, missing_column
from zofo.data.multitask.setting import find_setting, open_setting
from zofo.data.preview import shown
from zofo.data.spec import TaskSpec, load_spec, maker, metrics_of, pick_template
from zofo.data.task import local_tables


def print_task(name: str, path: Path, template: str | None, data: str | None) -> None:
    """template: that one alone. data: its first row in place of the task file's own. Raises InputError."""
    spec = load_spec(path)
    if template is not None:
        pick_template(spec, template)
    record = _record(spec, name, data)
    print(f"task {name}\n\n{spec.description}\n")
    for what, value in _facts(spec).items():
        if value:
            print(f"{what:<10} {value}")
    print(f"{'version':<10} {spec.version}\n{'file':<10} {path}")
    if record is None:
        print("\nno demonstrations in the file: --data DIR shows a prompt of your rows")
    for each in spec.templates if template is None else [template]:
        print(f"\ntemplate {each}" + (f" (task.template={each})" if each != "default" else ""))
        if record is not None:
            for line in shown(maker(spec, each)(record)):
                print(line)


def print_setting(name: str, data: str | None) -> None:
    """data: a directory of rows, of which it says what is there. Raises InputError."""
    setting = find_setting(name)
    assert setting is not None
    print(f"setting {setting.name}\n\n{setting.description}\n")
    print(f"{'source':<10} {setting.source}\n{'file':<10} {setting.file}")
    print("rows       a directory with a folder for each task, in MetaICL's form or train.jsonl and test.jsonl")
    apart = "of an unseen domain"
    for what, names in (("training", setting.train), ("held out", setting.held_out), ("target", setting.target)):
        if names:
            print(f"\n{what} tasks ({len(names)}): {', '.join(names)}")
    if setting.unseen_domain:
        print(f"{apart}: {', '.join(setting.unseen_domain)}")
    if data is not None:
        opened = open_setting(setting, Path(data), 0, 0)
        print(f"\nin {data}:")
        for line in opened.coverage:
            print(line)
        for kind, pools in (("training", opened.train), ("target", opened.target)):
            for task, pool in pools.items():
                print(f"{kind} {task}: {pool.kind}{', ' + ' | '.join(pool.labels) if pool.labels else ''}")


def _record(spec: TaskSpec, name: str, data: str | None) -> Record | None:
    if data is None:
        rows = spec.demonstrations
        return Record(f"{name}: a row of the task file", spec.file, rows[0]) if rows else None
    tables = local_tables(Path(data), spec, name)
    records: Records = tables.get("test") or next(iter(tables.values()))
    if missing := [column for column in spec.columns if column not in records[0].row]:
        raise missing_column(missing[0], records, f"task {name}", spec.columns)
    return records[0]


def _facts(spec: TaskSpec) -> dict[str, str]:
    facts = {"source": spec.source, "metric": ", ".join(metrics_of(spec)), "objective": spec.objective}
    if spec.hub:
        facts["hub"] = " ".join(filter(None, (spec.hub.path, spec.hub.name)))
        facts["splits"] = ", ".join(f"{ours}: {theirs}" for ours, theirs in spec.splits.items())
    facts["columns"] = ", ".join(spec.columns)
    facts["labels"] = ", ".join(spec.labels)
    if spec.carve:
        facts["training"] = f"no training split: a run trains on {spec.carve:.0%} of the test rows"
    if spec.kind == "generation":
        decoding = spec.generation
        sampled = f"temperature {decoding.temperature:g}, top_p {decoding.top_p:g}"
        how = sampled if decoding.temperature else "greedy"
        ends = f", stops at {', '.join(map(repr, decoding.stop))}" if decoding.stop else ""
        facts["generation"] = f"{how}, at most {decoding.max_new_tokens} tokens{ends}"
    return facts
