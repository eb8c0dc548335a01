"""`zofo check`: a machine's bits, bytes and seconds, a verdict a line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from zofo.cli.options import option
from zofo.config.json_text import dumps
from zofo.errors import InputError, RunError, printable


def check(
    device: Annotated[str, option("auto, cpu, cuda, cuda:1.")] = "auto",
    dtype: Annotated[str, option("Of the model: auto (bfloat16 on CUDA, else float32), float32, bfloat16.")] = "auto",
    output: Annotated[str | None, option("A .json file for the block that is printed last.")] = None,
    overwrite: Annotated[bool, option("Replace the output.", "--overwrite")] = False,
    tiny: Annotated[bool, option("A rehearsal on a model of two narrow layers: no figures.", "--tiny")] = False,
) -> None:
    """Check this machine in about two minutes: the kernels' bits, theta after estimates, mixed rows, speed, memory.

    Nothing is downloaded: the model has SmolLM2-135M's shape and random weights. The block at the end holds the figures
    and no name of yours, for an issue or for the project's table (docs/check.md). Exit code 1 where results are wrong.
    """
    if output is not None and Path(output).exists() and not overwrite:
        raise InputError(f"{output}: is there already; give --overwrite to replace it, or another name")
    from zofo.api.check_machine.run import block, checks

    began, verdicts = time.perf_counter(), []
    for verdict in checks(device, dtype, tiny):
        verdicts.append(verdict)
        typer.echo(printable(f"{verdict.word:<12} {verdict.name}: {verdict.words}"))
    text = dumps(block(verdicts, device, time.perf_counter() - began), indent=1)
    typer.echo(f"\n```json\n{text}\n```")
    if output is not None:
        from zofo.train.files import write_text

        write_text(Path(output), text + "\n")
        typer.echo(f"saved in {output}", err=True)
    if wrong := [verdict.name for verdict in verdicts if verdict.good is False and verdict.grave]:
        raise RunError(f"wrong on this machine: {', '.join(wrong)}; send the block above as an issue")
