"""Flower's own programs, started with a federation's settings: SuperLink, SuperNode, `flwr run`. No socket is ours.

What they keep is in DIR/flower (FLWR_HOME), so that nothing is written to a home directory, and what they would tell
others of themselves is switched off.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from zofo.config.json_text import dumps
from zofo.errors import InputError, RunError
from zofo.federated.book import MARK
from zofo.federated.processes import running
from zofo.federated.sections import Federation
from zofo.federated.settings import Settings

APP = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "zofo-federation"
version = "1.0.0"
description = "zofo's federated zeroth-order training; the code is the installed zofo"
license = { file = "LICENSE" }
dependencies = ["flwr>=1.42"]

[tool.flwr.app]
publisher = "zofo"
fab-format-version = 1
flwr-version-target = "1.42.0"

[tool.flwr.app.components]
serverapp = "zofo_federation.app:server_app"
clientapp = "zofo_federation.app:client_app"

[tool.flwr.app.config]
root = ""
simulated = false
"""
CODE = "from zofo.federated.flower import client_app, server_app\n\n__all__ = ['client_app', 'server_app']\n"
OURS = "--disable-runtime-dependency-installation"  # the app runs in this environment, where zofo is
LOG = "flower.log"
START, LOOK = 60.0, 0.2  # seconds a program may take to be there, and between two looks
LAST = 10.0  # seconds in which a client's last answer goes to the server


def program(name: str) -> str:
    """One of Flower's, beside this Python. Raises InputError where it is not installed."""
    beside = Path(sysconfig.get_path("scripts")) / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise InputError("federations run on Flower, which is not installed; pip install 'zofo[flower]'")
    return found


def environment(home: Path) -> dict[str, str]:
    home.mkdir(parents=True, exist_ok=True)
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    bin_first = f"{Path(sysconfig.get_path('scripts'))}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, **quiet, "FLWR_HOME": str(home.resolve()), "PATH": bin_first}


def _tls(federation: Federation) -> list[str]:
    """Of a SuperLink. Raises InputError where neither certificates nor `insecure` are given."""
    if not federation.tls:
        return ["--insecure"]
    given = {"certificate": federation.certificate, "key": federation.key, "ca": federation.ca}
    if missing := [name for name, value in given.items() if value is None or not Path(value).is_file()]:
        raise InputError(
            f"federation.{missing[0]}: {given[missing[0]] or 'none given'}: TLS needs the files certificate, key and "
            "ca (docs/federated.md makes some); or give insecure: true, for a network that nobody else reads"
        )
    flags = ("--ssl-certfile", "--ssl-keyfile", "--ssl-ca-certfile")
    return [part for flag, value in zip(flags, given.values()) for part in (flag, str(value))]


@contextmanager
def superlink(federation: Federation, root: Path, port: int, simulated: bool = False) -> Iterator[str]:
    """A SuperLink, and the name of the connection to it, for `flwr run`. It is ended with what it started."""
    home, host = root / "flower", "127.0.0.1" if simulated else federation.address.rpartition(":")[0].strip("[]")
    tls = ["--insecure"] if simulated else _tls(federation)
    where = ["--host", host, "--port", str(port)]
    command = [program("flower-superlink"), *tls, *where, *(["--simulation"] if simulated else [])]
    if not simulated:
        _free(host, port)
    env, log = environment(home), root / "superlink.log"
    with running([*command, "--isolation", "subprocess", OURS], env, log) as process:
        _there(process, log, port, host)
        at = f"[{dial}]" if ":" in (dial := _dial(host)) else dial
        config = f'[superlink]\ndefault = "zofo"\n\n[superlink.zofo]\naddress = "{at}:{port}"\n'
        secure = simulated or not federation.tls
        config += "insecure = true\n" if secure else f"root-certificates = {dumps(str(Path(str(federation.ca))))}\n"
        (home / "config.toml").write_text(config, "utf-8")
        yield "zofo"


def _dial(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)


def run_app(
    root: Path,
    connection: str,
    simulated: bool,
    resources: Sequence[str] = (),
    code: str = CODE,
    say: Callable[[str], None] = print,
) -> int:
    """`flwr run`, to the app's end. Returns its exit code. resources: key=value for a simulation. code: of the app.
    say: is told what zofo says; all that Flower says is in flower.log."""
    folder, env = root / "flower" / "zofo-federation", environment(root / "flower")
    (folder / "zofo_federation").mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(APP, "utf-8")
    (folder / "LICENSE").write_text("Apache-2.0, as zofo.\n", "utf-8")
    (folder / "zofo_federation" / "__init__.py").write_text("", "utf-8")
    (folder / "zofo_federation" / "app.py").write_text(code, "utf-8")
    config = f"root={dumps(str(root.resolve()))} simulated={'true' if simulated else 'false'}"
    command = [program("flwr"), "run", str(folder), connection, "--stream", "--run-config", config]
    if resources:
        command += ["--federation-config", " ".join(resources)]
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command, env=env, text=True, encoding="utf-8", errors="replace", **pipes)
    try:
        with (root / LOG).open("a", encoding="utf-8") as log:
            for line in process.stdout or ():
                log.write(line)
                log.flush()
                if MARK in line:
                    say(line.rpartition(MARK)[2].rstrip("\n"))
        return process.wait()
    finally:
        process.terminate()
        process.wait()


@contextmanager
def supernode(federation: Federation, root: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A SuperNode whose client is in this directory."""
    env = environment(root / "flower")
    tls = ["--insecure"] if not federation.tls else ["--root-certificates", str(federation.ca)]
    node = f"root={dumps(str(root.resolve()))} name={dumps(name)}"
    command = [program("flower-supernode"), *tls, "--superlink", federation.address, "--node-config", node]
    with running([*command, "--port", str(free_port())], env, root / "supernode.log") as process:
        yield process


def answer(federation: Federation, root: Path, name: str, say: Callable[[str], None]) -> None:
    """A SuperNode until the server has said that all rounds are made. A server that was started again knows none of
    those of before, which end: another one greets it. Raises RunError where one fails."""
    (ended := root / "run" / "ended").unlink(missing_ok=True)  # of a federation that had fewer rounds
    while not ended.exists():
        with supernode(federation, root, name) as process:
            while process.poll() is None and not ended.exists():
                time.sleep(LOOK)
            if ended.exists():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(LAST)
            elif process.returncode:
                raise RunError(f"the SuperNode ended with code {process.returncode}; {root / 'supernode.log'} says why")
            else:
                say(f"{root}: the server at {federation.address} does not know this client any more; greets it again")


def _there(process: subprocess.Popen[bytes], log: Path, port: int, host: str) -> None:
    """Raises RunError where it ends, or does not answer within a minute."""
    end = time.monotonic() + START
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            with socket.create_connection((_dial(host), port), timeout=1):
                return
        except OSError:
            time.sleep(LOOK)
    tail = "\n".join(log.read_text("utf-8", "replace").splitlines()[-5:]) if log.is_file() else ""
    raise RunError(f"Flower's SuperLink did not start; {log} ends with:\n{tail}")


def _free(host: str, port: int) -> None:
    """Raises InputError where a server cannot listen there."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        why = (os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)).lower()
        raise InputError(f"federation.address: {host}:{port}: {why}; choose another, for clients as well") from error


def free_port() -> int:
    """One that nobody listens on now, for a simulation."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def resources(settings: Settings) -> list[str]:
    return resources_for(settings.simulation.clients)


def resources_for(clients: int) -> list[str]:
    """Of a simulation: one actor, which has all clients open, and all cores."""
    cores = os.cpu_count() or 1
    return [
        f"num-supernodes={clients}",
        f"client-resources-num-cpus={cores}",
        f"init-args-num-cpus={cores}",
    ]
