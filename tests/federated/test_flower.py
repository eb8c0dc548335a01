"""Federations on Flower's engine, by the command line: simulations, deployments, kills, and what is on the wire."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from tests.conftest import sentiment_rows, write_rows
from tests.engine_runs import Recorder, Started, events, free_port, started
from tests.federation import fed_yaml
from zofo.api.restore import restore
from zofo.zo.journal import read_header, read_records

pytest.importorskip("flwr", reason="needs zofo[flower]")
pytestmark = pytest.mark.slow


def simulation(root: Path, model: Path, rows: int = 200, **sections: Any) -> Path:
    """A fed.yaml with enough rows for each client to have some of dev."""
    write_rows((file := root / "all.jsonl"), sentiment_rows(rows))
    return fed_yaml(root, model, 1, task={"train_file": str(file)}, **sections)


def rounds(root: Path) -> int:
    path = root / "journal.bin"
    return sum(1 for _ in read_records(path, read_header(path)[1])) if path.is_file() else 0


def told(root: Path) -> int:
    return len(events(root, "round"))


def one_theta(root: Path, copies: list[Path], least: int) -> str:
    """The digest that the last comparison names, and the journal's theta has."""
    last = events(root, "digest")[-1]
    assert last["clients"] == last["of"] >= least
    assert not events(root, "refused")
    assert len(copies) >= least
    assert {copy.read_bytes() for copy in copies} == {(root / "journal.bin").read_bytes()}
    assert restore(root).theta.digest() == last["theta"]
    return last["theta"]


def there_at_the_end(root: Path) -> list[Path]:
    return [path.with_name("journal.bin") for path in sorted((root / "clients").glob("*/ended"))]


def zofo(*args: str | Path) -> str:
    command = [sys.executable, "-m", "zofo", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_simulation_of_four(tiny_model_dir: Path, tmp_path: Path) -> None:
    federation = {"rounds": 20, "check_rounds": 10}
    path = simulation(tmp_path, tiny_model_dir, federation=federation, simulate={"clients": 4})
    with started(tmp_path / "log", "simulate", path, "--output-dir", out := tmp_path / "out") as one:
        assert one.wait() == 0, one.text
        assert one.gone()
        assert "round 20 of 20: theta" in one.text
    assert rounds(out) == told(out) == 20
    one_theta(out, there_at_the_end(out), 4)
    assert "accuracy" in zofo("eval", out, "--task", tmp_path / "all.jsonl")
    zofo("export", out, tmp_path / "export")
    assert list((tmp_path / "export").glob("*.safetensors"))


def test_a_simulation_of_ten_of_whom_some_fail(tiny_model_dir: Path, tmp_path: Path) -> None:
    simulate = {"clients": 10, "alpha": 0.3, "late": {"1": 2, "4": 5}, "lost": {"6": [40, 150]}, "lying": {"9": -1e3}}
    federation = {"rounds": 200, "check_rounds": 100, "aggregate": "median", "min_clients": 5}
    more = {"federation": federation, "simulate": simulate, "train": {"batch_size": 2}}
    path = simulation(tmp_path, tiny_model_dir, 400, **more)
    with started(tmp_path / "log", "simulate", path, "--output-dir", out := tmp_path / "out") as one:
        assert one.wait() == 0, one.text
        assert one.gone()
    assert rounds(out) == told(out) == 200
    one_theta(out, there_at_the_end(out), 8)
    lines = events(out, "round")
    assert sum(line["late"] for line in lines) > 50
    assert max(line["clients"] for line in lines[60:140]) <= 9
    assert all(abs(line["c"]) < 1e3 for line in lines)


def test_a_simulation_that_was_killed_goes_on(tiny_model_dir: Path, tmp_path: Path) -> None:
    federation = {"rounds": 80, "check_rounds": 20}
    path = simulation(tmp_path, tiny_model_dir, federation=federation, simulate={"clients": 4})
    args = "simulate", path, "--output-dir", (out := tmp_path / "out")
    with started(tmp_path / "log", *args) as one:
        one.until(lambda: told(out) >= 5, "five rounds")
        one.kill_group()
        assert one.gone(), [p.cmdline() for p in one.tree()]
    assert 5 <= (cut := rounds(out)) < 80
    with started(tmp_path / "again", *args) as one:
        assert one.wait() == 0, one.text
        assert one.gone()
        assert f"goes on at round {cut} of 80" in one.text
    assert rounds(out) == 80
    one_theta(out, there_at_the_end(out), 4)


@pytest.mark.parametrize("verb", ["simulate", "server", "client"])
def test_ctrl_c_leaves_nothing(tiny_model_dir: Path, tmp_path: Path, verb: str) -> None:
    federation = {"rounds": 10000, "address": f"127.0.0.1:{free_port()}"}
    path = simulation(tmp_path, tiny_model_dir, federation=federation, simulate={"clients": 2})
    out = tmp_path / "out"
    begun = {
        "simulate": lambda: told(out) > 1,
        "server": lambda: (out / "journal.bin").exists() or (out / ".lock").exists(),
        "client": lambda: "Starting Flower SuperNode" in (out / "supernode.log").read_text("utf-8", "replace"),
    }[verb]
    with started(tmp_path / "log", verb, path, "--output-dir", out) as one:
        one.until(lambda: out.is_dir() and len(list(out.iterdir())) > 2 and begun(), "begun")
        os.kill(one.process.pid, signal.SIGINT)
        assert one.wait() == 130, one.text
        assert one.gone(5), [p.cmdline() for p in one.tree()]
    assert "Traceback" not in one.text


def test_a_simulation_whose_clients_all_fail_ends(tiny_model_dir: Path, tmp_path: Path) -> None:
    path, out = simulation(tmp_path, tiny_model_dir, simulate={"clients": 2}), tmp_path / "out"
    for client in "01":
        (out / "clients" / client).mkdir(parents=True)
        (out / "clients" / client / "config.yaml").write_text("another's: 1\n")
    began = time.monotonic()
    with started(tmp_path / "log", "simulate", path, "federation.wait=600", "--output-dir", out) as one:
        assert one.wait() == 1
        assert one.gone()
    assert "error: round 0: 0 clients are left" in one.text
    assert time.monotonic() - began < 200  # give_up, of a simulation, is 300


def test_what_is_wrong_is_said_at_once(tiny_model_dir: Path, tmp_path: Path) -> None:
    port = free_port()
    path = fed_yaml(tmp_path, tiny_model_dir, federation={"address": f"127.0.0.1:{port}"})
    recorder = Recorder(port)
    try:
        taken = f"federation.address=127.0.0.1:{recorder.port}"
        for args, why in (
            (("server", path, taken), "address already in use"),
            (("server", path, "federation.insecure=false"), "federation.certificate: none given"),
            (("client", path, "federation.insecure=false"), "federation.ca: none given"),
            (("simulate", tmp_path / "none.yaml"), "no such file"),
            (("simulate", path, "simulate.clients=500"), "simulate.clients: 500"),
        ):
            with started(tmp_path / "log", *args, "--output-dir", tmp_path / "out") as one:
                assert one.wait() == 2
                assert why in one.text
    finally:
        recorder.close()
    assert not (tmp_path / "out" / "journal.bin").exists()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, server.pem and server.key, which it has signed, and other.pem, another one's."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("certificates")
    new = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    ca = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"]
    for name in ("ca", "other"):
        run = [*new, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}", *ca]
        subprocess.run(run, cwd=folder, check=True, capture_output=True)
    server = [*new, "-keyout", "server.key", "-out", "server.pem", "-subj", "/CN=server", "-CA", "ca.pem"]
    server += ["-CAkey", "ca.key", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    server += ["-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run(server, cwd=folder, check=True, capture_output=True)
    return folder


@contextmanager
def clients(path: Path, numbers: range, *more: str) -> Iterator[list[Started]]:
    """Of a deployment, each with its rows, in ROOT/client-NUMBER."""
    with ExitStack() as stack:
        root, out = path.parent, list[Started]()
        for number in numbers:
            args = ["client", path, *more, "--train-file", root / f"rows-{number}.jsonl", "--name", f"owner {number}"]
            args += ["--output-dir", root / f"client-{number}"]
            out.append(stack.enter_context(started(root / f"log-{number}", *args)))
        yield out


def test_a_deployment_over_tls_whose_server_is_killed(tiny_model_dir: Path, tmp_path: Path, certificates: Path) -> None:
    """A client of another certificate authority takes no part."""
    tls = {"certificate": "server.pem", "key": "server.key", "ca": "ca.pem"}
    federation: dict[str, Any] = {name: str(certificates / file) for name, file in tls.items()}
    federation |= {"rounds": 4, "check_rounds": 2, "wait": 60, "min_clients": 2, "insecure": False}
    path = fed_yaml(tmp_path, tiny_model_dir, 3, federation={**federation, "address": f"127.0.0.1:{free_port()}"})
    args, out = ("server", path, "--output-dir", tmp_path / "server"), tmp_path / "server"
    with clients(path, range(2)) as ours, clients(path, range(2, 3), f"federation.ca={certificates / 'other.pem'}"):
        with started(tmp_path / "log", *args) as one:
            one.until(lambda: told(out) >= 1, "a round")
            one.kill_tree()
            assert one.gone()
        assert 1 <= (cut := rounds(out)) < 4
        with started(tmp_path / "again", *args) as one:
            assert one.wait() == 0, one.text
            assert one.gone()
            assert f"goes on at round {cut} of 4" in one.text
        for client in ours:
            assert client.wait() == 0, client.text
            assert client.gone()
        assert "CERTIFICATE_VERIFY_FAILED" in (tmp_path / "client-2" / "supernode.log").read_text("utf-8", "replace")
    assert not (tmp_path / "client-2" / "run").exists()
    one_theta(out, [tmp_path / f"client-{n}" / "run" / "journal.bin" for n in range(2)], 2)


def opened_up(raw: bytes) -> bytes:
    """What was recorded, with whatever in it is a zlib or gzip stream unpacked behind it."""
    parts = [raw]
    for match in re.finditer(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]", raw):
        with suppress(zlib.error):
            parts.append(zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(raw[match.start() :]))
    return b"\n".join(parts)


def tensors(file: Path) -> Iterator[tuple[str, bytes]]:
    """(name, its first 16 bytes) of those that are not one value alone."""
    with safe_open(file, "pt") as held:
        for name in held.keys():  # noqa: SIM118
            head = held.get_tensor(name).flatten().contiguous().numpy().tobytes()[:16]
            if len(head) == 16 and len(set(head)) > 4:
                yield name, head


def test_what_is_on_the_wire(tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No text of a row, no weight, nothing of p or s; the journal, and little more."""
    port, number = free_port(), 4
    federation: dict[str, Any] = {"rounds": number, "check_rounds": number, "wait": 60, "min_clients": 2}
    federation["address"] = f"127.0.0.1:{port}"
    method = {"name": "bilevel-zofo", "lr": None, "inner_steps": 2}
    path = fed_yaml(tmp_path, tiny_model_dir, 2, federation=federation, method=method, adapter={"name": "lora", "r": 2})
    path.write_text(path.read_text().replace("  lr: null\n", ""))
    recorder, out = Recorder(port), tmp_path / "server"
    try:
        proxied = f"federation.address=127.0.0.1:{recorder.port}"
        with started(tmp_path / "log", "server", path, "--output-dir", out) as one:
            with clients(path, range(2), proxied) as ours:
                one.until(lambda: told(out) >= 1, "a round")
                first = recorder.bytes
                one.until(lambda: told(out) >= 3, "three rounds")
                of_two = recorder.bytes - first
                assert one.wait() == 0, one.text
                assert [client.wait() for client in ours] == [0, 0]
        raw = b"\n".join(bytes(kept) for kept in recorder.kept)
    finally:
        recorder.close()
    seen = opened_up(raw)
    assert b"ZOFOJ" in seen
    assert b"a text" * 9 in opened_up(b"..." + gzip.compress(b"a text" * 9))
    for client in range(2):
        run = tmp_path / f"client-{client}" / "run"
        assert (run / "journal.bin").read_bytes() == (out / "journal.bin").read_bytes()
        for line in (tmp_path / f"rows-{client}.jsonl").read_text().splitlines():
            assert json.loads(line)["text"].encode() not in seen
        adapters = [one for file in run.glob("checkpoint-*/*.safetensors") for one in tensors(file)]
        assert len(adapters) > 4
        assert not [name for name, head in adapters if head in seen]
    weights = [one for file in tiny_model_dir.glob("*.safetensors") for one in tensors(file)]
    assert len(weights) > 10
    assert not [name for name, head in weights if head in seen]
    of_messages = sum(line["bytes_down"] + line["bytes_up"] for line in events(out, "round")[1:3])
    assert of_messages < of_two < 4 * 100_000
    with capsys.disabled():
        print(f"\na round and a client: {of_two // 4} bytes on the wire, {of_messages // 4} of them messages' own")
        print(f"{len(raw)} bytes for {number} rounds and 2 clients, greetings and Flower's app with them")
