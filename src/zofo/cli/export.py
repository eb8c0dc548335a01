"""`zofo export`: a run's model written for plain transformers and peft, and on the hub."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from zofo.cli.options import BaseModel, option
from zofo.cli.process import libraries
from zofo.errors import InputError


def export(
    run_dir: Annotated[str, typer.Argument(help="A run's directory.")],
    output_dir: Annotated[str, typer.Argument(help="Where to write the model.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[model.key=value]...", help="Changes (zofo show model).")
    ] = None,
    merge: Annotated[bool, option("One plain model, or nothing: the usual, where it can be.", "--merge")] = False,
    separate: Annotated[bool, option("The backbone and the adapter apart.", "--separate")] = False,
    model: BaseModel = None,
    adapter: Annotated[str | None, option("p, s, or theta for none; the deployed one if left out.")] = None,
    overwrite: Annotated[bool, option("Replace a directory that exists.", "--overwrite")] = False,
    push_to_hub: Annotated[
        str | None, typer.Option("--push-to-hub", metavar="OWNER/NAME", help="Commit it to this repository, too.")
    ] = None,
    private: Annotated[bool, option("A repository that is made is private.", "--private")] = False,
    revision: Annotated[str | None, option("Branch to commit to, made where it is not there.")] = None,
) -> None:
    """Write a model for plain transformers and peft.

    One folder that transformers opens anywhere, the adapter in its weights. An adapter that changes no weights (prompt,
    prefix, dept), or with --separate, is written beside its backbone; the folder's README.md is a model card and says
    how to open it. A push is one commit of these files, with the token in HF_TOKEN or of `hf auth login`.
    """
    with libraries():
        from zofo.api import finetune

    if merge and separate:
        raise InputError("--merge and --separate: give one of them")
    how: dict[str, Any] = {"merge": True if merge else False if separate else None, "adapter": adapter}
    how |= {"overwrite": overwrite, "push_to_hub": push_to_hub, "private": private or None, "revision": revision}
    typer.echo(str(finetune.export(run_dir, output_dir, model=model, overrides=settings or [], **how)))
    if push_to_hub is not None:
        from zofo.api.hub import Destination

        typer.echo(Destination(push_to_hub, revision).address)
