"""Verbs that say what there is, and the one that shows it: ls, show, env, quickstart."""

from __future__ import annotations

from typing import Annotated

import typer

from zofo.cli.options import option
from zofo.cli.report import after_quick_start


def ls(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="methods, adapters, objectives, estimators, masks, rules, tasks, settings, presets or plans; else all."
        ),
    ] = None,
) -> None:
    """List what there is, one line each."""
    from zofo.cli.show import print_names

    print_names(kind)


def show(
    name: Annotated[
        str, typer.Argument(help="A method, adapter, task, setting, ..., a task's or setting's .yaml, or model, train.")
    ],
    template: Annotated[str | None, option("Of a task: this template alone.")] = None,
    data: Annotated[str | None, option("Of a task: a prompt of this data; of a setting: what is there of it.")] = None,
) -> None:
    """Settings of a method, adapter, task, ...

    Fields, types, defaults and their places in the paper; a task's source, and a prompt with its answers.
    """
    from zofo.cli.show import print_entry

    print_entry(name, template, data)


def env(
    full: Annotated[bool, option("Also CUDA devices and torch's build (imports torch).", "--full")] = False,
) -> None:
    """Versions and hardware, for a bug report."""
    from zofo.cli.show import print_environment

    print_environment(full)


def quickstart(
    cache_dir: Annotated[str, option("Where model and data are kept.")] = ".cache/quickstart",
    output_dir: Annotated[str, option("Directory of the run.")] = "out/quickstart",
    steps: Annotated[int | None, option("Fewer or more steps than the preset's.")] = None,
) -> None:
    """A real fine-tune on the CPU, in minutes.

    SmolLM2-135M on movie-review sentences with Bilevel ZOFO and LoRA, model and data included.
    """
    from zofo.api.quickstart import run as quick_start

    quick_start.run(cache_dir, output_dir, steps)
    after_quick_start(output_dir)
