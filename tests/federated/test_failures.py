"""Clients that are late, away, lying, of another base model; a server that goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.federation import Local, clients_of, fed_yaml, serve
from tests.forked import run, zofo_main
from zofo.api.finetune import evaluate
from zofo.api.restore import restore
from zofo.api.states import state_of
from zofo.errors import InputError, RunError
from zofo.federated.client import Client
from zofo.federated.messages import Ask, Kind, Status, read_reply
from zofo.train.run_dir import RunDir
from zofo.zo.journal import read_header, read_records


def lines(root: Path, event: str) -> list[dict[str, Any]]:
    text = (root / "server" / "metrics.jsonl").read_text()
    return [line for line in map(json.loads, text.splitlines()) if line["event"] == event]


def test_two_late_one_away_one_lying(tiny_model_dir: Path, tmp_path: Path) -> None:
    """SCALE's check 14, on ten clients: 200 rounds, one theta; the median holds where the mean does not."""
    simulate = {"clients": 10, "late": {"1": 2, "4": 5}, "lost": {"6": [40, 150]}, "lying": {"9": -1000.0}}
    rounds = {"rounds": 200, "check_rounds": 100, "min_clients": 5, "wait": 0.02}
    path = fed_yaml(tmp_path, tiny_model_dir, 10, federation=rounds, simulate=simulate, train={"batch_size": 2})
    with clients_of(path, range(10), save_every=50) as clients:
        serve(path, Local(clients), "federation.aggregate=median")
        assert len({client.session.problem.theta.digest() for client in clients.values()}) == 1
        finite = all(torch.isfinite(value).all() for value in clients[0].session.problem.theta.values())
    assert finite
    told = lines(tmp_path, "round")
    assert len(told) == 200
    assert sum(line["late"] for line in told) > 50
    assert {line["clients"] for line in told[60:140]} <= {7, 8, 9}
    assert [line["of"] for line in lines(tmp_path, "digest")][-1] >= 8
    assert not lines(tmp_path, "refused")


@pytest.mark.parametrize("aggregate", ["mean", "median", "trimmed"])
def test_what_a_liar_can_do(tiny_model_dir: Path, tmp_path: Path, aggregate: str) -> None:
    simulate = {"clients": 5, "lying": {"2": -1e6}}
    path = fed_yaml(tmp_path, tiny_model_dir, 5, federation={"rounds": 3, "aggregate": aggregate}, simulate=simulate)
    with clients_of(path, range(5)) as clients:
        serve(path, Local(clients))
    journal = tmp_path / "server" / "journal.bin"
    largest = max(abs(r.terms[0][1]) for r in read_records(journal, read_header(journal)[1]))
    assert (largest > 1e4) == (aggregate == "mean")


def test_clip_bounds_what_a_liar_can_do_in_every_mode(tiny_model_dir: Path, tmp_path: Path) -> None:
    federation = {"rounds": 2, "mode": "own", "clip": 2.0}
    path = fed_yaml(tmp_path, tiny_model_dir, 3, federation=federation, simulate={"lying": {"1": 1e9}})
    with clients_of(path, range(3)) as clients:
        serve(path, Local(clients))
    journal = tmp_path / "server" / "journal.bin"
    for record in read_records(journal, read_header(journal)[1]):
        assert all(abs(c) <= 2 / 3 + 1e-6 for _, c in record.terms)
        assert len(record.terms) == 3


def test_another_base_model_is_refused(tiny_model_dir: Path, tiny_opt_dir: Path, tmp_path: Path) -> None:
    path = fed_yaml(tmp_path, tiny_model_dir)
    with clients_of(path, [0, 1]) as ours, clients_of(path, [2], f"model.name={tiny_opt_dir}") as other:
        before = other[2].session.problem.theta.digest()
        serve(path, Local(ours | other))
        assert other[2].session.problem.theta.digest() == before
    assert [line["client"] for line in lines(tmp_path, "refused")] == ["2"]
    assert {line["clients"] for line in lines(tmp_path, "round")} == {2}


def test_other_settings_are_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    path = fed_yaml(tmp_path, tiny_model_dir)
    with clients_of(path, [0, 1]) as ours, clients_of(path, [2], "method.lr=1e-2") as other:
        serve(path, Local(ours | other))
    assert [line["client"] for line in lines(tmp_path, "refused")] == ["2"]


class Cut(Exception):
    pass


def test_a_server_that_was_killed_goes_on(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Killed between the answers of round 3 and its record; clients are those of before."""
    whole = fed_yaml(tmp_path / "whole", tiny_model_dir)
    with clients_of(whole, range(3)) as clients:
        serve(whole, Local(clients))
        digest = clients[0].session.problem.theta.digest()
    path = fed_yaml(tmp_path / "cut", tiny_model_dir)

    class Killed(Local):
        def send(self, questions: Any) -> None:
            if any(Ask.unpack(raw).kind is Kind.ESTIMATE and Ask.unpack(raw).round == 3 for raw in questions.values()):
                raise Cut
            super().send(questions)

    with clients_of(path, range(3)) as clients:
        with pytest.raises(Cut):
            serve(path, Killed(clients))
        before = sum(line["bytes_up"] for line in lines(tmp_path / "cut", "round"))
        with (tmp_path / "cut/server/metrics.jsonl").open("a") as log:
            log.write('{"event": "rou')  # as the kill left it
        serve(path, wire := Local(clients))
        assert clients[0].session.problem.theta.digest() == digest
    assert (tmp_path / "cut/server/journal.bin").read_bytes() == (tmp_path / "whole/server/journal.bin").read_bytes()
    taken = json.loads((tmp_path / "cut/server/run.json").read_text())["federation"]
    of_rounds = lines(tmp_path / "cut", "round")
    assert [line["step"] for line in of_rounds] == list(range(6))
    assert taken["bytes_up"] == sum(line["bytes_up"] for line in of_rounds) > before > 0  # of both processes
    first = next(Ask.unpack(raw) for _, way, raw in wire.seen if way == "down" and raw[0] == Kind.ESTIMATE)
    assert (first.round, first.start > 0) == (3, True)  # a client is not sent what it has


@pytest.mark.parametrize("replay_seconds", [30, 0])
def test_a_client_comes_back_from_its_own_directory(
    tiny_model_dir: Path, tmp_path: Path, replay_seconds: float
) -> None:
    """Its process ends after each answer, as a SuperNode's does; theta is a replay, or a snapshot and what follows."""
    one = fed_yaml(tmp_path / "one", tiny_model_dir, method={"name": "mezo", "lr": 1e-3})
    with clients_of(one, range(3)) as clients:
        serve(one, Local(clients))
        digest = clients[0].session.problem.theta.digest()
    path = fed_yaml(tmp_path / "two", tiny_model_dir)

    def fresh(number: int) -> Any:
        def ask(raw: bytes) -> bytes:
            with clients_of(path, [number], f"train.max_replay_seconds={replay_seconds}") as client:
                return client[number](raw)

        return ask

    serve(path, Local({number: fresh(number) for number in range(3)}))
    (newest,) = (tmp_path / "two" / "client-0").glob("checkpoint-6")
    assert (newest / "backbone").is_dir() == (replay_seconds == 0)
    assert (tmp_path / "one/server/journal.bin").read_bytes() == (tmp_path / "two/server/journal.bin").read_bytes()
    last = lines(tmp_path / "two", "digest")[-1]
    assert last["theta"] == digest
    assert last["clients"] == 3


def test_nobody_comes(tiny_model_dir: Path, tmp_path: Path) -> None:
    path = fed_yaml(tmp_path, tiny_model_dir, federation={"give_up": 0.01, "wait": 0.02})
    with pytest.raises(RunError, match="fewer than 1 clients"):
        serve(path, Local({}))


@pytest.mark.parametrize(
    ("setting", "before", "here"),
    [
        ("train.seed=6", "5", "6"),
        ("method.lr=1e-2", "0.001", "0.01"),
        ("federation.mode=own", "'same'", "'own'"),
        ("federation.aggregate=median", "'mean'", "'median'"),
        ("federation.clip=3", "None", "3.0"),
        ("simulate.alpha=0.1", "None", "0.1"),
    ],
)
def test_a_directory_of_another_federation_is_refused(
    tiny_model_dir: Path, tmp_path: Path, setting: str, before: str, here: str
) -> None:
    path = fed_yaml(tmp_path, tiny_model_dir, federation={"rounds": 2})
    with clients_of(path, range(2)) as clients:
        serve(path, Local(clients))
        with pytest.raises(InputError) as error:
            serve(path, Local({}), setting)
        assert f"has {before}, this command {here}" in str(error.value)
        assert setting.partition("=")[0] in str(error.value)
        serve(path, Local(clients), "federation.rounds=4")  # more rounds are the same federation
    assert len(lines(tmp_path, "round")) == 4


@pytest.mark.parametrize("raw", [b"", b"\xff", b"\x02" + b"\0" * 12 + b"no journal at all", b"\x02\0\0"])
def test_whatever_is_asked_a_client_answers_with_a_status(tiny_model_dir: Path, tmp_path: Path, raw: bytes) -> None:
    path = fed_yaml(tmp_path, tiny_model_dir, 1)
    with clients_of(path, [0]) as clients:
        before = clients[0].session.problem.theta.digest()
        assert read_reply(Kind.ESTIMATE, clients[0](raw)) is Status.FAILED
        assert clients[0].session.problem.theta.digest() == before


def test_a_record_that_does_not_follow_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    path = fed_yaml(tmp_path, tiny_model_dir, 1)
    with clients_of(path, [0]) as clients:
        serve(path, Local(clients))
        client: Client = clients[0]
        position = client.manager.journal.position  # type: ignore[union-attr]
        digest, raw = client.session.problem.theta.digest(), (tmp_path / "server" / "journal.bin").read_bytes()
        again = raw[-35:]  # a whole record of one term, once more
        assert read_reply(Kind.DIGEST, client(Ask(Kind.DIGEST, 6, 0, position, again).pack())) is Status.FAILED
        assert client.session.problem.theta.digest() == digest


def test_what_a_federation_leaves_is_a_run(tiny_model_dir: Path, tmp_path: Path) -> None:
    """The server's directory and a client's open as any other, with theta of all rounds."""
    path = fed_yaml(tmp_path, tiny_model_dir)
    with clients_of(path, range(2)) as clients:
        serve(path, Local(clients))
        digest = clients[0].session.problem.theta.digest()
    for folder in ("server", "client-1"):
        assert restore(tmp_path / folder).theta.digest() == digest
        rows = str(tmp_path / "rows-1.jsonl")
        assert evaluate(tmp_path / folder, task=rows)["n"] == 20
        assert state_of(tmp_path / folder).info["outcome"]["kind"] == "finished"
        assert RunDir(tmp_path / folder).finished
        for verb in (["validate"], ["report"], ["export", str(tmp_path / f"{folder}-export")]):
            done = run(zofo_main, verb[0], str(tmp_path / folder), *verb[1:])
            assert done.returncode == 0, (verb, done.stderr)
