"""What travels, byte by byte: little endian, nothing but what is listed here. No torch, no Flower.

    server -> client   u8 kind | u32 round | u32 slot | u32 start | the journal's bytes from `start` on
    client -> server   u8 status | what its kind of question asks for:

    HELLO      32 bytes SHA-256 of the base model | 32 of the settings | u32 position | u32 CRC there | its name, UTF-8
    TENSORS    the tensors' names, shapes, dtypes and SHA-256, JSON: what the journal's header lists
    ESTIMATE   u32 rows | u32 position | f32 c for each local step and direction: 12 bytes of the usual answer
    EVALUATE   f64 sum of losses | f64 sum of the metric | u32 rows | u32 position
    DIGEST     32 bytes SHA-256 of theta | u32 position
    END        u32 position

position: bytes of the journal that the client's theta has in it. A status that is not DONE comes alone: why is said to
the client's own log, since an error's text may quote a row.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

_ASK = struct.Struct("<BIII")
_HELLO = struct.Struct("<32s32sII")
_ANSWER = struct.Struct("<II")
_SCORE = struct.Struct("<ddII")
_DIGEST = struct.Struct("<32sI")
_U32 = struct.Struct("<I")
NAME = 64  # bytes of a client's name at most


class Kind(IntEnum):
    HELLO = 0
    TENSORS = 1
    ESTIMATE = 2
    EVALUATE = 3
    DIGEST = 4
    END = 5


class Status(IntEnum):
    """DONE; NONFINITE: the batch had no finite estimate; BEHIND: bytes before `start` are missing; BASE: the base model
    is not that of the journal; SETTINGS: other settings; FAILED: see the client's log."""

    DONE = 0
    NONFINITE = 1
    BEHIND = 2
    BASE = 3
    SETTINGS = 4
    FAILED = 5


class MessageError(ValueError):
    """Bytes that are no message of this protocol."""


@dataclass(frozen=True)
class Ask:
    kind: Kind
    round: int = 0
    slot: int = 0
    start: int = 0
    journal: bytes = b""

    def pack(self) -> bytes:
        return _ASK.pack(self.kind, self.round, self.slot, self.start) + self.journal

    @classmethod
    def unpack(cls, raw: bytes) -> Ask:
        try:
            kind, round, slot, start = _ASK.unpack_from(raw)
            return cls(Kind(kind), round, slot, start, raw[_ASK.size :])
        except (struct.error, ValueError) as error:
            raise MessageError(f"no question of a federation: {error}") from error


@dataclass(frozen=True)
class Hello:
    base: bytes
    settings: bytes
    position: int
    crc: int
    name: str

    def pack(self) -> bytes:
        name = self.name.encode()[:NAME].decode("utf-8", "ignore").encode()
        return _HELLO.pack(self.base, self.settings, self.position, self.crc) + name


@dataclass(frozen=True)
class Answer:
    """c: fp32 coefficients, the q directions of the first local step, then of the next."""

    rows: int
    position: int
    c: tuple[float, ...]

    def pack(self) -> bytes:
        return _ANSWER.pack(self.rows, self.position) + struct.pack(f"<{len(self.c)}f", *self.c)


@dataclass(frozen=True)
class Score:
    loss: float
    metric: float
    rows: int
    position: int

    def pack(self) -> bytes:
        return _SCORE.pack(self.loss, self.metric, self.rows, self.position)


@dataclass(frozen=True)
class Digest:
    theta: bytes
    position: int

    def pack(self) -> bytes:
        return _DIGEST.pack(self.theta, self.position)


@dataclass(frozen=True)
class Tensors:
    listed: bytes  # JSON

    def pack(self) -> bytes:
        return self.listed


@dataclass(frozen=True)
class End:
    position: int

    def pack(self) -> bytes:
        return _U32.pack(self.position)


Told = Hello | Answer | Score | Digest | Tensors | End


def reply(told: Told | Status) -> bytes:
    """What a client sends."""
    return bytes([told]) if isinstance(told, Status) else bytes([Status.DONE]) + told.pack()


def read_reply(kind: Kind, raw: bytes) -> Told | Status:
    """What the server makes of it. Raises MessageError for whatever else: a client may send anything."""
    try:
        if (status := Status(raw[0])) is not Status.DONE:
            return status
        return _READ[kind](raw[1:])
    except (IndexError, struct.error, ValueError) as error:
        raise MessageError(f"no answer to {kind.name}: {error}") from error


def _hello(raw: bytes) -> Hello:
    name = raw[_HELLO.size :]
    if len(name) > NAME:
        raise ValueError(f"a name of {len(name)} bytes")
    base, settings, position, crc = _HELLO.unpack_from(raw)
    return Hello(base, settings, position, crc, name.decode())


def _answer(raw: bytes) -> Answer:
    rows, position = _ANSWER.unpack_from(raw)
    return Answer(rows, position, tuple(c for (c,) in struct.iter_unpack("<f", raw[_ANSWER.size :])))


_READ = {
    Kind.HELLO: _hello,
    Kind.TENSORS: Tensors,
    Kind.ESTIMATE: _answer,
    Kind.EVALUATE: lambda raw: Score(*_SCORE.unpack(raw)),
    Kind.DIGEST: lambda raw: Digest(*_DIGEST.unpack(raw)),
    Kind.END: lambda raw: End(*_U32.unpack(raw)),
}
