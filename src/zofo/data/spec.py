"""A task's YAML file: read, checked, and turned into a function from rows to examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import jinja2
import jinja2.meta
import jinja2.nodes

from zofo.config import registry
from zofo.config.typed import build
from zofo.config.yaml_reader import read_yaml
from zofo.data.chat import Make
from zofo.data.example import Decoding, Example, objective_of
from zofo.data.files import SPLIT_FILES, Record, Tables, columns_of, missing_column
from zofo.data.jinja import ENV, counting
from zofo.data.metrics.text import TEXT_METRICS, misfit
from zofo.errors import InputError, did_you_mean, printable


@dataclass(frozen=True)
class Hub:
    path: str
    name: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Template:
    """`answers`: a template for each option, or one Jinja expression that gives the list of a row's options.

    null_prompt: the prompt without the row's input, for calibrated scores; None: a single start token.
    """

    prompt: str
    answers: list[str] | str
    null_prompt: str | None = None


@dataclass(frozen=True)
class TaskSpec:
    version: int
    description: str
    source: str
    columns: list[str]
    kind: Literal["options", "completion", "generation"]
    objective: str
    metric: str | list[str]  # the first one leads: it is what selects and what a non-differentiable objective takes
    templates: dict[str, Template]
    demonstrations: list[dict[str, Any]] = field(default_factory=list)  # rows of our own, for show and for prompts
    gold: str | None = None  # Jinja expression: index or text of the right answer, or a list of them
    reference: str | None = None  # Jinja expression: what a generated text is compared with
    generation: Decoding = field(default_factory=Decoding)
    labels: list[str] = field(default_factory=list)  # names of the options, where all rows share them
    hub: Hub | None = None
    splits: dict[str, str] = field(default_factory=dict)  # ours -> the hub's
    dev_rows: int | None = None  # cut from train for dev, where train is small
    carve: float | None = None  # where there are test rows alone: the share of them that a run trains on
    missing: str = "give task.data=DIR"  # the fix where there is neither task.data nor a hub
    file: str = ""

    def problems(self) -> list[str]:
        """What is wrong with several fields together, as `config.typed.build` asks for it."""
        return _check(self)


def load_spec(path: Path) -> TaskSpec:
    """Raises InputError with everything that is wrong, one line each."""
    content = read_yaml(path, "", "keys such as version, columns, templates")
    errors = [f"{path}: file: unknown field"] if "file" in content else []
    spec = build(f"{path}: ", TaskSpec, {**content, "file": path.name}, errors)
    if errors:
        raise InputError("\n".join(errors))
    assert spec is not None
    return spec


METRICS = {
    "options": ("accuracy", "macro_f1"),
    "completion": ("loss",),
    "generation": (*TEXT_METRICS, "pass_at_k"),
}


def metrics_of(spec: TaskSpec) -> tuple[str, ...]:
    return (spec.metric,) if isinstance(spec.metric, str) else tuple(spec.metric)


def _check(spec: TaskSpec) -> list[str]:
    problems = []
    for name in metrics_of(spec) or ("",):
        if name not in METRICS[spec.kind]:
            known = METRICS[spec.kind]
            near = did_you_mean(name, known)
            problems.append(f'metric: kind {spec.kind} has no "{name}"{near}; use {", ".join(known)}')
    if (spec.kind == "generation") != (spec.reference is not None):
        wanted = "needs it: what a text is compared with" if spec.kind == "generation" else "takes none: use gold"
        problems.append(f"reference: kind {spec.kind} {wanted}")
    if spec.carve is not None and not 0 < spec.carve < 1:
        problems.append(f"carve: a share between 0 and 1, got {spec.carve}")
    if len(set(spec.labels)) < len(spec.labels):
        problems.append(f"labels: one occurs twice: {', '.join(spec.labels)}")
    for split in spec.splits:
        if split not in SPLIT_FILES:
            problems.append(f'splits: unknown "{split}"; known: {", ".join(SPLIT_FILES)} (zofo\'s name first)')
    for name, template in spec.templates.items():
        if not isinstance(template.answers, list):
            continue
        if spec.labels and len(spec.labels) != len(template.answers):
            problems.append(f'template "{name}": {len(template.answers)} answers for {len(spec.labels)} labels')
        elif (len(template.answers) == 1) != (spec.kind != "options"):
            wanted = "two answers or more" if spec.kind == "options" else "one answer"
            problems.append(f'template "{name}": {len(template.answers)} answers; kind {spec.kind} has {wanted}')
    if "default" not in spec.templates:
        problems.append('templates: needs one called "default"')
    if spec.kind == "options" and spec.gold is None:
        problems.append("gold: required: which option is right")
    if spec.objective not in registry.names("objectives"):
        known = registry.names("objectives")
        near = did_you_mean(spec.objective, known)
        problems.append(f'objective: unknown "{spec.objective}"{near}; known: {", ".join(known)}')
    elif not objective_of(spec.objective).encodes:
        problems.append(f"objective: {spec.objective} is asked for with task.objective, and no task's own")
    elif spec.kind != "options" and objective_of(spec.objective).encodes == "options":
        problems.append(f"objective: kind {spec.kind} has no options; use lm")
    for where, names in used_columns(spec).items():
        if isinstance(names, str):
            problems.append(f"{where}: {names}")
            continue
        for name in sorted(names - set(spec.columns)):
            near = did_you_mean(name, spec.columns)
            problems.append(f'{where}: no column "{name}"; columns: {", ".join(spec.columns)}{near}')
    return problems


def used_columns(spec: TaskSpec) -> dict[str, frozenset[str] | str]:
    """{place in the file: columns it reads, or the text of a syntax error}"""
    used: dict[str, frozenset[str] | str] = {}
    for name, template in spec.templates.items():
        answers = template.answers if isinstance(template.answers, list) else ["{{" + template.answers + "}}"]
        used[f'template "{name}"'] = _variables(
            "\n".join([template.prompt, template.null_prompt or "", *answers]), tuple(spec.columns)
        )
    for place in ("gold", "reference"):
        if (expression := getattr(spec, place)) is not None:
            used[place] = _variables("{{" + expression + "}}", tuple(spec.columns))
    return used


@lru_cache(maxsize=1024)  # a run asks eight times for its task's file
def _variables(source: str, columns: tuple[str, ...]) -> frozenset[str] | str:
    """What a template reads from outside. What it sets itself, in one branch of an `if` alone, is no column."""
    try:
        tree = ENV.parse(source)
        set_here = {name.name for name in tree.find_all(jinja2.nodes.Name) if name.ctx == "store"}
        set_here |= {macro.name for macro in tree.find_all(jinja2.nodes.Macro)}
        names = jinja2.meta.find_undeclared_variables(tree) - (set_here - set(columns))
        ENV.compile(source)  # unknown filters, and what Python refuses of the program that a template becomes
        return frozenset(names)
    except jinja2.TemplateError as e:  # Jinja computes what is constant in it now, and that may fail
        return f"bad template: {printable(e.message or '', 200)}"
    except (RecursionError, MemoryError, SyntaxError):
        return "bad template: nested too deep"
    except ValueError as e:  # a number of thousands of digits, or what is beyond any use
        return f"bad template: {e}"


def check_columns(spec: TaskSpec, template: str, tables: Tables) -> None:
    """Raises InputError where a column that the template reads is in no row of a table."""
    for records in tables.values():
        has = columns_of(records)
        for where, names in used_columns(spec).items():
            if where not in ("gold", f'template "{template}"') or isinstance(names, str):
                continue
            for name in sorted(names - set(has)):
                raise missing_column(name, records, f"{spec.file}: {where}", spec.columns)


def pick_template(spec: TaskSpec, name: str) -> Template:
    if name not in spec.templates:
        known = ", ".join(spec.templates)
        near = did_you_mean(name, spec.templates)
        raise InputError(f'task.template: {spec.file}: no template "{name}"{near}; known: {known}')
    return spec.templates[name]


def maker(spec: TaskSpec, template_name: str, answered: bool = True) -> Make:
    """The function that turns a row into an example. It raises InputError naming the row.

    answered: False for rows whose right answer nobody knows yet: the first of the options stands in its place, and of
    what is to be written nothing.
    """
    template = pick_template(spec, template_name)
    prompt = ENV.from_string(template.prompt)
    null = None if template.null_prompt is None else ENV.from_string(template.null_prompt)
    if not answered and spec.kind != "options":
        expression, options = None, []
    elif isinstance(template.answers, str):
        expression = ENV.compile_expression(template.answers, undefined_to_none=False)
        options = []
    else:
        expression, options = None, [ENV.from_string(answer) for answer in template.answers]
    gold, reference = (
        None if text is None or not answered else ENV.compile_expression(text, undefined_to_none=False)
        for text in (spec.gold, spec.reference)
    )

    used = used_columns(spec)
    needed = sorted({name for where in ("gold", "reference") for name in used.get(where, ()) if answered})

    def make(record: Record) -> Example:
        at = f'{record.place}: {spec.file}: template "{template_name}"'
        row = {key: value for key, value in record.row.items() if value is not None}  # no cell is no text "None"
        if missing := [name for name in needed if name not in row]:
            raise InputError(f'{record.place}: {spec.file}: no "{missing[0]}" in this row; mend or drop it')
        try:
            with counting():
                text = prompt.render(row)
                listed = expression(row) if expression else [o.render(row) for o in options]
                answers = tuple(str(answer) for answer in listed or ())
                value = gold(row) if gold else 0
                compared = reference(row) if reference else None
                empty = null.render(row) if null else None
        except jinja2.UndefinedError as e:
            raise InputError(f"{at}: {e} in this row; mend or drop it") from None
        except Exception as e:  # a template is a program: it may divide by zero or overrun an integer
            raise InputError(f"{at}: {printable(' '.join(str(e).split()), 300)}") from None
        to_be_written = not answered and spec.kind != "options"
        fault = _unusable(text, answers, spec, to_be_written)
        if fault or (answered and (fault := _incomparable(compared, spec))):
            raise InputError(f"{at}: {fault}")
        if to_be_written:
            return Example(record.id, text, ("",), (0,), None, None, empty, record.place)
        try:
            right = right_answers(value, answers, spec.labels, f"{record.place}: {spec.file}")
        except InputError as e:
            read = sorted(name for name in used.get("gold", ()) if name in row)
            raise InputError(f"{e}{_computed(spec, value, {name: row[name] for name in read})}") from None
        if not right:
            raise InputError(f"{at}: no right answer; mend or drop the row")
        right_texts = {answers[i] for i in right}  # data may list an option twice
        right = tuple(i for i, answer in enumerate(answers) if answer in right_texts)
        return Example(record.id, text, answers, right, None, compared, empty, record.place)

    return make


def _computed(spec: TaskSpec, value: Any, read: Mapping[str, Any]) -> str:
    """Of what a wrong label was computed, where it is not a column as it is. read: the columns of `gold` in the row."""
    if spec.gold is None or spec.gold == value or spec.gold in read:
        return ""
    given = ", ".join(f"{name} {printable(repr(cell), 80)}" for name, cell in read.items())
    return f" (gold is {spec.gold}; {given})"


def _unusable(prompt: str, answers: tuple[str, ...], spec: TaskSpec, prompt_alone: bool = False) -> str:
    """What makes a rendered example unusable, or ""."""
    if not prompt.strip():
        return "the prompt comes out empty; mend the template or drop the row"
    if prompt_alone:
        return ""
    empty = next((i for i, answer in enumerate(answers) if not answer.strip()), None)
    if empty is not None:
        return f"answer {empty} comes out empty; mend the template or drop the row"
    if spec.kind != "options":
        return "" if len(answers) == 1 else f"kind {spec.kind} has one answer, not {len(answers)}"
    if spec.labels and len(answers) != len(spec.labels):
        return f"{len(answers)} answers for the {len(spec.labels)} labels {', '.join(spec.labels)}"
    if len(set(answers)) < 2:
        return f"needs two or more different answers, got {', '.join(map(repr, answers)) or 'none'}"
    return ""


def _incomparable(reference: Any, spec: TaskSpec) -> str:
    """Why no generated text can be compared with the reference, or ""."""
    if spec.kind != "generation":
        return ""
    if reference in (None, "", [], {}):
        return "no reference answer; mend or drop the row"
    why = next((why for name in metrics_of(spec) if (why := misfit(name, reference))), "")
    return f"{why}; mend `reference` or drop the row" if why else ""


def right_answers(value: Any, answers: tuple[str, ...], labels: list[str], place: str) -> tuple[int, ...]:
    """Indices of the answers that `value` (an index, a label's name, an answer's text, or a list of these) names."""
    if isinstance(value, (list, tuple)):
        return tuple(sorted({i for v in value for i in right_answers(v, answers, labels, place)}))
    stripped = [a.strip() for a in answers]
    if isinstance(value, str):
        for names in (labels, stripped):
            if value.strip() in names:
                return tuple(i for i, name in enumerate(names) if name == value.strip())
        value = int(value) if value.strip().isdecimal() and len(value) <= 15 else value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and 0 <= value < len(answers):  # a bool is an int: False 0, True 1
        return (int(value),)
    known = [f"{i} {name if len(name) < 60 else name[:60] + ' ...'}" for i, name in enumerate(labels or stripped)]
    near, shown = "", printable(repr(value), 80)
    if isinstance(value, str):
        near = did_you_mean(value[:60], labels or stripped)
    raise InputError(f"{place}: unknown label {shown}; known: {', '.join(known)}{near}")
