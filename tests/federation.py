"""A federation in one process: every message goes through its bytes, and is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import sentiment_rows, write_rows
from zofo.config.yaml_reader import dump
from zofo.federated.book import Book
from zofo.federated.client import Client
from zofo.federated.faults import Faulty
from zofo.federated.server import Server, Wire
from zofo.federated.settings import Settings, read


class Local:
    """Clients by number, asked as soon as a question is sent. seen: every message, (client, which way, bytes)."""

    def __init__(self, clients: Mapping[int, Callable[[bytes], bytes]]) -> None:
        self.by_number = dict(clients)
        self.seen: list[tuple[int, str, bytes]] = []
        self._answers: list[tuple[int, bytes]] = []

    def clients(self) -> list[int]:
        return list(self.by_number)

    def send(self, questions: Mapping[int, bytes]) -> None:
        for client, raw in questions.items():
            answer = self.by_number[client](raw)
            self.seen += [(client, "down", raw), (client, "up", answer)]
            self._answers.append((client, answer))

    def replies(self) -> Iterable[tuple[int, bytes | None]]:
        answers, self._answers = self._answers, []
        return answers


def fed_yaml(root: Path, model: Path, clients: int = 3, **sections: Any) -> Path:
    """A fed.yaml, and a file of rows for each client, no two the same. sections: over those of here."""
    root.mkdir(parents=True, exist_ok=True)
    rows = sentiment_rows(20 * clients)
    for client in range(clients):
        write_rows(root / f"rows-{client}.jsonl", rows[20 * client : 20 * (client + 1)])
    content: dict[str, Any] = {
        "federation": {"rounds": 6, "wait": 0.2, "give_up": 60, "insecure": True, "check_rounds": 3},
        "model": {"name": str(model), "dtype": "float32"},
        "method": {"name": "mezo", "lr": 1e-3},
        "estimator": {"name": "spsa", "eps": 1e-3},
        "task": {"train_file": str(root / "rows-0.jsonl")},
        "train": {"batch_size": 4, "threads": 1, "seed": 5},
    }
    for name, section in sections.items():
        content[name] = section if name == "method" else {**content.get(name, {}), **section}
    (path := root / "fed.yaml").write_text(dump(content), "utf-8")
    return path


@contextmanager
def clients_of(path: Path, numbers: Iterable[int], *more: str, **options: Any) -> Iterator[dict[int, Client]]:
    """Clients of a fed.yaml, each with its own rows and directory beside it."""
    with ExitStack() as stack:
        out = {}
        for number in numbers:
            settings = read(path, [f"task.train_file={path.parent / f'rows-{number}.jsonl'}", *more])
            client = Client(settings, path.parent / f"client-{number}", str(number), **options)
            out[number] = stack.enter_context(client)
        yield out


def serve(path: Path, wire: Local, *more: str, name: str = "server") -> Settings:
    """All rounds, with the failures that the file simulates."""
    settings = read(path, more)
    with Book(settings, path.parent / name) as book:
        faulty: Wire = Faulty(wire, settings.simulation, lambda: book.round)
        Server(settings, faulty, book).run()
    return settings
