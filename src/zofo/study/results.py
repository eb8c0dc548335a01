"""A run's numbers as comparisons and reports read them: from its directory, or from the one file that is kept of it.

`kept` writes that file: settings, run.json, the curves and an outcome for each test example, a few tens of KB, without
a row's text and without weights, so it can be committed or sent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zofo.api.standing import standing
from zofo.config.json_text import dumps, read_json
from zofo.config.yaml_reader import read_yaml
from zofo.errors import InputError
from zofo.train.ending import Ending
from zofo.train.files import looks_like_run, write_text
from zofo.train.run_dir import RunDir

FORMAT = "zofo.kept/1"
CURVE = ("step", "loss", "loss_s", "loss_p", "G", "c", "seconds")  # of a train line, what an older kept file has


@dataclass(frozen=True)
class Outcome:
    """Of one test example. score: its share in the leading metric, None where it has none; loss: in nats a token."""

    id: str
    score: float | None
    loss: float | None


@dataclass(frozen=True)
class Result:
    """A run. path: its directory, or the file that was kept. settings: "section.field" to value, all of them.

    info: run.json; {} of a run that is not at its end. events: the lines of metrics.jsonl, in order. ending: how the
    run stands. trials: the runs that were tried to choose its settings, itself one of them; 1 where nothing was tuned.
    """

    path: Path
    settings: Mapping[str, Any]
    info: Mapping[str, Any]
    events: tuple[Mapping[str, Any], ...]
    ending: Ending
    trials: int = 1
    _outcomes: Mapping[str, tuple[Outcome, ...]] | None = None

    @property
    def name(self) -> str:
        return self.path.stem if self.path.is_file() else self.path.name

    @property
    def finished(self) -> bool:
        return bool(self.info)

    @property
    def method(self) -> str:
        return str(self.settings.get("method.name"))

    @property
    def adapter(self) -> str | None:
        return self.settings.get("adapter.name")

    @property
    def task(self) -> str:
        return str(self.info.get("task") or Path(str(self.settings.get("task.name") or "rows")).name)

    @property
    def model(self) -> str:
        return str(self.settings.get("model.name"))

    @property
    def seed(self) -> int:
        return int(self.settings.get("train.seed", 0))

    @property
    def metric(self) -> str:
        """The one that leads, such as accuracy; more of it is better."""
        known = (key for key in self.test or self.dev if key not in ("loss", "n"))
        return str(self.info.get("metric") or next(known, "loss"))

    @property
    def deployed(self) -> str:
        return str(self.info.get("deployed", "theta"))

    @property
    def dev(self) -> Mapping[str, Any]:
        """Of what is deployed, at the best step: loss, metrics, n; {} before the end."""
        return self.info.get("dev", {}).get(self.deployed, {})

    @property
    def test(self) -> Mapping[str, Any]:
        """Of what is deployed; {} before the end, and where the test set was not scored."""
        return self.info.get("test", {}).get(self.deployed, {})

    @property
    def counted_steps(self) -> int | None:
        """Updates of all levels."""
        return None if "steps" not in self.info else sum(self.info["steps"].values())

    @property
    def forward_equivalents(self) -> float | None:
        """Forwards of one batch of `batch_size` examples, and two more for each backward pass."""
        if "examples_seen" not in self.info:
            return None
        return self.info["examples_seen"] / self.settings["train.batch_size"] + 2 * self.info["backward_passes"]

    @property
    def seconds(self) -> float | None:
        """Of training and its evaluations."""
        return self.info.get("seconds")

    def of(self, event: str, candidate: str | None = None) -> list[Mapping[str, Any]]:
        """The lines of metrics.jsonl of one kind ("train", "dev"), of dev those of one candidate."""
        chosen = (line for line in self.events if line.get("event") == event)
        return [line for line in chosen if candidate is None or line.get("candidate") == candidate]

    def outcomes(self, candidate: str | None = None) -> tuple[Outcome, ...]:
        """Of each test example, in the file's order; candidate: what is deployed if left out. () where nothing was
        kept of them."""
        candidate = candidate or self.deployed
        if self._outcomes is not None:
            return self._outcomes.get(candidate, ())
        return tuple(_outcome(row, self.metric) for row in self.rows(candidate))

    def rows(self, candidate: str | None = None) -> list[dict[str, Any]]:
        """The lines of predictions.jsonl; [] where they are not there, as in a kept file. Raises InputError."""
        file = self.path / "eval" / f"predictions-{candidate or self.deployed}.jsonl"
        return list(_lines(file)) if self.path.is_dir() and file.is_file() else []

    def report(self, candidate: str | None = None) -> dict[str, Any]:
        """Precision, recall and F1 of each class, and the confusion matrix; {} where they are not there, as in a kept
        file. Raises InputError."""
        file = self.path / "eval" / f"report-{candidate or self.deployed}.json"
        return read_json(file) if self.path.is_dir() and file.is_file() else {}


def read(path: str | Path) -> Result:
    """A run's directory, finished or not, or a kept file. Raises InputError."""
    path = Path(path)
    if path.is_file():
        return _read_kept(path)
    if not looks_like_run(path):
        near = [] if not path.is_dir() else [one.name for one in sorted(path.iterdir()) if looks_like_run(one)]
        hint = f"; there are runs in it: {near[0]}, ... ({len(near)})" if near else ""
        raise InputError(f"{path}: no run{'' if path.exists() else ', and no such file or directory'}{hint}")
    run = RunDir(path)
    settings = dict(_flat(read_yaml(run.config, "config"))) if run.config.is_file() else {}
    info = run.read_info() if run.finished else {}
    trials = info.get("study", {}).get("trials", 1)  # `zofo sweep` writes it into the runs of a row's chosen settings
    return Result(path, settings, info, tuple(_lines(run.metrics)), standing(run), trials)


def runs_in(path: Path) -> list[Path]:
    """The runs' directories and kept files at a path: itself, or those below it, in the names' order. A run's own
    directories are not looked into."""
    if path.is_file() or looks_like_run(path):
        return [path]
    found = list[Path]()
    for one in sorted(path.iterdir(), key=lambda one: _natural(one.name)) if path.is_dir() else ():
        if one.is_dir() and not one.name.startswith("."):
            found += runs_in(one)
        elif one.suffix == ".json" and _is_kept(one):
            found.append(one)
    return found


def kept(result: Result, path: Path) -> Path:
    """Write the file that is kept of a finished run. Raises InputError for one that is not at its end."""
    if not result.finished:
        raise InputError(f"{result.path}: the run is not at its end; go on with it (--resume latest)")
    outcomes = {
        candidate: [[one.id, one.score, one.loss] for one in result.outcomes(candidate)]
        for candidate in result.info.get("test", {})
    }
    content = {"format": FORMAT, "settings": dict(result.settings), "info": dict(result.info), "trials": result.trials}
    content |= {"events": list(result.events), "outcomes": outcomes}
    write_text(path, dumps(content, indent=None, sort_keys=True) + "\n")
    return path


def _read_kept(path: Path) -> Result:
    content = read_json(path)
    if content.get("format") == FORMAT:
        outcomes = {name: tuple(Outcome(*one) for one in rows) for name, rows in content["outcomes"].items()}
        info, events = content["info"], tuple(content["events"])
        ending = Ending.read(info.get("outcome"))
        return Result(path, content["settings"], info, events, ending, content.get("trials", 1), outcomes)
    if not {"settings", "test", "dev_curve"} <= set(content):
        raise InputError(f"{path}: neither a run's directory nor a file that is kept of one (zofo report --keep)")
    info = {key: value for key, value in content.items() if key not in ("settings", "dev_curve", "train_curve")}
    named = {"method.name": info.get("method"), "adapter.name": info.get("adapter"), "task.name": info.get("task")}
    settings = named | {"train.seed": info.get("seed", 0)} | content["settings"]
    events = [{"event": "dev", **line} for line in content["dev_curve"]]
    events += [{"event": "train", **line} for line in content.get("train_curve", ())]
    return Result(path, settings, info, tuple(events), Ending("unknown"), 1, {})


def _is_kept(path: Path) -> bool:
    try:
        content = read_json(path)
    except InputError:
        return False
    return content.get("format") == FORMAT or {"settings", "test", "dev_curve"} <= set(content)


def with_trials(result: Result, trials: int) -> Result:
    return replace(result, trials=trials)


def _outcome(row: Mapping[str, Any], metric: str) -> Outcome:
    score = row.get("correct") if metric == "loss" else row.get(metric, row.get("correct"))
    loss = row.get("loss")
    return Outcome(str(row["id"]), None if score is None else float(score), loss)


def _flat(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for section, fields in tree.items():
        if isinstance(fields, Mapping):
            yield from ((f"{section}.{key}", value) for key, value in fields.items())
        else:
            yield section, fields


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """A file of JSON lines. The last one may be torn: it is being written, or a kill cut it."""
    if not path.is_file():
        return
    lines = path.read_text("utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except ValueError:
            if number == len(lines):
                return
            raise InputError(f"{path}:{number}: is no JSON") from None
        if not isinstance(content, dict):
            raise InputError(f"{path}:{number}: expected one JSON object")
        yield content


def _natural(name: str) -> list[tuple[int, str]]:
    """trial-2 before trial-10."""
    parts, digits = [], ""
    for char in name + " ":
        if char.isdigit():
            digits += char
            continue
        if digits:
            parts.append((int(digits), ""))
            digits = ""
        parts.append((-1, char))
    return parts


def finite(values: Iterable[float | None]) -> list[float]:
    """Those that are numbers."""
    return [value for value in values if value is not None and math.isfinite(value)]
