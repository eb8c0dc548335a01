"""The end of a run: back to the best evaluation, the test set, and what is left for people and programs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from zofo.api.card.card import of_run
from zofo.config.json_text import dumps
from zofo.eval.confusion import confusion
from zofo.eval.likelihood import as_rows
from zofo.train import record
from zofo.train.loop import Loop
from zofo.train.outcome import Sizes, outcome_of
from zofo.train.weights import blown_up, largest


def finish(loop: Loop) -> dict[str, Any]:
    """Go back to the best evaluation, measure the test set if wanted, write run.json, predictions and a model card."""
    session, best, run = loop.session, loop.at.best, loop.run
    assert best is not None
    peak, last = record.peak_bytes(session.loaded.device), largest(session)
    loop.checkpoints.restore_best(best, loop.at.k)
    sizes = Sizes(loop.before, last, largest(session))
    test: dict[str, dict[str, float]] = {name: {} for name in session.method.candidates}
    for name in test if session.config.train.score_test else ():
        result = loop.evaluate("test", name)
        test[name] = result.values
        lines = [dumps(row) for row in as_rows(result, session.encoded["test"])]
        run.write(f"eval/predictions-{name}.jsonl", "\n".join(lines) + "\n")
        if result.report is not None:
            run.write_json(f"eval/report-{name}.json", result.report)
        for line in confusion(result) if name == best.candidate else ():
            loop.progress.say(line)
    ending = outcome_of(session, run.journal, loop.updates, loop.skips, loop.loss, sizes)
    ending = replace(ending, step=loop.count, of=session.config.train.max_steps)
    if not ending.failed and (words := blown_up(sizes.before, sizes.deployed)):
        loop.progress.say(
            f"warning: {words}, in what dev chose; look at what it says, and start again with lower rates"
        )
    info = {**_info(loop, peak, test), "outcome": ending.to_dict()}

    def write() -> None:
        run.write_readme(of_run(info, session.config))
        run.write_info(info)  # last: with it the run is finished

    session.ranks.lead(write)  # the others may read it next
    return info


def _info(loop: Loop, peak: int, test: dict[str, dict[str, float]]) -> dict[str, Any]:
    """run.json, format 1; the schema is documented in docs/tour.md."""
    session, config, best = loop.session, loop.session.config, loop.at.best
    assert best is not None
    method, problem = session.method, session.problem
    return {
        "zofo": record.environment()["packages"]["zofo"],
        "format": record.FORMAT,
        "method": config.names["method"],
        "adapter": config.names.get("adapter"),
        "task": session.data.name,
        "task_version": session.data.version,
        "metric": session.data.metric,
        "model": config.model.name,
        "seed": config.train.seed,
        "steps": method.updates(loop.at.k),
        "best_step": best.count,
        "journal_position": best.journal,
        **problem.loss.meter.state_dict(),
        "skipped": problem.refusals.total,
        "skipped_by_level": dict(problem.refusals.skipped),
        "halvings": dict(problem.refusals.halvings),
        "dev": best.dev,
        "test": test,
        "deployed": best.candidate,
        "seconds": loop.at.seconds,
        "seconds_per_step": loop.at.seconds / loop.count if loop.count else None,
        "peak_bytes": peak,
        "phases": loop.phases.to_dict(),
        "parameters": {
            "theta": problem.theta.size if method.moves != "nothing" else 0,
            "adapter": problem.adapters.size(problem.adapters.names[0]) if problem.adapters else 0,
        },
        "bad_rows": dict(session.data.bad_rows),
        "examples": {name: len(encoded) for name, encoded in session.encoded.items()},
        "tasks": session.tasks,
        "world_size": session.ranks.size,
        "ranks": None if session.ranks.alone else session.ranks.to_dict(),
        "labels": list(session.data.labels),
        "base_sha256": session.base_sha256,
        "inputs": session.inputs,
        "config_hash": config.hash(),
        "environment": record.environment(),
    }
