"""The verb `meta-test`: its options, and what it prints; tab-separated off a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import typer

from zofo.cli.options import BaseModel, Data, option
from zofo.errors import InputError

Number = TypeVar("Number", int, float)


def meta_test(
    target: Annotated[str, typer.Argument(help="A run's directory, an export without an adapter, or a model.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[task.key=value] [model.key=value]...", help="Other changes (zofo show task, model)."),
    ] = None,
    model: BaseModel = None,
    task: Annotated[str | None, option("A setting (zofo ls settings), where it is not the run's.")] = None,
    data: Data = None,
    ways: Annotated[
        str | None, option("Of zero-shot, zero-shot-s, in-context, tuned, tuned-fresh, with commas; by the target.")
    ] = None,
    seeds: Annotated[str | None, option("Of the demonstrations; 100,13,21,42,87.")] = None,
    num_fewshot: Annotated[int | None, typer.Option(min=1, help="k, demonstrations in context; 4.")] = None,
    each: Annotated[int | None, typer.Option(min=1, help="Examples of each class to tune on; 4.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Tuning steps; 10.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Examples of a tuning step; 4.")] = None,
    rates: Annotated[
        str | None, option("Tuning rates that the held-out tasks choose from; 1e-4,3e-4,1e-3,3e-3.")
    ] = None,
    rate_runs: Annotated[int | None, typer.Option(min=1, help="Seeds that choose the rate; all.")] = None,
    test_examples: Annotated[int | None, typer.Option(min=1, help="Of each target task; 1000.")] = None,
    eval_batch_size: Annotated[int | None, typer.Option(min=1, help="Examples at once; 32, or the run's.")] = None,
    output: Annotated[str | None, option("A directory for results, predictions, and parts to go on from.")] = None,
    overwrite: Annotated[bool, option("Replace another measurement in the output directory.", "--overwrite")] = False,
) -> None:
    """Measure a model on a setting's target tasks: zero-shot, in context, and after a few steps of an adapter.

    Each part is written as it is done: the same command with the same --output goes on where it was cut.
    """
    plan: dict[str, Any] = {
        "k": num_fewshot,
        "each": each,
        "steps": steps,
        "batch_size": batch_size,
        "rate_runs": rate_runs,
        "test_examples": test_examples,
        "seeds": numbers(seeds, "--seeds", int),
        "rates": numbers(rates, "--rates", float),
    }
    from zofo.api.metatest.run import meta_test as measure

    result = measure(
        target,
        model=model,
        task=task,
        data=data,
        ways=words(ways),
        output=output,
        overwrite=overwrite,
        eval_batch_size=eval_batch_size,
        overrides=settings or [],
        **{key: value for key, value in plan.items() if value is not None},
    )
    print_result(result)


def numbers(text: str | None, flag: str, kind: type[Number]) -> tuple[Number, ...] | None:
    """ "100,13" -> (100, 13); None stays. Raises InputError."""
    if text is None:
        return None
    try:
        return tuple(kind(part) for part in words(text) or ())
    except ValueError:
        what = "integers" if kind is int else "numbers"
        raise InputError(f"{flag}: expected {what} with commas between them, got {text!r}") from None


def words(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def print_result(result: dict[str, Any]) -> None:
    """In per cent: the mean over the target tasks, then over the seeds, with the standard deviation over the seeds."""
    from zofo.api.metatest.results import rows, with_sd
    from zofo.cli.show import table

    print("per cent, mean over the target tasks; (standard deviation over the seeds)")
    table(("way", "mean", "worst seed", "unseen domain"), rows(result["ways"]), header=True)
    print()
    ways: Sequence[str] = list(result["ways"])
    tasks = list(dict.fromkeys(task for way in ways for task in result["ways"][way]["tasks"]))
    lines = []
    for task in tasks:
        by_way = [result["ways"][way]["tasks"][task] for way in ways]
        lines.append((task, by_way[0]["metric"], *(with_sd(values) for values in by_way)))
    table(("target task", "metric", *ways), lines, header=True)
