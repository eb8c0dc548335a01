"""Everything that needs a CUDA device, in one go and resumable: finished parts of the JSON file are not done again.

    python -m benchmarks.gpu --json results/gpu.json [--parts bits,pass,step,memory,run] [--model DIR --data DIR]
    python -m benchmarks.gpu --rehearse          the same code on the CPU with tiny shapes: no figures, it must run

bits    the CUDA kernels' bits against the CPU's: dtypes x laws x roundings x band x slices, rows, split, sum of squares
pass    one pass over theta against a device copy of the same bytes, SmolLM2- and OPT-1.3B-sized, fp32 and bf16
step    steps over the limit (two forwards) in bf16 at 1024 and 4096 tokens: MeZO and Bilevel ZOFO, random models
memory  peak bytes of these steps over the weights
run     a short real fine-tune (--model, --data), Bilevel ZOFO with LoRA

Where there is no CUDA device it says so and writes "not measured".
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks._machine import facts
from benchmarks._random import MODELS, T, world
from zofo.config.json_text import dumps
from zofo.zo import kernels
from zofo.zo.direction import Direction
from zofo.zo.grad import ZOGrad
from zofo.zo.kernels import reference
from zofo.zo.laws import GAUSSIAN, RADEMACHER

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Device:
    """cuda, or in a rehearsal the CPU; its clock."""

    def __init__(self, rehearse: bool) -> None:
        self.rehearse, self.name = rehearse, "cpu" if rehearse else "cuda"

    def seconds(self, run: Callable[[], object], repeats: int) -> float:
        """Median of `repeats`, after one that compiles."""
        times = []
        for turn in range(repeats + 1):
            self._wait()
            start = time.perf_counter()
            run()
            self._wait()
            if turn:
                times.append(time.perf_counter() - start)
        return median(times)

    def peak(self, run: Callable[[], object]) -> float | None:
        """MiB over what is allocated before."""
        if self.rehearse:
            run()
            return None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def _wait(self) -> None:
        if not self.rehearse:
            torch.cuda.synchronize()


def weights(n: int, dtype: torch.dtype) -> Tensor:
    """Numbers of all sizes, some special."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, generator=generator) * 10.0 ** torch.randint(-6, 3, (n,), generator=generator)
    special = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), 1e-40, -1e-40, 65504.0, 3e38])[:n]
    x[: len(special)] = special
    return x.to(dtype)


def bits(device: Device, args: argparse.Namespace) -> dict[str, Any]:
    """Each case must be equal to the last bit; the first that is not raises."""
    n, cases = (4096 + 37 if device.rehearse else 5 * 4096 + 37), 0
    terms = [(123456789, 1e-3), (2**63 + 5, -0.37)]
    grid = product(DTYPES, (RADEMACHER, GAUSSIAN), (None, 99), (None, (0.0, 0.5)), ((0, n), (4096 - 5, n - 3)))
    for dtype, law, rounding, band, (lo, hi) in grid:
        src = weights(n, dtype)[lo:hi].clone()
        here, there = torch.empty_like(src), torch.empty_like(src, device=device.name)
        kernels.add(here, src, terms, 42, lo, rounding, law, band)
        kernels.add(there, src.to(device.name), terms, 42, lo, rounding, law, band)
        _same(here, there, (dtype, law, rounding, band, lo))
        cases += 1
    for dtype, law in product(DTYPES, (RADEMACHER, GAUSSIAN)):
        table = weights(64 * 96, dtype).view(64, 96)
        rows = torch.tensor([3, 0, 63, 17])
        here, there = torch.empty(4, 96, dtype=dtype), torch.empty(4, 96, dtype=dtype, device=device.name)
        kernels.add_rows(here, table, rows, terms, 7, 5, law)
        kernels.add_rows(there, table.to(device.name), rows.to(device.name), terms, 7, 5, law)
        _same(here, there, (dtype, law, "rows"))
        params = [weights(k, dtype) for k in (5, 4096, 70_001 if not device.rehearse else 5000)]
        moved = [p.to(device.name, copy=True) for p in params]
        kernels.add_many([(p, p, 9 + i, None) for i, p in enumerate(params)], terms, 3, law)
        kernels.add_many([(p, p, 9 + i, None) for i, p in enumerate(moved)], terms, 3, law)
        for i, (p, m) in enumerate(zip(params, moved)):
            _same(p, m, (dtype, law, "many", i))
        cases += 2
    high, low = kernels.split(weights(n, torch.float32))
    there_high, there_low = (plane.to(device.name, copy=True) for plane in (high, low))
    kernels.add_split(high, low, terms, 11)
    kernels.add_split(there_high, there_low, terms, 11)
    _same(high, there_high, "split, high")
    _same(low, there_low, "split, low")
    here, there = (kernels.sum_squares(n, 5, 6, where) for where in ("cpu", device.name))
    if here != there or here != reference.sum_squares(n, 5, 6):
        raise SystemExit(f"sums of squares differ: {here}, {there}")
    return {"cases": cases + 3, "equal": True}


def _same(here: Tensor, there: Tensor, case: object) -> None:
    there = there.cpu()
    width = torch.int32 if here.dtype == torch.float32 else torch.int16
    wrong = (here.view(width) != there.view(width)) & ~(here.isnan() & there.isnan())
    if wrong.any():
        at = int(wrong.nonzero()[0])
        raise SystemExit(f"bits differ in {case} at {at}: {here[at].item()!r} here, {there[at].item()!r} there")


def passes(device: Device, args: argparse.Namespace) -> dict[str, Any]:
    results = {}
    for model, dtype in product(MODELS, (torch.float32, torch.bfloat16)):
        w = world(model, dtype, device.name, tiny=device.rehearse)
        theta, g = w.problem.theta, ZOGrad(((1.0, Direction(7)),), 0.0, 0)
        params = list(theta.params.values())
        other = [torch.empty_like(p) for p in params]

        def copy(other: list[Tensor] = other, params: list[Tensor] = params) -> None:
            torch._foreach_copy_(other, params)  # pyright: ignore[reportPrivateImportUsage]

        ours = {law: device.seconds(_Update(theta, law), args.repeats) for law in (RADEMACHER, GAUSSIAN)}
        device_copy = device.seconds(copy, args.repeats)
        nearest = device.seconds(lambda theta=theta, g=g: theta.add_(g, 0.0, None), args.repeats)
        results[f"{model} {str(dtype)[6:]}"] = {
            "weights": theta.size,
            "device copy s": device_copy,
            "nearest s": nearest,
            **{f"{law} s": s for law, s in ours.items()},
            **{f"{law} / copy": s / device_copy for law, s in ours.items()},
            "gb_per_s": 2 * theta.nbytes / ours[RADEMACHER] / 1e9,
        }
        del w, theta, params, other
    return results


class _Update:
    """One update of theta by nothing along a direction of this law, rounded stochastically."""

    def __init__(self, theta: Any, law: str) -> None:
        self.theta, self.g = theta, ZOGrad(((1.0, Direction(7, law)),), 0.0, 0)

    def __call__(self) -> None:
        self.theta.add_(self.g, 0.0, 1)


def steps(device: Device, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds, ratios and peaks of one step of each method. The rates are 0, so every repeat is the same."""
    results = {}
    for model, tokens in product(MODELS, (1024, 4096)):
        rows, length = (2, 16) if device.rehearse else (tokens // 256, 256)
        w = world(model, torch.bfloat16, device.name, tiny=device.rehearse)
        f, loss = w.use(rows, length), w.problem.loss
        p = next(w.problem.streams["p"])

        def limit(loss: Any = loss, f: Any = f) -> None:
            for _ in range(2):
                loss(f)

        def mixed(loss: Any = loss, f: Any = f, p: Any = p) -> None:
            for _ in range(2):
                loss.each([(f, "p"), (p, "p"), (p, "s")])

        steps = w.steps(T)
        variants = {"limit": limit, "mixed x 2": mixed, "mezo": steps["mezo"], "fo": steps["fo-peft"]}
        variants["bilevel"] = steps["bilevel-zofo"]
        seconds = {
            name: device.seconds(run, args.repeats if name != "bilevel" else 2) for name, run in variants.items()
        }
        results[f"{model} {rows}x{length}"] = {
            "seconds": seconds,
            "mezo / limit": seconds["mezo"] / seconds["limit"],
            "peak_mib": {
                n: None if b is None else b / 2**20 for n, b in ((n, device.peak(r)) for n, r in variants.items())
            },
        }
        print(dumps({f"{model} {rows}x{length}": results[f"{model} {rows}x{length}"]}), flush=True)
        del w, variants, loss, limit, mixed
    return results


def run(device: Device, args: argparse.Namespace) -> Any:
    """A short real fine-tune; its files stay in out/gpu."""
    if not args.model:
        return "not measured: give --model and --data"
    from zofo import finetune

    overrides = [f"model.device={device.name}", *([f"task.data={args.data}"] if args.data else [])]
    finished = finetune(
        args.model,
        args.task,
        "bilevel-zofo",
        preset="quickstart",
        output_dir="out/gpu",
        overwrite=True,
        max_steps=22 if device.rehearse else 330,
        overrides=overrides,
    )
    return {"test": finished.test, "seconds": finished.info["seconds"]}


PARTS = {"bits": bits, "pass": passes, "step": steps, "run": run}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--model")
    parser.add_argument("--task", default="movie-reviews")
    parser.add_argument("--data")
    parser.add_argument("--rehearse", action="store_true")
    args = parser.parse_args()
    file = Path(args.json) if args.json else None
    if not torch.cuda.is_available() and not args.rehearse:
        print("not measured: this torch sees no CUDA device")
        if file is not None and not file.exists():
            file.write_text(dumps({"gpu": "not measured"}) + "\n")
        return
    results: dict[str, Any] = json.loads(file.read_text()) if file is not None and file.exists() else {}
    results = {"machine": facts(), **{k: v for k, v in results.items() if k not in ("gpu", "machine")}}
    device = Device(args.rehearse)
    for name in args.parts.split(","):
        if name not in results:
            results[name] = PARTS[name](device, args)
            print(dumps({name: results[name]}, indent=2), flush=True)
            if file is not None and not args.rehearse:
                file.write_text(dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
