"""The server: a journal, and no model. It asks, waits, merges the answers, and writes one record a round.

Whatever it knows is in its directory, which is a run's: a server that was killed goes on from its journal, and whoever
has the base model opens the directory as any other run (`zofo eval`, `export`). No torch.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol

from zofo.errors import RunError, printable
from zofo.federated import modes
from zofo.federated.aggregate import clipped, of_name
from zofo.federated.book import Book
from zofo.federated.known import Known
from zofo.federated.messages import Answer, Ask, Digest, Hello, Kind, MessageError, Score, Status, Tensors, Told
from zofo.federated.messages import read_reply as read
from zofo.federated.settings import Settings
from zofo.zo.estimators._base import seeds_of
from zofo.zo.journal import Record

log = logging.getLogger("zofo")
TRIES = 5  # failures in a row, after which a client is asked no more


class Wire(Protocol):
    """What carries the messages. A client is a number that is the wire's own."""

    def clients(self) -> list[int]: ...

    def send(self, questions: Mapping[int, bytes]) -> None:
        """One a client; one that has not answered is not asked again before it has, or is given up."""
        ...

    def replies(self) -> Iterable[tuple[int, bytes | None]]:
        """What has come since, without waiting long. Empty bytes: the question came to nothing. None: its answer will
        come too late for this round, as only a simulation knows, which so need not wait."""
        ...


class Server:
    """book: the directory. closed: whether nobody comes who is not there yet, as in a simulation."""

    def __init__(self, settings: Settings, wire: Wire, book: Book, closed: bool = False) -> None:
        self.closed = closed
        self.settings, self.federation, self.wire, self.book = settings, settings.federation, wire, book
        self.mode = modes.load(self.federation.mode)
        self.aggregate = of_name(self.federation.aggregate, self.federation.trim)
        self.known: dict[int, Known] = {}
        self.waiting: set[int] = set()  # asked who they are
        self.failed = Counter[int]()  # questions in a row
        self.counted = Counter[str]()  # bytes that are in a line of metrics.jsonl

    def run(self) -> None:
        """All rounds. Raises RunError where too few clients come for too long."""
        began = time.monotonic()
        while self.book.round < self.federation.rounds:
            if self._round(self.book.round):
                began = time.monotonic()
                self._look()
            elif self.closed and (left := len(self._left())) < self.federation.min_clients:
                raise RunError(
                    f"round {self.book.round}: {left} clients are left, and federation.min_clients is "
                    f"{self.federation.min_clients}; what the others say is above, or in their own log"
                )
            elif time.monotonic() - began > self.federation.give_up:
                raise RunError(
                    f"round {self.book.round}: fewer than {self.federation.min_clients} clients have answered for "
                    f"{self.federation.give_up:g} s; the same command goes on"
                )
        self._collect(Kind.END, self.book.round)
        self.book.finish(known.name for known in self.known.values() if not known.refused)

    def _left(self) -> list[int]:
        """Who is there and may answer, now or asked again."""
        there = [client for client in self.wire.clients() if self.failed[client] < TRIES]
        return [client for client in there if client not in self.known or not self.known[client].refused]

    def _round(self, round: int) -> bool:
        """One update; False where too few have answered."""
        start = time.monotonic()
        late = self._late()
        got = self._collect(Kind.ESTIMATE, round)
        slots = self._slots
        answers = {slots[c]: a for c, a in got.items() if isinstance(a, Answer) and self._fits(c, a)}
        if len(answers) < self.federation.min_clients:
            self.book.say(f"round {round}: {len(answers)} of {self.federation.min_clients} clients have answered")
            return False
        order = sorted(answers)
        told = [answers[slot] for slot in order]
        bound = self.federation.clip
        told = [Answer(a.rows, a.position, tuple(clipped(c, bound) for c in a.c)) for a in told]
        seeds = [self._seeds(round, slot) for slot in order]
        terms = self.mode.merge(told, seeds, self.aggregate)
        self.book.append(Record(round, tuple(terms), self.settings.rate(round)))
        sent, self.counted = self._bytes() - self.counted, self._bytes()  # since the last line, evaluations and all
        self.book.log(
            "round",
            round,
            clients=len(told),
            c=terms[0][1],
            rows=sum(a.rows for a in told),
            late=self._late() - late,
            bytes_down=sent["down"],
            bytes_up=sent["up"],
            seconds=time.monotonic() - start,
        )
        return True

    def _seeds(self, round: int, slot: int) -> list[int]:
        """Of one client's coefficients, in their order."""
        fed, run = self.federation, self.settings.run
        steps = (self.mode.seed(run.train.seed, round, slot, step, fed.pool) for step in range(fed.local_steps))
        return [seed for first in steps for seed in seeds_of(first, run.estimator.q)]

    def _fits(self, client: int, answer: Answer) -> bool:
        """Whether an answer is one that can be: measured where the journal stands, finite, of at most a batch."""
        most = self.settings.run.train.batch_size
        if len(answer.c) != self.settings.coefficients or not 0 < answer.rows <= most:
            self._refuse(client, "answers with another number of coefficients or rows than settings say")
            return False
        return answer.position == self.book.position and all(math.isfinite(c) for c in answer.c)

    @property
    def _slots(self) -> dict[int, int]:
        """{client: its number in a round}, the same for all of a round."""
        return {client: slot for slot, client in enumerate(sorted(self.known))}

    def _look(self) -> None:
        """What is due behind a round: an evaluation, a comparison of theta."""
        fed, done = self.federation, self.book.round
        last = done == fed.rounds
        if fed.eval_rounds and (done % fed.eval_rounds == 0 or last):
            scores = [s for s in self._collect(Kind.EVALUATE, done).values() if isinstance(s, Score)]
            scores = [s for s in scores if s.position == self.book.position and 0 < s.rows < 2**31]
            if n := sum(s.rows for s in scores):
                loss, metric = sum(s.loss for s in scores) / n, sum(s.metric for s in scores) / n
                self.book.log("dev", done, clients=len(scores), loss=loss, metric=metric, rows=n)
                self.book.say(f"round {done} of {fed.rounds}: dev loss {loss:.4f}, metric {metric:.4f} ({n} rows)")
        if done % fed.check_rounds == 0 or last:
            self._compare(done)

    def _compare(self, round: int) -> None:
        """theta of all clients that answer: what is not the majority's is refused."""
        got = self._collect(Kind.DIGEST, round)
        here = {c: d.theta for c, d in got.items() if isinstance(d, Digest) and d.position == self.book.position}
        if not here:
            return
        ((most, count),) = Counter(here.values()).most_common(1)
        for client, theta in here.items():
            if theta != most:
                self._refuse(client, f"its theta is {theta.hex()[:12]}, that of {count} others {most.hex()[:12]}")
        self.book.log("digest", round, theta=most.hex(), clients=count, of=len(here))
        same = f"theta {most.hex()[:12]} with {count} of {len(here)} clients"
        self.book.say(f"round {round} of {self.federation.rounds}: {same}")

    def _collect(self, kind: Kind, round: int) -> dict[int, Told]:
        """Ask everybody who can be asked, and wait for the answers; those of earlier questions are late."""
        self._greet()
        ready = [client for client, known in self._asked_now().items() if known.asked is None]
        slots = self._slots
        self._ask({client: self._question(kind, round, slots[client], client) for client in ready}, kind, round)
        got, behind, end = dict[int, Told](), set[int](), time.monotonic() + self.federation.wait
        while ready and len(got) < len(ready) and time.monotonic() < end:
            for client, told in self._heard(kind, round):
                if told is Status.BEHIND and client not in behind:
                    behind.add(client)
                    self._ask({client: self._question(kind, round, slots[client], client)}, kind, round)
                elif isinstance(told, Status):
                    ready = [one for one in ready if one != client]
                elif told is not None:
                    got[client] = told
        return got

    def _asked_now(self) -> dict[int, Known]:
        present = set(self.wire.clients())
        return {client: known for client, known in self.known.items() if client in present and not known.refused}

    def _question(self, kind: Kind, round: int, slot: int, client: int) -> bytes:
        start = min(self.known[client].position, self.book.position)
        return Ask(kind, round, slot, start, self.book.read(start)).pack()

    def _ask(self, questions: Mapping[int, bytes], kind: Kind, round: int) -> None:
        for client, raw in questions.items():
            self.known[client].asked = kind, round
            self.known[client].bytes["down"] += len(raw)
        self.wire.send(questions)

    def _heard(self, kind: Kind, round: int) -> Iterable[tuple[int, Told | Status | None]]:
        """(client, its answer to this question; the status that stands in its place; None where it is of another)."""
        for client, raw in self.wire.replies():
            known = self.known.get(client)
            if raw is None:
                yield client, Status.FAILED
                continue
            if known is None or known.asked is None:
                self._welcome(client, raw)
                continue
            asked, known.asked = known.asked, None
            known.bytes["up"] += len(raw)
            if not raw:  # lost on its way, or the client is
                yield client, Status.FAILED if asked == (kind, round) else None
                continue
            try:
                told = read(asked[0], raw)
            except MessageError as error:
                self._refuse(client, f"{error}")
                told = Status.FAILED
            if isinstance(told, Status):
                self._trouble(client, told)
            elif (position := getattr(told, "position", None)) is not None:
                self.failed[client] = 0
                known.position = min(position, self.book.position)
            if asked != (kind, round):
                known.late += 1
                yield client, None
            else:
                yield client, told

    def _trouble(self, client: int, status: Status) -> None:
        known = self.known[client]
        if status is Status.BEHIND:
            known.position = 0  # it is sent all of it, with the next question
        elif status in (Status.BASE, Status.SETTINGS):
            self._refuse(client, f"it has another {'base model' if status is Status.BASE else 'configuration'}")
        elif status is Status.FAILED:
            known.position = 0
            self.failed[client] += 1
            self.book.say(f"{known.name}: failed; its own log says why")
            if self.failed[client] >= TRIES:
                self._refuse(client, f"{TRIES} questions in a row came to nothing")

    def _refuse(self, client: int, why: str) -> None:
        known = self.known[client]
        known.refused = why
        self.book.say(f"warning: {known.name} is refused: {why}")
        self.book.log("refused", self.book.round, client=known.name, why=why)

    def _greet(self) -> None:
        """Ask those that are new who they are, and wait for them where nobody is known yet."""
        end = time.monotonic() + self.federation.wait
        while True:
            new = [c for c in self.wire.clients() if c not in self.known and c not in self.waiting]
            new = [c for c in new if self.failed[c] < TRIES]
            self.waiting |= set(new)
            self.wire.send({client: Ask(Kind.HELLO).pack() for client in new})
            for _ in self._heard(Kind.HELLO, -1):
                pass
            enough = len(self._asked_now()) >= self.federation.min_clients and not self.waiting
            if enough or (self.closed and not new and not self.waiting) or time.monotonic() > end:
                break
        if not self.book.begun and self.known:
            self._begin()

    def _welcome(self, client: int, raw: bytes) -> None:
        if client not in self.waiting:
            return
        self.waiting.discard(client)
        try:
            told = read(Kind.HELLO, raw)
        except MessageError:
            told = Status.FAILED
        if not isinstance(told, Hello):
            self.failed[client] += 1
            again = "it is asked again" if self.failed[client] < TRIES else "it is left alone"
            self.book.say(f"client {client}: no greeting, its own log says why; {again}")
            return
        name = printable(told.name, 64) or f"client {client}"
        known = self.known[client] = Known(name, told.base, 0)
        if told.settings != self.settings.shared():
            self._refuse(client, "it has another configuration")
        elif self.book.begun and told.base != self.book.base:
            self._refuse(client, "it has another base model")
        elif self.book.begun and self.book.stands(told.position, told.crc):
            known.position = told.position

    def _begin(self) -> None:
        """The base model is the one that most clients have; the header lists its tensors, as one of them says."""
        present = {c: known for c, known in self._asked_now().items() if known.asked is None}
        ((base, _),) = Counter(known.base for known in present.values()).most_common(1) or [(b"", 0)]
        for client in [c for c, known in present.items() if known.base == base]:
            self._ask({client: Ask(Kind.TENSORS).pack()}, Kind.TENSORS, -1)
            end, told = time.monotonic() + self.federation.wait, None
            while told is None and time.monotonic() < end:
                told = next((t for c, t in self._heard(Kind.TENSORS, -1) if c == client), None)
            if isinstance(told, Tensors) and self.book.begin(told.listed, base, self.settings):
                break
        for client, known in self.known.items():
            if self.book.begun and known.base != base and not known.refused:
                self._refuse(client, "it has another base model")

    def _bytes(self) -> Counter[str]:
        return sum((known.bytes for known in self.known.values()), Counter())

    def _late(self) -> int:
        return sum(known.late for known in self.known.values())
