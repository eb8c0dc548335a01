"""Models of a billion weights: a MeZO step beside its forwards, peaks, and what a checkpoint of theta costs.

    python -m benchmarks.large [--models opt-1.3b,llama-3.2-1b] [--dtypes float32,bfloat16] [--rounds 2] [--json FILE]
    python -m benchmarks.large --snapshot [--json FILE]
    python -m benchmarks.large --bank [--json FILE]

Random weights in the models' shapes, random tokens: for seconds and bytes, never for a loss. Each model and dtype has a
process of its own. In one interleaved run: `limit`, two forwards without a shift, logits only where a label is; `mezo`,
the step around them (layer mode, signs). peaks: of the resident set, over what was there before, the compiled kernels
loaded. checkpoint: theta's snapshot as a run writes it, brought to the disk, beside a file of as many bytes.
--snapshot: this alone, of drawn weights without a model; what the file has of steps stays. --bank: the same of 42
tasks' adapters p and s (LoRA, rank 8, of SmolLM2-135M's shape) with AdamW's moments.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks._machine import MIB, facts, interleaved, peak_over, ratio, summary
from zofo.api.check_machine.world import of_model
from zofo.api.memory import named_shapes
from zofo.config.json_text import dumps, read_json
from zofo.train.checkpoint import save_theta, save_tree
from zofo.train.trees import Write, remove_tree, write_tree
from zofo.zo import kernels

SIZES = ((4, 64), (4, 256))


def measure(name: str, dtype: str, rounds: int) -> dict[str, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = read_json(named_shapes.FOLDER / f"{name}.json")
    settings = AutoConfig.for_model(**{key: value for key, value in shape.items() if key != "architectures"})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(settings, dtype=getattr(torch, dtype))
    world = of_model(model.eval().requires_grad_(False), settings.vocab_size)
    loss, theta, found = world.problem.loss, world.problem.theta, dict[str, Any]()
    some = torch.randn(1 << 18)
    kernels.add(some, some, ((1, 1e-3),), 1)  # numba and LLVM, 100 MiB whatever the model, are loaded
    for rows, length in SIZES if dtype == "float32" else SIZES[:1]:
        batch = world.use(rows, length)
        step = world.steps()["mezo"]

        def limit(batch: Any = batch) -> None:
            for _ in range(2):
                loss(batch)

        variants: dict[str, Callable[[], object]] = {"limit": limit, "mezo": step}
        peaks = {what: peak_over(run) for what, run in variants.items()}  # the first runs, with all that they allocate
        timings = interleaved(variants, rounds)
        found[f"{rows}x{length}"] = {
            "seconds": {what: summary(values) for what, values in timings.items()},
            "mezo / limit": ratio(timings, "mezo", "limit"),
            "peak over the weights, MiB": {what: peak / MIB for what, peak in peaks.items()},
        }
    weights = {"weights": theta.size, "MiB": sum(p.numel() * p.element_size() for p in theta.params.values()) / MIB}
    return weights | found | {"checkpoint": written(lambda folder: save_theta(theta.params, folder), rounds)}


def snapshot(name: str, dtype: str, rounds: int) -> dict[str, Any]:
    """What `measure` has of the checkpoint."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = read_json(named_shapes.FOLDER / f"{name}.json")
    settings = AutoConfig.for_model(**{key: value for key, value in shape.items() if key != "architectures"})
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(settings, dtype=getattr(torch, dtype))
    generator = torch.Generator().manual_seed(0)
    params = {
        key: torch.empty(p.shape, dtype=p.dtype).normal_(generator=generator) for key, p in model.named_parameters()
    }
    return written(lambda folder: save_theta(params, folder), rounds)


def written(save: Write, rounds: int) -> dict[str, Any]:
    """Seconds of `save` as a run keeps it, with checksums and all bytes on the disk, and of a plain file of as many."""
    with tempfile.TemporaryDirectory() as folder:
        place, plain = Path(folder) / "saved", Path(folder) / "plain"
        write_tree(place, save)
        size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
        block = os.urandom(16 * MIB)

        def saved() -> None:
            remove_tree(place)
            write_tree(place, save)

        def copied() -> None:
            with plain.open("wb") as out:
                for start in range(0, size, len(block)):
                    out.write(block[: min(len(block), size - start)])
                out.flush()
                os.fsync(out.fileno())

        timings = interleaved({"saved": saved, "plain": copied}, rounds)
    return {
        "MiB": size / MIB,
        "seconds": {what: summary(values) for what, values in timings.items()},
        "saved / plain": ratio(timings, "saved", "plain"),
    }


def bank(rounds: int) -> dict[str, Any]:
    from zofo.api.check_machine.world import world
    from zofo.models.adapters import lora
    from zofo.models.adapters._bank import Bank

    model: Any = world(torch.device("cpu"), torch.float32).problem.adapters.unwrap()  # pyright: ignore
    tasks = [f"task-{i}" for i in range(42)]
    inner = lora.Adapter(lora.Config()).build(model, Bank.all_members(("p", "s"), tasks), 0)
    adapters, generator = Bank(inner, ("p", "s"), tasks), torch.Generator().manual_seed(0)

    def random(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {key: torch.randn(p.shape, generator=generator) for key, p in params.items()}

    state = {
        name: {"weights": random(params), "exp_avg": random(params), "exp_avg_sq": random(params)}
        for name in ("p", "s")
        for params in (adapters.parameters(name),)
    }
    return {"tasks": len(tasks)} | written(lambda folder: save_tree(folder, "state", state), rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="opt-1.3b,llama-3.2-1b")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--bank", action="store_true")
    parser.add_argument("--snapshot", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, dtype = args.one.split("/")
        print(dumps(measure(name, dtype, args.rounds)))
        return
    results: dict[str, Any] = read_json(args.json) if args.json and args.json.exists() else {}
    if args.bank:
        results["bank"] = {"machine": facts()} | bank(args.rounds)
    elif args.snapshot:
        for name, dtype in product(args.models.split(","), args.dtypes.split(",")):
            found = {"machine": facts()} | snapshot(name, dtype, args.rounds)
            results.setdefault(f"{name} {dtype}", {})["checkpoint"] = found
    else:
        for name in args.models.split(","):
            for dtype in args.dtypes.split(","):
                command = [sys.executable, "-m", "benchmarks.large", "--one", f"{name}/{dtype}"]
                command += ["--rounds", str(args.rounds)]
                done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
                results[f"{name} {dtype}"] = {"machine": facts()} | json.loads(done.stdout.splitlines()[-1])
                print(name, dtype, dumps(results[f"{name} {dtype}"], indent=1), flush=True)
                if args.json:
                    args.json.write_text(dumps(results, indent=1) + "\n", "utf-8")
    print(dumps(results, indent=1))
    if args.json:
        args.json.write_text(dumps(results, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
