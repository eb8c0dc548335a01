"""`zofo train --dry-run`: one real step of each kind at the longest batch, and what the run will take."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import repeat
from typing import Any

from zofo.api.adapter_start import trained_for
from zofo.config.cadence import rounded
from zofo.config.resolve import Config
from zofo.config.sections import ModelConfig
from zofo.data.batch import collate
from zofo.data.preview import preview, sizes
from zofo.data.stream import longest
from zofo.methods._base import Base as Method
from zofo.methods._problem import Schedule
from zofo.models.backbone import Loaded
from zofo.train.progress import duration, gib
from zofo.train.record import peak_bytes
from zofo.train.setup import audit, build


def dry_run(
    config: Config,
    metric: Callable[..., Any] | None = None,
    load: Callable[[ModelConfig], Loaded] | None = None,
) -> dict[str, Any]:
    """Print three prompts, the time and the peak memory of a step, and the time of the whole run. Writes no file.

    metric, load: see `train`. Returns {steps, seconds_per_step, peak_bytes}.
    """
    trained = trained_for(config)
    session = build(config, load, metric=metric, start=None if trained is None else trained.directory)
    config = session.config  # of which the steps are counted
    selects = session.counted_per_step > 0
    for line in (*sizes(session.data, config.task, selects), *preview(session.data, session.encoded)):
        print(line)
    for line in filter(None, (session.passes.words(), *rounded(config.train, session.method.per_step))):
        print(line)
    if session.journals:
        audit(session)
    problem, method = session.problem, session.method
    problem.streams = {
        name: repeat(collate(longest(stream.encoded, stream.batch_size), stream.pad_id))
        for name, stream in session.streams.items()
    }
    problem.rate = Schedule("constant", 1)
    method.setup(problem)
    per_step = session.counted_per_step
    steps = config.train.max_steps // per_step if per_step else 0
    info: dict[str, Any] = {"steps": steps * per_step}
    for line in session.extra_memory():
        print(line)
    if steps:
        total = 0.0
        for k, number in method.kinds(steps).items():
            seconds = _rehearse(method, k)
            total += seconds * number
        info["seconds_per_step"] = total / (steps * per_step)
        print(f"the run of {info['steps']} counted steps takes at most about {duration(total)}, plus evaluations")
    info["peak_bytes"] = peak_bytes(session.loaded.device)
    print(f"peak memory: {gib(info['peak_bytes'])}")
    return info


def _rehearse(method: Method, k: int) -> float:
    """Seconds of step k, the second time: the first one compiles kernels and fills caches."""
    method.step(k)
    before, now = method.updates(k), method.updates(k + 1)
    start = time.perf_counter()
    metrics = method.step(k)
    seconds = time.perf_counter() - start
    done = ", ".join(f"{now[level] - before[level]} {level}" for level in now)
    print(f"one step ({done} updates) at the longest batch: {seconds:.2f} s")
    print("  " + ", ".join(f"{key} {value:.4g}" for key, value in metrics.items()))
    return seconds
