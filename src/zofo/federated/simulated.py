"""Clients of a simulation, in the process of a Flower actor, which keeps them open from one question to the next."""

from __future__ import annotations

import atexit
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from zofo.federated.book import FILE
from zofo.federated.client import Client
from zofo.federated.settings import read
from zofo.federated.split import part

if TYPE_CHECKING:
    from flwr.app import Context  # pyright: ignore[reportMissingImports]

SAVE_EVERY = 50  # estimates between two checkpoints: what a kill costs is asked again


def client_of(context: Context) -> Client:
    return opened(str(context.run_config["root"]), int(str(context.node_config["partition-id"])))


@cache
def opened(root: str, number: int) -> Client:
    """The client of this number; its directory is ROOT/clients/NUMBER."""
    settings = read(Path(root) / FILE)
    torch.set_num_threads(settings.run.train.threads or torch.get_num_threads())
    simulation = settings.simulation
    rows = part(number, simulation.clients, simulation.alpha)
    client = Client(settings, Path(root) / "clients" / str(number), str(number), task=rows, save_every=SAVE_EVERY)
    atexit.register(client.__exit__)
    return client
