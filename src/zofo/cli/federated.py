"""`zofo federated simulate | server | client`: many owners of data, on Flower (docs/federated.md)."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zofo.cli.options import BaseModel, Data, TrainFile, group, option
from zofo.errors import InputError, RunError, printable

if TYPE_CHECKING:
    from zofo.data import TaskData
    from zofo.federated.settings import Settings

app = group("Train with many owners of data: coefficients travel, rows stay.")

File = Annotated[str, typer.Argument(metavar="FED.YAML", help="The federation's file (docs/federated.md).")]
Changes = Annotated[
    list[str] | None,
    typer.Argument(metavar="[section.key=value]...", help="Changes of the file's settings (federation.rounds=50)."),
]


DryRun = Annotated[bool, option("What it will do, and what its noise is worth, and nothing else.", "--dry-run")]


@app.command()
def simulate(
    file: File,
    settings: Changes = None,
    output_dir: Annotated[str, option("Directory of server and clients; the same command goes on there.")] = "",
    model: BaseModel = None,
    data: Data = None,
    train_file: TrainFile = None,
    dry_run: DryRun = False,
) -> None:
    """Server and clients on this machine, some of them failing (section simulate)."""
    from zofo.federated import engine
    from zofo.federated.settings import read
    from zofo.federated.split import dealt, labels

    given = read(file, [*_given(model, data, train_file), *(settings or [])])
    wait = given.simulation.wait
    federation = dataclasses.replace(given.federation, wait=wait, give_up=5 * wait, insecure=True)
    given = dataclasses.replace(given, federation=federation)
    clients = dealt(given)
    _say_what(given)
    rows = [len(one.train) for one in clients]
    each = f"{min(rows)} to {max(rows)}" if min(rows) < max(rows) else f"{rows[0]}"
    _say(f"{len(rows)} client{'s' * (len(rows) > 1)} with {each} training rows")
    _say_unable(given, clients)
    if dry_run:
        for number, one in enumerate(clients):
            _say(f"client {number}: " + ", ".join(f"{name} {n}" for name, n in labels(one).items()))
        return
    if (root := _begun(given, _root(output_dir, file))) is None:
        return
    with engine.superlink(given.federation, root, engine.free_port(), simulated=True) as link:
        code = engine.run_app(root, link, True, engine.resources(given), say=_say)
    _ended(code, root, given.federation.rounds)


@app.command()
def server(
    file: File,
    settings: Changes = None,
    output_dir: Annotated[str, option("Directory of the journal; the same command goes on there.")] = "",
    dry_run: DryRun = False,
) -> None:
    """The server: it keeps the journal, and has neither the model nor a row. Killed, the same command goes on."""
    from zofo.federated import engine
    from zofo.federated.settings import read

    given = read(file, settings or [], files=False)
    _say_what(given)
    if dry_run or (root := _begun(given, _root(output_dir, file))) is None:
        return
    port = int(given.federation.address.rpartition(":")[2])
    with engine.superlink(given.federation, root, port) as link:
        tls = "" if given.federation.tls else ", without TLS"
        _say(f"{root}: listens on {given.federation.address}{tls}")
        code = engine.run_app(root, link, False, say=_say)
    _ended(code, root, given.federation.rounds)


@app.command()
def client(
    file: File,
    settings: Changes = None,
    output_dir: Annotated[str, option("Directory of this client; the same command goes on there.")] = "",
    model: BaseModel = None,
    data: Data = None,
    train_file: TrainFile = None,
    name: Annotated[str, option("What the server's log calls this client.")] = "",
) -> None:
    """A client: the model and the rows are here and stay here. It ends with Ctrl-C, or when the server is done."""
    from zofo.federated import engine
    from zofo.federated.book import FILE
    from zofo.federated.settings import read

    given = read(file, [*_given(model, data, train_file), *(settings or [])])
    engine.program("flower-supernode")
    ca = given.federation.ca
    if given.federation.tls and (ca is None or not Path(ca).is_file()):
        raise InputError(f"federation.ca: {ca or 'none given'}: the file that this client trusts; or insecure: true")
    root = _root(output_dir, file)
    root.mkdir(parents=True, exist_ok=True)
    (root / FILE).write_text(given.to_yaml(), "utf-8")
    _say(f"{root}: answers {given.federation.address}; what happens is in {root / 'supernode.log'}")
    engine.answer(given.federation, root, name, _say)


def _given(model: str | None, data: str | None, train_file: str | None) -> list[str]:
    """As overrides."""
    named = {"model.name": model, "task.data": data, "task.train_file": train_file}
    return [f"{key}={value}" for key, value in named.items() if value is not None]


def _root(output_dir: str, file: str) -> Path:
    return Path(output_dir or Path("out") / Path(file).stem)


def _say(line: str) -> None:
    typer.echo(printable(line), err=True)


def _say_what(given: Settings) -> None:
    from zofo.federated.privacy import words

    fed = given.federation
    rounds = f"{fed.rounds} round{'s' * (fed.rounds > 1)}"
    size = f"an answer is {8 + 4 * given.coefficients} bytes"
    _say(f"mode {fed.mode}, {rounds}; {size}; {words(fed.noise, fed.clip, fed.delta, fed.rounds * given.coefficients)}")


def _say_unable(given: Settings, clients: Sequence[TaskData]) -> None:
    """Whose rows the method cannot train on. Raises InputError where too few clients are left."""
    from zofo.federated.split import unable

    without = unable(given, clients)
    lines = [f"client {number} takes no part: {why}" for number, why in without.items()]
    left, least = len(clients) - len(without), given.federation.min_clients
    if left < least:
        raise InputError("\n".join([*lines, f"federation.min_clients: {least}, and {left} clients can train"]))
    for line in lines:
        _say(f"warning: {line}")


def _begun(given: Settings, root: Path) -> Path | None:
    """The directory, looked at before anything is started; None where all rounds are made. Raises InputError where it
    is in use, or another federation's."""
    from zofo.federated import engine
    from zofo.federated.book import FILE, Book

    engine.program("flower-superlink")
    with Book(given, root) as book:
        made, rounds = book.round, given.federation.rounds
    if made > rounds:
        raise InputError(f"federation.rounds: {rounds}, and {root} has {made} rounds already")
    if made == rounds and _rounds_of(root) == rounds:
        _say(f"{root}: all {rounds} rounds are made already")
        return None
    (root / FILE).write_text(given.to_yaml(), "utf-8")
    return root


def _rounds_of(root: Path) -> int:
    """Of the federation that has come to its end there; 0 where none has."""
    from zofo.config.json_text import read_json

    path = root / "run.json"
    return read_json(path)["federation"]["rounds"] if path.is_file() else 0


def _ended(code: int, root: Path, rounds: int) -> None:
    """By run.json, since `flwr run` ends well however its app did; one of fewer rounds is an earlier federation's."""
    if code or _rounds_of(root) != rounds:
        raise RunError(f"the federation did not come to its end; {root / 'flower.log'} says why")
    place = shlex.quote(str(root))
    typer.echo(printable(f"{root}: done; zofo eval {place} --task ROWS scores it, zofo export {place} OUT hands it on"))
