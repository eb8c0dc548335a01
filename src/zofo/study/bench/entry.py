"""What the leaderboard keeps of a contender: a file that anyone can make, send and check (docs/leaderboard.md).

`schema` is its JSON Schema, which is also in results/leaderboard/schema.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zofo.config.json_text import read_json
from zofo.errors import InputError, printable

FORMAT = "zofo.leaderboard/1"
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1, max_length=300)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Point(Strict):
    """An evaluation on dev. forwards: made until then, of batch_size rows each, a backward pass as two of them."""

    forwards: Amount
    loss: float | None = Field(description="nats; null where it is not finite")
    metric: float | None = None


class Trial(Strict):
    """Settings that were tried with the first seed. dev_loss: the best; null of one that failed."""

    set: dict[str, Any]
    dev_loss: float | None
    ending: str


class Run(Strict):
    """The chosen settings with one seed."""

    seed: int = Field(ge=0)
    dev: list[Point] = Field(min_length=1)
    test: dict[str, float]
    seconds: Amount = Field(description="of training and its evaluations")
    peak_bytes: int | None = Field(description="of the process, its libraries too; on a GPU what torch held there")
    rows: dict[str, Digest] = Field(description="SHA-256 of the rows of train, dev and test, in their order")
    environment: dict[str, str | int | None]


class Task(Strict):
    """trials: at most as many as the common plan says. chosen: the number of one of them."""

    metric: str
    settings: dict[str, Any] = Field(description="section.field to value, all of them")
    trials: list[Trial] = Field(min_length=1)
    chosen: int = Field(ge=0)
    runs: list[Run] = Field(min_length=1)


class Entry(Strict):
    """A contender. by: who ran it; code: where what it runs can be had, such as "zofo 0.1.0" or an address."""

    format: Literal["zofo.leaderboard/1"] = FORMAT
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,39}$")
    about: Text
    paper: Text
    by: Text
    code: Text
    model: Text
    base_sha256: Digest
    forwards_a_step: Annotated[float, Field(gt=0)]
    common: Digest = Field(description="SHA-256 of the common plan that it was run by")
    tasks: dict[str, Task] = Field(min_length=1)


def read_entry(path: str | Path) -> Entry:
    """Raises InputError with a line for each fault."""
    try:
        return Entry.model_validate(read_json(Path(path)))
    except ValidationError as error:
        lines = (f"{path}: {_place(one['loc'])}: {printable(one['msg'], 200)}" for one in error.errors())
        raise InputError("\n".join(lines)) from None


def _place(loc: tuple[int | str, ...]) -> str:
    return printable(".".join(map(str, loc)), 100) or "the file"


def schema() -> dict[str, Any]:
    return Entry.model_json_schema()
