"""What a report says of each run in words and tables: how it ended, its numbers, its time and memory, its errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zofo.config.yaml_reader import dump
from zofo.errors import InputError
from zofo.study.report.intervals import RESAMPLES, bootstrap, wilson
from zofo.study.report.words import NOT_MEASURED, bare, held, memory, model_name, number, seconds
from zofo.study.results import Result, finite

PHASES = ("setup", "training", "evaluation", "saving", "test")
MOST_LABELS = 12  # of a whole confusion matrix
PROPORTIONS = ("accuracy",)


@dataclass(frozen=True)
class Measured:
    """A row of the headline table. interval: words; how: what it is by, "" where there is none."""

    run: str
    what: str
    deployed: bool
    metric: str
    value: str
    interval: str
    how: str
    loss: str
    n: str


def status(result: Result) -> tuple[str, str]:
    """(one word, a sentence or "")."""
    ending = result.ending
    words = ending.words(private=False)
    if ending.kind in ("going", "cut") and ending.step is not None:
        words += f", its last checkpoint is of step {ending.step} of {ending.of}"
    fix = f" What helps: {ending.fix}." if ending.fix else ""
    names = {"unknown": "finished" if result.finished else "unknown", "cut": "not finished", "going": "still going"}
    return names.get(ending.kind, ending.kind), f"The run {words}.{fix}" if words else ""


def measured(result: Result, name: str) -> list[Measured]:
    """Of each candidate on test, then on dev; of a run before its end the last dev evaluation."""
    rows = []
    for split in ("test", "dev"):
        values = result.info.get(split, {})
        if not result.finished and split == "dev":
            values = {line["candidate"]: line for line in result.of("dev") if "candidate" in line}
        for candidate, numbers in sorted(values.items(), key=lambda pair: pair[0] != result.deployed):
            rows.append(_measured(result, name, split, candidate, numbers))
    return rows


def _measured(result: Result, name: str, split: str, candidate: str, numbers: Mapping[str, Any]) -> Measured:
    metric = result.metric
    interval, how = ("", "") if metric == "loss" else _interval(result, split, candidate, numbers)
    what = "theta" if candidate == "theta" else f"(theta, {candidate})"
    at = f", step {numbers['step']}" if "step" in numbers else ""
    return Measured(
        name,
        f"{split}: {what}{at}",
        result.finished and candidate == result.deployed,
        metric,
        held(numbers, metric),
        interval,
        how,
        held(numbers, "loss"),
        str(numbers.get("n", NOT_MEASURED)),
    )


def _interval(result: Result, split: str, candidate: str, numbers: Mapping[str, Any]) -> tuple[str, str]:
    """(the 95 % interval, how). ("", why not)."""
    value, n = numbers.get(result.metric), numbers.get("n")
    if value is None or not n or not math.isfinite(value):
        return "", ""
    scores = finite(one.score for one in result.outcomes(candidate)) if split == "test" else []
    if result.metric in PROPORTIONS or (scores and set(scores) <= {0.0, 1.0}):
        right = round(value * n)
        if abs(right - value * n) < 1e-6 * n:
            return "{:.4f} to {:.4f}".format(*wilson(right, n)), "Wilson"
    if len(scores) == n and abs(sum(scores) / n - value) < 1e-6:
        return " to ".join(map(number, bootstrap(scores))), f"bootstrap, {RESAMPLES:,} samples, seed 0"
    return "", "no mean over examples that are at hand"


def what_was_run(result: Result) -> list[tuple[str, str]]:
    """(what, value)."""
    info, settings = result.info, result.settings
    sizes = info.get("parameters", {})
    facts = [
        ("method", result.method),
        ("adapter", result.adapter or "none"),
        ("model", model_of(result)),
        ("task", result.task + (f", version {info['task_version']}" if info.get("task_version") else "")),
        ("seed", str(result.seed)),
        ("counted steps", str(settings.get("train.max_steps", NOT_MEASURED))),
        ("updates", ", ".join(f"{name} {n:,}" for name, n in info.get("steps", {}).items())),
        ("best step", str(info["best_step"]) if "best_step" in info else ""),
        ("deployed", result.deployed if result.finished else ""),
        ("examples", ", ".join(f"{name} {n:,}" for name, n in info.get("examples", {}).items())),
        ("weights", ", ".join(f"{name} {n:,}" for name, n in sizes.items() if n)),
        ("forwards", f"{info['forwards']:,}" if "forwards" in info else ""),
        ("backward passes", f"{info['backward_passes']:,}" if "backward_passes" in info else ""),
        ("tokens", f"{info['tokens']:,}" if "tokens" in info else ""),
        ("updates skipped", str(info["skipped"]) if info.get("skipped") else ""),
        ("rows left out", ", ".join(f"{why} {n}" for why, n in info.get("bad_rows", {}).items())),
    ]
    return [(what, value) for what, value in facts if value]


def model_of(result: Result) -> str:
    """Its name, without a way to it; "" for a file that was kept without it."""
    name = result.settings.get("model.name") or result.info.get("model")
    return model_name(str(name)) if name else ""


def again(result: Result) -> tuple[str, str, list[tuple[str, str]]]:
    """(the command, config.yaml for it, versions and digests)."""
    tree: dict[str, Any] = {}
    for key, value in bare(result.settings).items():
        section, _, name = key.partition(".")
        if name:
            tree.setdefault(section, {})[name] = value
    environment = result.info.get("environment", {})
    facts = [(name, version) for name, version in environment.get("packages", {}).items() if version]
    facts = [("python", str(environment["python"])), *facts] if "python" in environment else facts
    facts += [(what, str(environment[what])) for what in ("threads", "device_name") if environment.get(what)]
    inputs = result.info.get("inputs", {})
    facts += [(f"SHA-256 of {what}", str(inputs[what])) for what in ("model", "tokenizer") if inputs.get(what)]
    for split, one in (inputs.get("examples") or {}).items():
        facts.append((f"SHA-256 of {split}, {one.get('n')} examples", str(one.get("sha256"))))
    if "config_hash" in result.info:
        facts.append(("SHA-256 of the settings", str(result.info["config_hash"])))
    return "zofo train config.yaml --output-dir again", dump(tree), facts


def phases(result: Result) -> list[tuple[str, str, str]]:
    """(phase, seconds, peak memory up to its end)."""
    stored = result.info.get("phases", {})
    rows = [(p, seconds(stored[p]["seconds"]), memory(stored[p]["peak_bytes"])) for p in PHASES if p in stored]
    if "seconds" in result.info:
        rows.append(("all training steps", seconds(result.seconds), memory(result.info.get("peak_bytes"))))
    elif lines := result.of("train"):
        rows.append(("training steps so far", seconds(lines[-1].get("seconds")), NOT_MEASURED))
    return rows


@dataclass(frozen=True)
class Confusion:
    """labels; matrix: a row for each right one, with the unpredicted last where there are any. worst: of more labels
    than a table takes, (right, predicted, how many)."""

    labels: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...]
    unpredicted: bool
    classes: tuple[tuple[str, str, str, str, str], ...]
    worst: tuple[tuple[str, str, int], ...]


def confusion(result: Result) -> Confusion | None:
    """Of what is deployed, on test; None where the examples do not share their answers, or nothing is kept of it."""
    report = result.report()
    try:
        return _confusion(report) if "confusion" in report else None
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise InputError(f"{result.path}: eval/report-{result.deployed}.json is damaged; put back a copy") from error


def _confusion(report: Mapping[str, Any]) -> Confusion:
    labels = tuple(map(str, report["labels"]))
    missing = report.get("unpredicted")
    matrix = [tuple(row) + ((missing[i],) if missing else ()) for i, row in enumerate(report["confusion"])]
    classes = [_class(label, report.get("classes", {}).get(label, {})) for label in labels]
    places = [(i, j) for i in range(len(labels)) for j in range(len(labels)) if i != j and report["confusion"][i][j]]
    pairs = [(labels[i], labels[j], report["confusion"][i][j]) for i, j in places]
    if len(labels) <= MOST_LABELS:
        return Confusion(labels, tuple(matrix), bool(missing), tuple(classes), ())
    worst = sorted(pairs, key=lambda pair: -pair[2])[:10]
    return Confusion(labels, (), bool(missing), tuple(classes), tuple(worst))


def _class(label: str, values: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    shares = (held(values, key) for key in ("precision", "recall", "f1"))
    precision, recall, f1 = shares
    return label, precision, recall, f1, str(values.get("support", NOT_MEASURED))


def short_names(results: Sequence[Result]) -> list[str]:
    """The shortest ends of their paths by which they are told apart."""
    for parts in (1, 2, 3):
        names = ["/".join([*result.path.parts[-parts:-1], result.name]) for result in results]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({number})" for number, name in enumerate(names, 1)]
