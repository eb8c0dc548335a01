"""Ten clients with skewed labels: federated zeroth-order training beside FedAvg on LoRA, at equal local compute.

    python -m experiments.federated --model DIR --data DIR --work DIR [--arms same,own] [--threads 1]

In an environment with Flower (zofo[flower]). An arm is a section of federated_plan.yaml; each runs on Flower's own
simulation engine, FedAvg with Flower's strategy and PEFT's LoRA. One file an arm in results/federated/; an arm that has
one is not run again, one that was cut goes on. `python -m benchmarks.page` writes them into docs/scale.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Any

from zofo.config.json_text import dumps, read_json
from zofo.config.yaml_reader import dump, read_yaml

ROOT = Path(__file__).resolve().parents[1]
PLAN = Path(__file__).with_name("federated_plan.yaml")
RESULTS = ROOT / "results" / "federated"
FEDAVG = "from experiments.federated_fedavg import client_app, server_app\n\n__all__ = ['client_app', 'server_app']\n"


def arm_of(name: str, model: Path, data: Path, threads: int) -> dict[str, Any]:
    """The sections of an arm's file."""
    plan = read_yaml(PLAN, "plan")
    out = {section: dict(content) for section, content in plan["common"].items()}
    for section, content in plan["arms"][name].items():
        out[section] = {**out.get(section, {}), **content}
    out["model"] = {"name": str(model), "dtype": "float32"}
    out["task"] |= {"name": str(data)}
    out["train"]["threads"] = threads
    return out


def run(name: str, model: Path, data: Path, work: Path, threads: int) -> dict[str, Any]:
    """One arm, to its end. Returns what is written of it."""
    content, root, start = arm_of(name, model, data, threads), work / name, time.time()
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"{name}.yaml"
    if "fedavg" in content:
        content.pop("federation")
        path.write_text(dump(content), "utf-8")
        told = fedavg(root, path, content["simulate"]["clients"])
    else:
        path.write_text(dump(content), "utf-8")
        command = [sys.executable, "-m", "zofo", "federated", "simulate", str(path), "--output-dir", str(root)]
        subprocess.run(command, check=True)
        told = of_a_federation(root, name)
    return told | {"arm": name, "seconds": round(time.time() - start, 1), "plan": read_yaml(PLAN, "plan")["arms"][name]}


def of_a_federation(root: Path, name: str) -> dict[str, Any]:
    """Curve, bytes and the test set: of theta, or the mean of the clients' own (theta, s) where they have adapters."""
    lines = [json.loads(line) for line in (root / "metrics.jsonl").read_text("utf-8").splitlines()]
    rounds = [line for line in lines if line["event"] == "round"]
    told = read_json(root / "run.json")["federation"]
    curve = [{k: line[k] for k in ("step", "loss", "metric")} for line in lines if line["event"] == "dev"]
    own = [path.parent for path in sorted(root.glob("clients/*/run.json"))]
    targets = own if name == "bilevel" else [root]
    tests = [scored(target) for target in targets]
    return {
        "rounds": len(rounds),
        "dev": curve,
        "bytes_up": told["bytes_up"] / len(told["clients"]),
        "bytes_down": told["bytes_down"] / len(told["clients"]),
        "test": {key: mean(test[key] for test in tests) for key in ("loss", "accuracy")},
        "test_of_each": [test["accuracy"] for test in tests],
    }


def scored(target: Path) -> dict[str, float]:
    config = read_yaml(target / "config.yaml", "config")
    command = [sys.executable, "-m", "zofo", "eval", str(target), "--task", str(config["task"]["name"])]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def fedavg(root: Path, path: Path, clients: int) -> dict[str, Any]:
    from zofo.federated import engine
    from zofo.federated.sections import Federation

    root.mkdir(parents=True, exist_ok=True)
    (root / "fedavg.yaml").write_text(path.read_text("utf-8"), "utf-8")
    with engine.superlink(Federation(insecure=True), root, engine.free_port(), simulated=True) as link:
        code = engine.run_app(root, link, True, engine.resources_for(clients), FEDAVG)
    if code or not (root / "result.json").is_file():
        raise SystemExit(f"{root}: FedAvg did not come to its end")
    return read_json(root / "result.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="a directory of train, validation and test rows")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--arms", default=",".join(read_yaml(PLAN, "plan")["arms"]))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in args.arms.split(","):
        if not (path := RESULTS / f"{name}.json").is_file():
            told = run(name, args.model.resolve(), args.data.resolve(), args.work.resolve(), args.threads)
            path.write_text(dumps(told, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
