"""A task's YAML file: read, checked, and turned into a function from rows to examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import jinja2
import jinja2.meta
import yaml
from jinja2.sandbox import SandboxedEnvironment
from pydantic import TypeAdapter, ValidationError

from zofo.errors import InputError, did_you_mean
from zofo.tasks._example import Example
from zofo.tasks._files import Record, Tables, columns_of, file_of

ENV = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)

Make = Callable[[Record], Example]


@dataclass(frozen=True)
class Hub:
    path: str
    name: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Template:
    """`answers`: a template for each option, or one Jinja expression that gives the list of a row's options."""

    prompt: str
    answers: list[str] | str


@dataclass(frozen=True)
class TaskSpec:
    version: int
    description: str
    source: str
    columns: list[str]
    kind: Literal["options", "completion"]
    objective: Literal["options", "lm"]
    metric: Literal["accuracy", "macro_f1", "loss"]
    templates: dict[str, Template]
    gold: str | None = None  # Jinja expression: index or text of the right answer, or a list of them
    labels: list[str] = field(default_factory=list)  # names of the options, where all rows share them
    hub: Hub | None = None
    splits: dict[str, str] = field(default_factory=dict)  # ours -> the hub's
    missing: str = "give task.data=DIR"  # the fix where there is neither task.data nor a hub
    file: str = ""


def load_spec(path: Path) -> TaskSpec:
    """Raises InputError with everything that is wrong, one line each."""
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except OSError as e:
        raise InputError(f"{path}: {e.strerror or e}") from None
    except yaml.YAMLError as e:
        raise InputError(f"{path}: bad YAML: {' '.join(str(e).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected keys such as version, columns, templates")
    known = [f.name for f in fields(TaskSpec) if f.name != "file"]
    problems = [f'unknown key "{k}"{did_you_mean(str(k), known)}' for k in content if k not in known]
    try:
        known_part = {k: v for k, v in content.items() if k in known}
        spec = TypeAdapter(TaskSpec).validate_python({**known_part, "file": path.name})
        problems += _check(spec)
    except ValidationError as e:
        problems += [f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in e.errors()]
        raise InputError("\n".join(f"{path}: {p}" for p in problems)) from None
    if problems:
        raise InputError("\n".join(f"{path}: {p}" for p in problems))
    return spec


def _check(spec: TaskSpec) -> list[str]:
    problems = []
    if "default" not in spec.templates:
        problems.append('templates: needs one called "default"')
    if spec.kind == "options" and spec.gold is None:
        problems.append('missing key "gold": which option is right')
    if spec.kind == "completion" and spec.objective == "options":
        problems.append("objective: a completion has no options; use lm")
    for where, names in _used_columns(spec).items():
        if isinstance(names, str):
            problems.append(f"{where}: {names}")
            continue
        for name in sorted(names - set(spec.columns)):
            near = did_you_mean(name, spec.columns)
            problems.append(f'{where}: no column "{name}"; columns: {", ".join(spec.columns)}{near}')
    return problems


def _used_columns(spec: TaskSpec) -> dict[str, set[str] | str]:
    """{place in the file: columns it reads, or the text of a syntax error}"""
    used: dict[str, set[str] | str] = {}
    for name, template in spec.templates.items():
        answers = template.answers if isinstance(template.answers, list) else ["{{" + template.answers + "}}"]
        used[f'template "{name}"'] = _variables("\n".join([template.prompt, *answers]))
    if spec.gold is not None:
        used["gold"] = _variables("{{" + spec.gold + "}}")
    return used


def _variables(source: str) -> set[str] | str:
    try:
        return jinja2.meta.find_undeclared_variables(ENV.parse(source))
    except jinja2.TemplateSyntaxError as e:
        return f"bad template: {e.message}"


def check_columns(spec: TaskSpec, template: str, tables: Tables) -> None:
    """Raises InputError where a column that the template reads is in no row of a table."""
    for records in tables.values():
        has = columns_of(records)
        for where, names in _used_columns(spec).items():
            if where not in ("gold", f'template "{template}"') or isinstance(names, str):
                continue
            for name in sorted(names - set(has)):
                near = did_you_mean(name, has)
                raise InputError(
                    f'{spec.file}: {where}: no column "{name}" in {file_of(records)}; has: {", ".join(has)}{near}'
                )


def pick_template(spec: TaskSpec, name: str) -> Template:
    if name not in spec.templates:
        known = ", ".join(spec.templates)
        raise InputError(f'{spec.file}: no template "{name}"{did_you_mean(name, spec.templates)}; known: {known}')
    return spec.templates[name]


def maker(spec: TaskSpec, template_name: str) -> Make:
    """The function that turns a row into an example. It raises InputError naming the row."""
    template = pick_template(spec, template_name)
    prompt = ENV.from_string(template.prompt)
    if isinstance(template.answers, str):
        expression = ENV.compile_expression(template.answers, undefined_to_none=False)
        options = []
    else:
        expression, options = None, [ENV.from_string(answer) for answer in template.answers]
    gold = None if spec.gold is None else ENV.compile_expression(spec.gold, undefined_to_none=False)

    def make(record: Record) -> Example:
        try:
            text = prompt.render(record.row)
            listed = expression(record.row) if expression else [o.render(record.row) for o in options]
            answers = tuple(str(answer) for answer in listed or ())
            value = gold(record.row) if gold else 0
        except (jinja2.TemplateError, TypeError, ValueError) as e:
            raise InputError(f'{record.place}: {spec.file}: template "{template_name}": {e}') from None
        return Example(record.id, text, answers, right_answers(value, answers, spec.labels, record.place))

    return make


def right_answers(value: Any, answers: tuple[str, ...], labels: list[str], place: str) -> tuple[int, ...]:
    """Indices of the answers that `value` (an index, a label's name, an answer's text, or a list of these) names."""
    if isinstance(value, (list, tuple)):
        return tuple(sorted({i for v in value for i in right_answers(v, answers, labels, place)}))
    stripped = [a.strip() for a in answers]
    if isinstance(value, str):
        for names in (labels, stripped):
            if value.strip() in names:
                return tuple(i for i, name in enumerate(names) if name == value.strip())
        value = int(value) if value.strip().isdecimal() else value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and 0 <= value < len(answers):  # a bool is an int: False 0, True 1
        return (int(value),)
    known = [f"{i} {name}" for i, name in enumerate(labels or stripped)]
    raise InputError(f"{place}: unknown label {value!r}; known: {', '.join(known)}")
