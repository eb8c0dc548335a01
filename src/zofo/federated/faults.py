"""A simulation's clients that fail: late, away for a while, lying. A wire around a wire."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping

from zofo.federated.messages import Answer, Ask, Hello, Kind, MessageError, read_reply, reply
from zofo.federated.sections import Simulation
from zofo.federated.server import Wire


class Faulty:
    """Names are the clients' own, as they greet with. round: what the server is at."""

    def __init__(self, wire: Wire, simulation: Simulation, round: Callable[[], int]) -> None:
        self.wire, self.simulation, self.round = wire, simulation, round
        self.names: dict[int, str] = {}
        self._asked: dict[int, Ask] = {}
        self._held: list[tuple[int, int, bytes]] = []  # (round from which it comes, client, answer)

    def clients(self) -> list[int]:
        return [client for client in self.wire.clients() if not self._away(client)]

    def send(self, questions: Mapping[int, bytes]) -> None:
        self._asked |= {client: Ask.unpack(raw) for client, raw in questions.items()}
        self.wire.send(questions)

    def replies(self) -> Iterable[tuple[int, bytes | None]]:
        for client, raw in self.wire.replies():
            if raw is None:
                yield client, None
                continue
            kind = self._asked[client].kind
            if kind is Kind.HELLO:
                self._name(client, raw)
            name = self.names.get(client, "")
            if kind is Kind.ESTIMATE and name in self.simulation.late:
                self._held.append((self.round() + self.simulation.late[name], client, raw))
                yield client, None
            elif self._away(client):  # its answer is lost, which is known when it is back
                self._held.append((self.simulation.lost[name][1], client, b""))
                yield client, None
            else:
                yield client, self._lie(client, kind, raw)
        due = [one for one in self._held if one[0] <= self.round()]
        self._held = [one for one in self._held if one not in due]
        yield from ((client, raw) for _, client, raw in due)

    def _name(self, client: int, raw: bytes) -> None:
        try:
            told = read_reply(Kind.HELLO, raw)
        except MessageError:
            return
        if isinstance(told, Hello):
            self.names[client] = told.name

    def _away(self, client: int) -> bool:
        first, back = self.simulation.lost.get(self.names.get(client, ""), (0, 0))
        return first <= self.round() < back

    def _lie(self, client: int, kind: Kind, raw: bytes) -> bytes:
        factor = self.simulation.lying.get(self.names.get(client, ""))
        if factor is None or kind is not Kind.ESTIMATE:
            return raw
        told = read_reply(kind, raw)
        if not isinstance(told, Answer):
            return raw
        c = (struct.unpack("<f", struct.pack("<f", value * factor))[0] for value in told.c)
        return reply(Answer(told.rows, told.position, tuple(c)))
