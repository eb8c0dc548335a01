"""Flower's two ends: the app that a SuperLink runs, and that of a SuperNode. Nothing else of zofo imports flwr.

A message holds one ConfigRecord "zofo" with one entry "body", bytes (`messages`). Written for flwr 1.42; `engine`
starts what runs it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict  # pyright: ignore[reportMissingImports]
from flwr.clientapp import ClientApp  # pyright: ignore[reportMissingImports]
from flwr.serverapp import Grid, ServerApp  # pyright: ignore[reportMissingImports]

from zofo.errors import InputError, RunError
from zofo.federated.book import FILE, Book
from zofo.federated.faults import Faulty
from zofo.federated.messages import Status, reply
from zofo.federated.server import Server, Wire
from zofo.federated.settings import Settings, read

log = logging.getLogger("zofo")
ACTION = "query.zofo"
PAUSE = 0.02  # seconds between two looks for answers, at first; then up to a second
server_app, client_app = ServerApp(), ClientApp()


def _record(body: bytes) -> RecordDict:
    return RecordDict({"zofo": ConfigRecord({"body": body})})


def _body(message: Message) -> bytes:
    body = message.content["zofo"]["body"] if message.has_content() else b""  # pyright: ignore
    return body if isinstance(body, bytes) else b""


class FlowerWire:
    """Messages by Flower's Grid. ttl: seconds after which a question has come to nothing."""

    def __init__(self, grid: Grid, ttl: float) -> None:
        self.grid, self.ttl = grid, ttl
        self._open: dict[str, tuple[int, float]] = {}  # {message: (client, when it is given up)}
        self._pause = PAUSE

    def clients(self) -> list[int]:
        return list(self.grid.get_node_ids())

    def send(self, questions: Mapping[int, bytes]) -> None:
        if not questions:
            return
        messages = [Message(_record(raw), client, ACTION, ttl=self.ttl) for client, raw in questions.items()]
        end, self._pause = time.monotonic() + self.ttl, PAUSE
        for client, sent in zip(questions, self.grid.push_messages(messages), strict=True):
            self._open[sent or f"unsent {client}"] = (client, end if sent else 0.0)

    def replies(self) -> Iterable[tuple[int, bytes | None]]:
        sent = [name for name in self._open if not name.startswith("unsent")]
        came = list(self.grid.pull_messages(sent)) if sent else []
        for message in came:
            if (asked := self._open.pop(message.metadata.reply_to_message_id, None)) is not None:
                yield asked[0], _body(message)
        now = time.monotonic()
        for name, (client, end) in list(self._open.items()):
            if now > end:
                del self._open[name]
                yield client, b""
        if not came:
            time.sleep(self._pause)
            self._pause = min(1.0, 1.5 * self._pause)


@server_app.main()
def serve(grid: Grid, context: Context) -> None:
    """The rounds. The run's configuration says where the federation's directory is."""
    root, simulated = Path(str(context.run_config["root"])), bool(context.run_config["simulated"])
    settings = read(root / FILE, files=False)
    wire: Wire = FlowerWire(grid, 10 * settings.federation.wait)
    with Book(settings, root) as book:
        if book.round:
            book.say(f"goes on at round {book.round} of {settings.federation.rounds}")
        if simulated:
            wire = Faulty(wire, settings.simulation, lambda: book.round)
        try:
            Server(settings, wire, book, closed=simulated).run()
        except (InputError, RunError) as error:
            book.say(f"error: {error}")  # and no run.json, by which `zofo federated` knows; Flower would trace it


@client_app.query("zofo")
def answer(message: Message, context: Context) -> Message:
    """One question. A node of a deployment ends after it; a simulation's keeps its clients open."""
    body = _body(message)
    try:
        if "partition-id" in context.node_config:
            from zofo.federated.simulated import client_of

            told = client_of(context)(body)
        else:
            from zofo.federated.client import Client

            settings, root, name = _of_node(context)
            with Client(settings, root, name) as client:
                told = client(body)
    except Exception:  # whatever it is, its text stays here
        log.exception("the question came to nothing")
        told = reply(Status.FAILED)
    return Message(_record(told), reply_to=message)


def _of_node(context: Context) -> tuple[Settings, Path, str]:
    """Of a client of a deployment: its own file, its directory, its name."""
    node = context.node_config
    root = Path(str(node["root"]))
    return read(root / FILE), root / "run", str(node.get("name", ""))
