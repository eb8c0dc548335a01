"""The map of signal: is a gradient of the backbone left at the start, half way and at the plateau of first-order PEFT?

    python -m experiments.signal_map experiments/signal_map_smollm2.yaml --model DIR --data DIR [--hours 4]
    python -m experiments.signal_map experiments/signal_map_smollm2.yaml --table

A directory of --data holds a folder for each task. A cell is a task and an adapter: a run of fo-peft, and `zofo signal`
at its start, at the checkpoint half way to its best dev step, and there; at the last also on the rows that it was
trained on. A finished part is its file in results/ and is not done again; a run goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zofo.config.json_text import read_json
from zofo.config.yaml_reader import read_yaml
from zofo.train.files import write_json

RESULTS = Path(__file__).parents[1] / "results"
POINTS = (("start", "dev"), ("half", "dev"), ("plateau", "dev"), ("plateau", "train"))
AT = (16, 64, 256)  # batches of the table's shares of signal


@dataclass(frozen=True)
class Cell:
    task: str
    adapter: str

    @property
    def name(self) -> str:
        return f"{self.task}-{self.adapter}"


@dataclass(frozen=True)
class Map:
    """plan: what its file says. results: where the parts are kept."""

    plan: dict[str, Any]
    results: Path

    def cells(self) -> Iterator[Cell]:
        for adapter in self.plan["order"]:
            for task in self.plan["tasks"]:
                yield Cell(task, adapter)

    def file(self, cell: Cell, part: str) -> Path:
        return self.results / f"{cell.name}-{part}.json"

    def parts(self, cell: Cell) -> list[str]:
        return ["run", *(f"{point}-{split}" for point, split in POINTS)]

    def spent(self) -> float:
        """CPU seconds of all parts that are there."""
        return sum(read_json(path)["cpu_seconds"] for path in sorted(self.results.glob("*.json")))


def read_map(path: Path, results: Path = RESULTS) -> Map:
    return Map(read_yaml(path, "plan"), results / path.stem)


def run(of: Map, model: str, data: Path, out: Path, hours: float = 4.0, say: Callable[[str], None] = print) -> None:
    """Every part whose file is not there; none is begun after so many CPU hours of all parts together."""
    for cell in of.cells():
        for part in of.parts(cell):
            if of.file(cell, part).is_file():
                continue
            if of.spent() > 3600 * hours:
                say(f"stopped before {cell.name} {part}: {hours:g} CPU hours are spent")
                return
            began = time.process_time()
            content = _train(of, cell, model, data, out) if part == "run" else _signal(of, cell, part, model, data, out)
            content |= {"task": cell.task, "adapter": cell.adapter, "part": part}
            content["cpu_seconds"] = round(time.process_time() - began, 1)
            of.results.mkdir(parents=True, exist_ok=True)
            write_json(of.file(cell, part), content)
            say(f"{cell.name} {part}: {content['cpu_seconds']:.0f} CPU seconds, {of.spent() / 3600:.2f} hours in all")
        shutil.rmtree(out / cell.name, ignore_errors=True)  # its checkpoints; what is kept of it is in results/


def _config(of: Map, cell: Cell, model: str, data: Path, out: Path) -> Any:
    from zofo.config.resolve import from_dict

    nested: dict[str, Any] = {"model": {"name": model}, "task": {"name": cell.task, "data": str(data / cell.task)}}
    for key, value in {**of.plan["shared"], **of.plan["adapters"][cell.adapter]}.items():
        section, _, name = key.partition(".")
        nested.setdefault(section, {})[name] = value
    resume = "latest" if any((out / cell.name).glob("checkpoint-*")) else None
    nested["train"] |= {"output_dir": str(out / cell.name), "resume": resume, "overwrite": resume is None}
    return from_dict(nested)


def _train(of: Map, cell: Cell, model: str, data: Path, out: Path) -> dict[str, Any]:
    """The dev curve of the cell's run, its best step, and the settings."""
    from zofo.api.finetune import train
    from zofo.study.results import read

    config = _config(of, cell, model, data, out)
    train(config)
    result = read(out / cell.name)
    curve = [{"step": line["step"], "loss": line["loss"]} for line in result.of("dev", "p")]
    info = {key: result.info[key] for key in ("parameters", "best_step", "dev", "test", "environment", "inputs")}
    settings = {key: value for key, value in result.settings.items() if key not in ("model.name", "task.data")}
    return {"dev_curve": curve, "settings": settings, **info}


def _signal(of: Map, cell: Cell, part: str, model: str, data: Path, out: Path) -> dict[str, Any]:
    """`zofo signal` of one point and split."""
    from zofo.study.signal import signal

    point, _, split = part.partition("-")
    best = read_json(of.file(cell, "run"))["best_step"]
    every, rows = of.plan["shared"]["train.eval_steps"], of.plan["tasks"][cell.task]["rows"]
    given: dict[str, Any] = {"split": split, "limit": rows, "directions": of.plan["directions"], "batch_size": 16}
    if point == "start":
        found, step = signal(_config(of, cell, model, data, out / "start"), **given), 0
    else:
        step = best if point == "plateau" else every * round(best / 2 / every)
        if step == 0:  # the best is the first evaluation, or the start
            return {"step": 0, "left_out": f"half way to step {best} is the start"}
        found = signal(out / cell.name / f"checkpoint-{step}", adapter="p", **given)
    content = found.to_dict() | {"step": step}
    content.pop("place")
    return content


def table(of: Map) -> str:
    """A line for each cell and point: the loss, the gradient, a row's variance, the share of signal at some batches."""
    head = ["task", "adapter", "weights", "point", "rows of", "step", "loss", "|g|^2", "variance"]
    head += [f"share at {batch}" for batch in AT]
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2)]
    for cell in of.cells():
        if not of.file(cell, "run").is_file():
            continue
        weights = read_json(of.file(cell, "run"))["parameters"]["adapter"]
        for part in of.parts(cell)[1:]:
            if not (file := of.file(cell, part)).is_file() or "left_out" in (found := read_json(file)):
                continue
            point, _, split = part.partition("-")
            cells = [cell.task, cell.adapter, f"{weights:,}", point, split, str(found["step"]), f"{found['loss']:.3f}"]
            cells += [_interval(found["gradient_squared"], ",.0f"), _interval(found["row_variance"], ",.0f")]
            cells += [_interval(found["share"][str(batch)], ".2f") for batch in AT]
            lines.append(cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _interval(found: list[float | None], form: str) -> str:
    value, low, high = ("-" if each is None else format(each, form) for each in found)
    return f"{value} ({low} to {high})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--data", type=Path)
    parser.add_argument(
        "--output-dir", type=Path, default=Path("out/signal_map"), help="of runs, while they are needed"
    )
    parser.add_argument("--hours", type=float, default=4, help="begin no part after so many CPU hours of all parts")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    of = read_map(args.plan)
    if args.table:
        print(table(of))
        return
    if args.model is None or args.data is None:
        parser.error("--model and --data are needed")
    run(of, args.model, args.data, args.output_dir, args.hours)


if __name__ == "__main__":
    main()
