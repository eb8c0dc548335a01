"""FedAvg on LoRA, as Flower and PEFT have it: the arm beside which federated zeroth-order training is measured.

Flower's own strategy (McMahan et al., arXiv 1602.05629) averages the adapters by rows. A client trains the one it was
sent for `local_steps` steps of AdamW, whose moments begin at 0 each round, on the rows that `federated.split` deals it.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict  # pyright: ignore[reportMissingImports]
from flwr.clientapp import ClientApp  # pyright: ignore[reportMissingImports]
from flwr.serverapp import Grid, ServerApp  # pyright: ignore[reportMissingImports]
from flwr.serverapp.strategy import FedAvg  # pyright: ignore[reportMissingImports]

from zofo.api.configure import resolve
from zofo.config.json_text import dumps
from zofo.config.yaml_reader import read_yaml
from zofo.federated.split import part
from zofo.train.setup import Session, build

server_app, client_app = ServerApp(), ClientApp()


@cache
def opened(root: str, number: int) -> tuple[Session, dict[str, Any]]:
    """A client's session; number -1: the server's, which scores the test set."""
    content = read_yaml(Path(root) / "fedavg.yaml", "plan")
    plan, simulate = content.pop("fedavg"), content.pop("simulate")
    steps = plan["rounds"] * plan["local_steps"]
    content["train"] = {**content["train"], "max_steps": steps, "output_dir": root}
    config = resolve(None, [], None, source="plan", **content)
    torch.set_num_threads(config.train.threads or 1)
    rows = None if number < 0 else part(number, simulate["clients"], simulate["alpha"])
    return build(dataclasses.replace(config), task=rows), plan


def adapter(session: Session) -> dict[str, Any]:
    assert session.problem.adapters is not None
    return dict(session.problem.adapters.parameters("p"))


def given(session: Session, record: ArrayRecord) -> None:
    values = record.to_torch_state_dict()
    with torch.no_grad():
        for name, parameter in adapter(session).items():
            parameter.copy_(values[name])


def session_of(context: Context) -> tuple[Session, dict[str, Any]]:
    return opened(str(context.run_config["root"]), int(str(context.node_config["partition-id"])))


def scores(session: Session, split: str) -> dict[str, float]:
    assert session.problem.adapters is not None
    with session.problem.adapters.active("p"):
        return session.evaluator(session.encoded[split]).values


@client_app.train()
def train(message: Message, context: Context) -> Message:
    session, plan = session_of(context)
    given(session, message.content["arrays"])  # type: ignore[arg-type]
    for descent in session.method.optimizers().values():
        descent.load_state_dict({})
    losses = [session.method.step(step)["loss"] for step in range(plan["local_steps"])]
    arrays = ArrayRecord({name: value.detach() for name, value in adapter(session).items()})
    metrics = MetricRecord({"num-examples": len(session.encoded["train"]), "loss": sum(losses) / len(losses)})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@client_app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    session, _ = session_of(context)
    given(session, message.content["arrays"])  # type: ignore[arg-type]
    values, n = scores(session, "dev"), len(session.encoded["dev"])
    metrics = MetricRecord({"num-examples": n, "loss": values["loss"], "accuracy": values["accuracy"]})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@server_app.main()
def serve(grid: Grid, context: Context) -> None:
    root = str(context.run_config["root"])
    session, plan = opened(root, -1)
    first = ArrayRecord({name: value.detach() for name, value in adapter(session).items()})
    result = FedAvg(min_available_nodes=10).start(grid, first, num_rounds=plan["rounds"])
    given(session, result.arrays)
    size = sum(value.numel() * value.element_size() for value in adapter(session).values())
    curve = result.evaluate_metrics_clientapp
    dev = [{"step": k, "loss": values["loss"], "metric": values["accuracy"]} for k, values in sorted(curve.items())]
    values = scores(session, "test")
    told = {
        "rounds": plan["rounds"],
        "dev": dev,
        "bytes_up": plan["rounds"] * size,
        "bytes_down": plan["rounds"] * size,
        "test": {"loss": values["loss"], "accuracy": values["accuracy"]},
    }
    (Path(root) / "result.json").write_text(dumps(told, indent=1) + "\n", "utf-8")
