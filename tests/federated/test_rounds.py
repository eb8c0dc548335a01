"""Rounds: what the server writes is what the clients' coefficients say, and theta is the same for all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.federation import Local, clients_of, fed_yaml, serve
from tests.float64_directions import entries
from tests.forked import run, zofo_main
from zofo.federated import modes
from zofo.federated.messages import Answer, Ask, Kind, read_reply
from zofo.zo.direction import Direction
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.journal import read_header, read_records

MODES = modes.names()


def records(path: Path) -> list[tuple[int, tuple[tuple[int, float], ...], float]]:
    return [(r.step, r.terms, r.rate) for r in read_records(path, read_header(path)[1])]


@pytest.mark.parametrize("q", [1, 2])
def test_a_federation_of_one_has_the_journal_of_a_run(tiny_model_dir: Path, tmp_path: Path, q: int) -> None:
    path = fed_yaml(tmp_path, tiny_model_dir, 1, estimator={"q": q})
    with clients_of(path, [0]) as clients:
        serve(path, Local(clients))
    arguments = ["train", "--model", str(tiny_model_dir), "--train-file", str(tmp_path / "rows-0.jsonl")]
    arguments += ["--method", "mezo", "method.lr=1e-3", f"estimator.q={q}", "--max-steps", "6", "--seed", "5"]
    arguments += ["train.batch_size=4", "train.threads=1", "model.dtype=float32", "--output-dir", str(tmp_path / "run")]
    done = run(zofo_main, *arguments)
    assert done.returncode == 0, done.stderr
    assert records(tmp_path / "server" / "journal.bin") == records(tmp_path / "run" / "journal.bin")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("steps", [1, 3])
def test_theta_is_the_same_everywhere_and_is_what_the_terms_say(
    tiny_model_dir: Path, tmp_path: Path, mode: str, steps: int
) -> None:
    """In float64, from the journal's seeds and coefficients alone."""
    path = fed_yaml(tmp_path, tiny_model_dir, federation={"mode": mode, "local_steps": steps, "rounds": 4})
    with clients_of(path, range(3)) as clients:
        begun = {n: v.clone() for n, v in clients[0].session.problem.theta.items()}
        wire = Local(clients)
        serve(path, wire)
        thetas = [client.session.problem.theta for client in clients.values()]
        assert len({theta.digest() for theta in thetas}) == 1
        journals = {(tmp_path / name / "journal.bin").read_bytes() for name in ("server", "client-0", "client-2")}
        assert len(journals) == 1
        told = records(tmp_path / "server" / "journal.bin")
        assert len(told) == 4
        for name, value in begun.items():
            exact = value.double().flatten()
            for _, terms, rate in told:
                exact = exact - rate * sum(c * entries("rademacher", seed, name, len(exact)) for seed, c in terms)
            torch.testing.assert_close(thetas[0][name].double().flatten(), exact, atol=2e-6, rtol=0)


def test_coefficients_are_the_mean_by_rows(tiny_model_dir: Path, tmp_path: Path) -> None:
    path = fed_yaml(tmp_path, tiny_model_dir)
    with clients_of(path, range(3)) as clients:
        serve(path, wire := Local(clients))
    answers = [
        (read_reply(Kind.ESTIMATE, up), Ask.unpack(down).round)
        for (_, _, down), (_, _, up) in zip(wire.seen[::2], wire.seen[1::2], strict=True)
        if Ask.unpack(down).kind is Kind.ESTIMATE
    ]
    assert all(len(up) == 13 for (_, _, d), (_, _, up) in zip(wire.seen[::2], wire.seen[1::2]) if d[0] == Kind.ESTIMATE)
    for step, terms, rate in records(tmp_path / "server" / "journal.bin"):
        of_it = [answer for answer, round in answers if round == step and isinstance(answer, Answer)]
        mean = sum(a.rows * a.c[0] for a in of_it) / sum(a.rows for a in of_it)
        assert len(of_it) == 3
        assert rate == 1e-3
        assert terms[0][1] == pytest.approx(mean, rel=1e-6)


def test_local_steps_are_those_of_a_model_that_walks(tiny_model_dir: Path, tmp_path: Path) -> None:
    """A client's coefficients, beside the same steps with theta moved for real, from a copy."""
    path = fed_yaml(tmp_path, tiny_model_dir, 1, federation={"local_steps": 4, "rounds": 1})
    with clients_of(path, [0]) as clients:
        serve(path, Local(clients))
    told = records(tmp_path / "server" / "journal.bin")[0][1]
    path = fed_yaml(tmp_path / "plain", tiny_model_dir, 1, federation={"rounds": 4})
    with clients_of(path, [0]) as clients:
        client = clients[0]
        problem = client.session.problem
        seeds, c = [seed for seed, _ in told], []
        for seed in seeds:
            f = problem.objective(problem.streams["train"])
            plus, minus = problem.theta.sides(f, z := Direction(seed), 1e-3, "stochastic")
            c.append(float32((plus - minus) / 2e-3))
            problem.theta.add_(ZOGrad(((c[-1], z),), 0.0, 2), -1e-3, 0)
    # one rounding of theta + all terms stands beside one a step
    torch.testing.assert_close(torch.tensor([value for _, value in told]), torch.tensor(c), rtol=2e-2, atol=5e-3)
    assert told[0][1] == c[0]


def test_p_and_s_stay_with_their_client(tiny_model_dir: Path, tmp_path: Path) -> None:
    path = fed_yaml(
        tmp_path,
        tiny_model_dir,
        method={"name": "bilevel-zofo", "lr": None, "inner_steps": 2},
        adapter={"name": "lora", "r": 2},
        federation={"rounds": 3, "eval_rounds": 3},
    )
    text = path.read_text().replace("  lr: null\n", "")
    path.write_text(text)
    with clients_of(path, range(2)) as clients:
        serve(path, wire := Local(clients))
        adapters = [client.session.problem.adapters for client in clients.values()]
        values = [torch.cat([v.flatten() for v in a.parameters("s").values()]) for a in adapters if a is not None]
        assert not torch.equal(values[0], values[1])
        assert len({client.session.problem.theta.digest() for client in clients.values()}) == 1
    for _, _, raw in wire.seen:
        for value in values:
            assert value[:8].detach().numpy().tobytes() not in raw
    lines = [json.loads(line) for line in (tmp_path / "server" / "metrics.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines].count("round") == 3
    dev = next(line for line in lines if line["event"] == "dev")
    assert dev["clients"] == 2
    assert 0 <= dev["metric"] <= 1
