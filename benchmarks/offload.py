"""MeZO steps of a model whose weights are four times the memory it may use, beside the same in memory.

    python -m benchmarks.offload --model DIR --work DIR [--shape opt-1.3b] [--sizes 4x64:4,16x256:4,64x256:4]
        [--steps 4] [--rounds 2] [--json FILE]

Random weights in the shape of a model (--model gives the tokenizer), random tokens: for seconds and bytes, never for a
loss. --sizes: examples x tokens, and the examples of a micro-batch. Each run is a process of its own, in turn: in
memory, and with the weights in a file in --work, in a cgroup whose limit, page cache included, is a quarter of the
weights (Linux, root; where none can be made, that half is left out). Both end with the same theta, which is compared.
Beside them the disk itself: as many bytes as the weights have, written and synced, and read past the cache.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks._cgroup import limited
from benchmarks._machine import MIB, facts
from zofo.api.check_machine.world import batch as random_batch
from zofo.api.memory import named_shapes
from zofo.api.memory.plan import disk_of
from zofo.config.json_text import dumps, read_json
from zofo.config.sections import ModelConfig


def make_model(shape: str, tokenizer: Path, to: Path) -> Path:
    """A directory with random weights; made once."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if (to / "done").exists():
        return to
    sizes = read_json(named_shapes.FOLDER / f"{shape}.json")
    settings = AutoConfig.for_model(**{key: value for key, value in sizes.items() if key != "architectures"})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    model.save_pretrained(to, max_shard_size="100GB")
    for path in tokenizer.glob("*token*"):
        shutil.copy(path, to / path.name)
    (to / "done").touch()
    return to


def run(model: str, folder: str, rows: int, length: int, micro: int, steps: int) -> dict[str, Any]:
    """In this process: seconds of each step but the first, which finds everything cold, and theta's digest."""
    from zofo.models.load import load
    from zofo.objectives import options
    from zofo.objectives._loss import Loss
    from zofo.zo.direction import Direction
    from zofo.zo.grad import ZOGrad, float32

    began = time.perf_counter()
    loaded = load(ModelConfig(model, dtype="float32", device="cpu", offload_folder=folder or None))
    theta, loss = loaded.point("layer", moves=True), Loss(loaded.scorer(), options.Objective(), None, micro)
    rows_of = random_batch(rows, length, 0, loaded.model.config.vocab_size)
    told, seconds = {"start": time.perf_counter() - began, "weights": theta.nbytes}, []
    with theta.deferring():
        for step in range(steps + 1):
            start, z = time.perf_counter(), Direction(step + 1)
            plus, minus = theta.sides(lambda: loss(rows_of), z, 1e-3, "stochastic")
            theta.add_(ZOGrad(((float32((plus - minus) / 2e-3), z),), plus, 2), -1e-6, step)
            seconds.append(time.perf_counter() - start)
    return {**told, "first": seconds[0], "seconds": seconds[1:], "theta": theta.digest()}


def disk(folder: Path, size: int) -> dict[str, float]:
    """Seconds to write so many bytes and sync them, and to read them past the cache."""
    own = disk_of(folder, size)
    return {"write": size / own.writes, "read": size / own.reads}


def child(args: list[str], group: Any = None) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.offload", "--run", *args]
    command = command if group is None else group.command(command)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(model: Path, work: Path, size: tuple[int, int, int], steps: int, rounds: int) -> dict[str, Any]:
    """One size: in memory and layer by layer, in turn."""
    sizes, runs = [*map(str, size), str(steps)], dict[str, list[dict[str, Any]]](memory=[], layers=[])
    disks, peaks, limit = list[dict[str, float]](), list[int](), 0
    for _ in range(rounds):
        runs["memory"].append(child([str(model), "", *sizes]))
        weights = runs["memory"][0]["weights"]
        limit = weights // 4
        with limited(limit) as group:
            if group is None:
                print("no cgroup can be made here: layer by layer is not measured", file=sys.stderr)
                break
            runs["layers"].append(child([str(model), str(work), *sizes], group))
            peaks.append(group.peak())
        disks.append(disk(work, weights))
    if len({each["theta"] for kind in runs.values() for each in kind}) > 1:
        raise SystemExit("theta differs between the two")
    step = {kind: [median(each["seconds"] or [each["first"]]) for each in of] for kind, of in runs.items() if of}
    found: dict[str, Any] = {
        "weights, MiB": runs["memory"][0]["weights"] / MIB,
        "seconds a step": {kind: {"median": median(values), "all": values} for kind, values in step.items()},
        "start": {kind: median(each["start"] for each in of) for kind, of in runs.items() if of},
    }
    if not disks:
        return found
    own = {what: median(each[what] for each in disks) for what in ("write", "read")}
    ratios = [layers / memory for layers, memory in zip(step["layers"], step["memory"], strict=True)]
    return found | {
        "limit, MiB": limit / MIB,
        "peak, MiB": max(peaks) / MIB,
        "disk, seconds": own,
        "layers / memory": {"median": median(ratios), "min": min(ratios), "max": max(ratios)},
        "layers / disk": median(step["layers"]) / sum(own.values()),
    }


def main() -> None:
    if sys.argv[1:2] == ["--run"]:
        rows, length, micro, steps = map(int, sys.argv[4:])
        print(dumps(run(sys.argv[2], sys.argv[3], rows, length, micro, steps)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--work", required=True, type=Path, help="on the disk, with room for 3 x the weights")
    parser.add_argument("--shape", default="opt-1.3b")
    parser.add_argument("--sizes", default="4x64:4,16x256:4,64x256:4")
    parser.add_argument("--steps", type=int, default=4, help="that are counted, behind a first one; 0: that one")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    model = make_model(args.shape, args.model, args.work / args.shape)
    told = read_json(args.json) if args.json and args.json.exists() else {}
    told |= {"machine": facts(), "model": args.shape}
    for text in args.sizes.split(","):
        size, _, micro = text.partition(":")
        rows, length = map(int, size.split("x"))
        told[size] = compare(model, args.work, (rows, length, int(micro or rows)), args.steps, args.rounds)
        print(dumps({size: told[size]}, indent=1), flush=True)
        if args.json:
            args.json.write_text(dumps(told, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
