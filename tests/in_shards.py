"""Runs whose theta is held by several processes, and the theta that their journal gives on a whole model."""

from __future__ import annotations

from pathlib import Path

from tests.forked import zofo_main
from tests.in_ranks import in_ranks
from zofo.models.load import load
from zofo.train import checkpoint
from zofo.train.checks import shift_mode
from zofo.train.loop import Loop
from zofo.train.run_dir import RunDir
from zofo.zo.point import Point


def said_main(*args: str) -> None:
    """`zofo ARGS`, which prints the digest of theta as it is when training ends."""
    fit = Loop.fit

    def said(loop: Loop) -> None:
        fit(loop)
        print("theta", loop.session.backbone.digest(), flush=True)

    setattr(Loop, "fit", said)  # noqa: B010
    zofo_main(*args)


def sharded(size: int, *args: str) -> set[str]:
    """Train in so many processes. Returns the digests of theta that they said: one, where all is well."""
    said = set()
    for each in in_ranks(size, *args, act=said_main):
        assert each.returncode == 0, each.stderr
        said |= {line.split()[1] for line in each.stdout.splitlines() if line.startswith("theta ")}
    return said


def replayed(run: Path) -> str:
    """The digest of the theta that a run's whole journal gives in this process, on a whole model."""
    config = RunDir(run).read_config()
    theta = Point(load(config.model).model, mode=shift_mode(config))
    checkpoint.move_theta(theta, config, run / "journal.bin", None, run / "nothing")
    return theta.digest()
