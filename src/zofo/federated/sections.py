"""The sections of fed.yaml beside those of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from zofo.errors import did_you_mean, printable
from zofo.federated import modes


def _f(default: Any, help: str, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": help, **metadata})


@dataclass(frozen=True)
class Federation:
    """The section `federation`."""

    mode: str = _f("same", "same: one direction for all clients; own: one each; fedkseed: own, out of a pool")
    rounds: int = _f(100, "updates of theta", ge=1)
    local_steps: int = _f(1, "steps of a client between two rounds, theta itself left alone", ge=1, le=1000)
    aggregate: Literal["mean", "median", "trimmed"] = _f("mean", "of the clients' coefficients of one direction")
    trim: float = _f(0.2, "share of the clients that `trimmed` leaves out at either end", ge=0, lt=0.5)
    clip: float | None = _f(None, "bound on each |c|: what one client can do, and what its noise is measured by", gt=0)
    noise: float = _f(0.0, "standard deviation of the noise that a client adds to c, over 2 clip", ge=0)
    delta: float = _f(1e-5, "of the (epsilon, delta) that is stated", gt=0, lt=1)
    pool: int = _f(4096, "seeds of mode fedkseed", ge=1)
    min_clients: int = _f(1, "answers without which a round makes no update and is asked again", ge=1)
    wait: float = _f(600.0, "seconds a round waits for those who have not answered", gt=0)
    give_up: float = _f(86400.0, "seconds without min_clients after which the server ends", gt=0)
    eval_rounds: int = _f(0, "rounds between two evaluations on the clients' dev rows; 0: none", ge=0)
    check_rounds: int = _f(50, "rounds between two comparisons of the clients' theta", ge=1)
    address: str = _f("127.0.0.1:9093", "host:port of the server")
    certificate: str | None = _f(None, "PEM of the server, for TLS")
    key: str | None = _f(None, "PEM of its private key")
    ca: str | None = _f(None, "PEM of who signed the certificate; a client trusts this one")
    insecure: bool = _f(False, "without TLS: on a network that nobody else reads")

    def problems(self) -> list[str]:
        faults = []
        if self.mode not in modes.names():
            hint = did_you_mean(self.mode, modes.names()) or f"; known: {', '.join(modes.names())}"
            faults.append(f'mode: unknown "{printable(self.mode, 60)}"{hint}')
        elif self.aggregate != "mean" and not modes.load(self.mode).robust:
            faults.append(
                f"aggregate: mode {self.mode} has a direction a client, and coefficients of different directions have "
                f"no {self.aggregate}; give clip, or mode: same"
            )
        if self.noise and self.clip is None:
            faults.append("noise: is measured by clip, the most that c can be; give clip")
        if not (port := self.address.rpartition(":")[2]).isdecimal() or not 0 < int(port) < 2**16:
            faults.append("address: expected host:port")
        return faults

    @property
    def tls(self) -> bool:
        return not self.insecure


@dataclass(frozen=True)
class Simulation:
    """The section `simulate`: clients on this machine, of whom some fail."""

    clients: int = _f(4, "clients", ge=1, le=10000)
    alpha: float | None = _f(None, "how skewed the labels are: Dirichlet's parameter, .1 a lot; null: not", gt=0)
    late: dict[str, int] = field(
        default_factory=dict, metadata={"help": "{client: rounds that its answers come too late}"}
    )
    lost: dict[str, list[int]] = field(
        default_factory=dict, metadata={"help": "{client: [first round away, first round back]}"}
    )
    lying: dict[str, float] = field(default_factory=dict, metadata={"help": "{client: what its c is multiplied by}"})
    wait: float = _f(60.0, "seconds a round waits, in place of federation.wait", gt=0)

    def problems(self) -> list[str]:
        known = {str(i) for i in range(self.clients)}
        return [
            f'{what}: no client "{printable(str(name), 20)}"; they are 0 to {self.clients - 1}'
            for what in ("late", "lost", "lying")
            for name in getattr(self, what)
            if str(name) not in known
        ]
