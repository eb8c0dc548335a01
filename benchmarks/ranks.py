"""One and two processes with one thread each: seconds a step and bytes on the wire, in one interleaved run.

    python -m benchmarks.ranks --model DIR --data DIR [--steps 12] [--rounds 3] [--json FILE]
    python -m benchmarks.ranks --model DIR --data DIR --delay .05 --loss .01    (Linux, root, iproute2)

Each run is `zofo train` as a user starts it, 16 examples a batch; the two processes are started by `--nproc 2`. With
--delay they stand in network namespaces of their own, joined by a link (benchmarks/_link.py) that is so many seconds
late in each direction and loses such a share of its packets; bytes on the interface are counted beside the payload's.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._link import ADDRESSES, NAMES, link
from benchmarks._machine import facts
from zofo.config.json_text import dumps, read_json

METHODS = {
    "mezo": ["--method", "mezo", "method.lr=1e-6"],
    "bilevel-zofo": ["--method", "bilevel-zofo", "method.inner_steps=3"],
}


def train(model: str, data: Path, out: Path, method: str, steps: int) -> list[str]:
    files = [f"task.{split}_file={data / f'{split}.jsonl'}" for split in ("train", "test")]
    cadence = [f"train.max_steps={steps}", "train.score_test=false", "task.dev_examples=16", "train.batch_size=16"]
    fixed = [sys.executable, "-m", "zofo", "train", "--model", model, *files, *METHODS[method], *cadence]
    return [*fixed, "train.threads=1", "train.eval_steps=100000", "train.save_steps=100000", "--output-dir", str(out)]


def finished(command: list[str], out: Path, env: dict[str, str] | None = None) -> dict[str, Any]:
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)}\n{done.stderr[-2000:]}")
    info = read_json(out / "run.json")
    return {"seconds": info["seconds_per_step"], "ranks": info["ranks"]}


def on_interface(side: str) -> int:
    """Bytes that an interface has sent and received."""
    folder = f"/sys/class/net/{side}/statistics"
    command = ["ip", "netns", "exec", side, "cat", f"{folder}/tx_bytes", f"{folder}/rx_bytes"]
    return sum(map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()))


def over_the_link(command: list[str], out: Path) -> dict[str, Any]:
    """Two ranks, one in each namespace, as a launcher on two machines would start them."""
    before, started = on_interface(NAMES[0]), []
    for rank, name in enumerate(NAMES):
        world = {
            "WORLD_SIZE": "2",
            "RANK": str(rank),
            "LOCAL_RANK": "0",
            "MASTER_ADDR": ADDRESSES[0],
            "MASTER_PORT": "29400",
        }
        env = {**os.environ, **world, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": name}
        started.append(
            subprocess.Popen(["ip", "netns", "exec", name, *command], env=env, stderr=subprocess.PIPE, text=True)
        )
    errors = [process.communicate()[1] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit("\n".join(error[-2000:] for error in errors))
    info = read_json(out / "run.json")
    steps = sum(info["steps"].values())
    return {
        "seconds": info["seconds_per_step"],
        "ranks": info["ranks"],
        "interface bytes a counted step, start and end included": (on_interface(NAMES[0]) - before) / steps,
    }


def measure(model: str, data: Path, steps: int, rounds: int, far: bool) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for method in METHODS:
        ways: dict[str, Callable[[list[str], Path], dict[str, Any]]] = {
            "one": finished,
            "two": lambda command, out: finished([*command, "--nproc", "2"], out),
        }
        if far:
            ways["linked"] = over_the_link
        made: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, act in ways.items():
                with tempfile.TemporaryDirectory() as folder:
                    made[way].append(act(train(model, data, Path(folder) / "run", method, steps), Path(folder) / "run"))
        ratios = [a["seconds"] / b["seconds"] for a, b in zip(made["one"], made["two"])]
        results[method] = {
            "seconds a counted step": {way: median(each["seconds"] for each in runs) for way, runs in made.items()},
            "one / two": {"median": median(ratios), "min": min(ratios), "max": max(ratios)},
            "ranks": {way: runs[-1]["ranks"] for way, runs in made.items() if way != "one"},
        }
        if far:
            slower = [a["seconds"] / b["seconds"] for a, b in zip(made["linked"], made["two"])]
            results[method]["linked / two"] = {"median": median(slower), "min": min(slower), "max": max(slower)}
            key = "interface bytes a counted step, start and end included"
            results[method][key] = median(each[key] for each in made["linked"])
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=12, help="counted steps of a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--delay", type=float, help="seconds, in each direction")
    parser.add_argument("--loss", type=float, default=0.0, help="share of the packets")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    machine = facts()
    given, far = (args.model, args.data, args.steps, args.rounds), args.delay is not None
    with link(args.delay, args.loss) if far else nullcontext():
        results = measure(*given, far)
    apart = {"delay": args.delay, "loss": args.loss} if far else None
    text = dumps({"machine": machine, "link": apart, "steps": args.steps, **results}, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
