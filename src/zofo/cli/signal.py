"""`zofo signal`: whether a zeroth-order step can help here, from forwards alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zofo.cli.options import (
    ADAPTER_OF,
    Adapter,
    BaseModel,
    Data,
    Preset,
    Settings,
    Task,
    TrainFile,
    option,
)
from zofo.config.json_text import dumps

if TYPE_CHECKING:
    from zofo.study.signal import Signal
    from zofo.study.signal_statistics import Interval

AIM = 0.01  # nats of loss, of which the steps are told


def signal(
    settings: Settings = None,
    model: BaseModel = None,
    task: Task = None,
    data: Data = None,
    train_file: TrainFile = None,
    method: Annotated[str | None, option("A method (zofo ls methods); mezo if left out.")] = None,
    adapter: Adapter = None,
    preset: Preset = None,
    split: Annotated[str, option("Rows: dev, test, train, or f and p (D_f and D_p of two levels).")] = "dev",
    candidate: Annotated[str | None, ADAPTER_OF] = None,
    limit: Annotated[int, typer.Option(min=8, help="Rows of the split, from the first.")] = 128,
    directions: Annotated[int, typer.Option(min=2, help="Each costs two forwards of all rows.")] = 32,
    by_layer: Annotated[int, typer.Option(min=0, help="Directions for each layer's own gradient; 0: none.")] = 0,
    eps: Annotated[float, option("Radius of the differences.")] = 1e-3,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of a forward.")] = 32,
    seed: Annotated[int, option("Seed of the directions and of the intervals.")] = 0,
    as_json: Annotated[bool, option("JSON.", "--json")] = False,
) -> None:
    """Say whether a zeroth-order step can help: at RUN, at one of its checkpoints, or at the start of a CONFIG.

    From forwards alone, with 95 % intervals: the squared norm of the mean gradient of theta, the variance of a row's
    gradient, so the share of signal in a batch, the curvature, and the best step that follows (docs/signal.md).
    """
    from zofo.cli.settings import run_among, train_config

    others = {"task": task, "train_file": train_file, "method": method, "adapter": adapter, "preset": preset}
    given: dict[str, Any] = {"split": split, "limit": limit, "directions": directions, "by_layer": by_layer}
    given |= {"eps": eps, "batch_size": batch_size, "seed": seed, "adapter": candidate}
    from zofo.api.states import is_state
    from zofo.study.signal import signal as estimate

    if (place := run_among(settings or [], others, is_state)) is not None:
        found = estimate(place[0], model=model, data=data, overrides=place[1], **given)
    else:
        from zofo.cli.options import with_rows

        rows = with_rows(settings, data, (train_file, None, None), (None, None))
        sections = {"model": model, "task": task, "method": method, "adapter": adapter}
        if method is None and preset is None and not any("=" not in text for text in settings or []):
            sections["method"] = "mezo"
        found = estimate(train_config(rows, preset, sections, {"output_dir": "unused"}), **given)
    if as_json:
        print(dumps(found.to_dict(), indent=2))
        return
    print("\n".join(lines(found)))


def lines(found: Signal) -> list[str]:
    """What a person reads."""
    from zofo.study.signal import BATCHES

    moments = found.moments
    out = [
        f"{found.place}: loss {found.loss:.4f} on {moments.rows} {found.split} rows, {moments.directions} directions",
        "",
        f"|g|^2 of the mean gradient   {_shown(moments.gradient)}",
        f"variance of a row's gradient {_shown(moments.variance)}",
        f"trace of the Hessian         {_shown(moments.curvature)}",
        "",
        f"{'batch':>6}  {'share of signal':<22}"
        + (f"{'best rate':<28}gain at most  steps for 0.01" if found.steps else ""),
    ]
    steps = {step.batch: step for step in found.steps}
    for batch in BATCHES:
        share = moments.share(batch)
        line = f"{batch:>6}  {share.value:.3f} ({share.low:.3f} to {share.high:.3f})"
        if (step := steps.get(batch)) is not None:
            rate = f"{step.rate.value:.2g} ({step.rate.low:.2g} to {step.rate.high:.2g})"
            line += f"  {rate:<26}  {step.gain:<12.2g}  {math.ceil(AIM / step.gain):,}"
        out.append(line)
    out += ["", *advice(found)]
    if found.layers:
        widest = max(map(len, found.layers))
        out += ["", "|g|^2 by layer"]
        out += [f"{name:<{widest}}  {_shown(interval)}" for name, interval in found.layers.items()]
    return out


def advice(found: Signal) -> list[str]:
    """What follows, in words."""
    moments = found.moments
    if not moments.found:
        most = moments.gradient.high
        out = [
            f"The mean gradient cannot be told from 0 with {moments.rows} rows and {moments.directions} directions: "
            f"whatever the estimator, a step here is noise of the data."
        ]
        if most > 0:
            least = math.ceil(moments.variance.value / most)
            out.append(
                f"At the largest gradient that the interval allows, half of a batch of {least:,} would be signal; the "
                f"shares above are of the value in its middle. No rate follows, so none is shown."
            )
        return [*out, "More rows (--limit) and directions narrow the intervals; docs/signal.md says what else helps."]
    half = moments.half
    out = [f"Half of a batch of {_rows(half.value)} is signal ({_rows(half.low)} to {_rows(half.high)})."]
    if not found.steps:
        return [*out, "No rate follows: the curvature that a step meets is not known to be positive (more directions)."]
    nearest = min(found.steps, key=lambda step: abs(math.log(step.batch / max(found.batch, 1))))
    out.append("With q directions a step, the best rate and the gain are at most q times those; the cost is q times.")
    if found.rate:
        out.append(
            f"The configuration's rate for theta, {found.rate:g}, is {found.rate / nearest.rate.value:.2g} times the "
            f"best at batch {nearest.batch}."
        )
    return out


def _rows(value: float) -> str:
    return f"{math.ceil(value):,}" if math.isfinite(value) else "infinitely many"


def _shown(interval: Interval) -> str:
    return f"{interval.value:<10.4g} ({interval.low:.4g} to {interval.high:.4g})"
