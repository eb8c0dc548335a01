"""The public functions: finetune, evaluate, load, export. They join the parts and hold no algorithm."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zofo.api.configure import resolve
from zofo.api.export import export
from zofo.api.restore import given_model
from zofo.api.targets import as_path, load
from zofo.config.json_text import dumps
from zofo.config.resolve import Config
from zofo.errors import InputError
from zofo.eval.likelihood import as_rows
from zofo.train import record
from zofo.train.callbacks import check_callbacks
from zofo.train.loop import Loop
from zofo.train.run_dir import RunDir
from zofo.train.setup import audit, build

if TYPE_CHECKING:
    from transformers import TrainerCallback

__all__ = ["Run", "evaluate", "export", "finetune", "load", "train"]


@dataclass
class Run:
    """A finished run: its directory and the contents of run.json."""

    path: Path
    info: dict[str, Any] = field(repr=False)

    @property
    def deployed(self) -> str:
        """The adapter beside theta that dev chose ("s", "p"), or "theta" where there is none."""
        return self.info["deployed"]

    @property
    def dev(self) -> dict[str, float]:
        """Loss and metric on dev of what is deployed."""
        return self.info["dev"][self.deployed]

    @property
    def test(self) -> dict[str, float]:
        """Loss and metric on test of what is deployed."""
        return self.info["test"][self.deployed]

    @property
    def test_by_candidate(self) -> dict[str, dict[str, float]]:
        """Loss and metric on test of every candidate, e.g. both adapters."""
        return self.info["test"]

    def export(self, output_dir: str | Path, merge: bool | None = None, adapter: str | None = None) -> Path:
        """A directory for plain transformers and peft; see `zofo.api.export.export`."""
        return export(self.path, output_dir, merge=merge, adapter=adapter)


def finetune(
    model: str,
    task: str,
    method: str | Mapping[str, Any] | None = None,
    adapter: str | Mapping[str, Any] | None = None,
    *,
    output_dir: str | Path,
    preset: str | None = None,
    callbacks: Sequence[TrainerCallback | type[TrainerCallback]] = (),
    overrides: Sequence[str] = (),
    dry_run: bool = False,
    **train_options: Any,
) -> Run:
    """Fine-tune `model` (a hub id or a directory) on `task` (a task's name, or a file of one's own).

    method, adapter: a name, or a mapping with `name` and settings; the preset's if left out, and without a preset
    bilevel-zofo. train_options: fields of the `train` section, such
    as max_steps, batch_size, seed, resume, overwrite. overrides: "section.key=value" for everything else. callbacks:
    transformers TrainerCallbacks. Returns the finished Run. Raises InputError and RunError.
    """
    if method is None and preset is None:
        method = "bilevel-zofo"
    sections: dict[str, Any] = {"model": model, "task": task, "method": method, "adapter": adapter}
    options = {"output_dir": str(output_dir), **train_options}
    return train(resolve(None, overrides, preset, train=options, source="caller", **sections), dry_run, callbacks)


def train(
    config: Config, dry_run: bool = False, callbacks: Sequence[TrainerCallback | type[TrainerCallback]] = ()
) -> Run:
    """Run a resolved configuration: train, select, test, record. With dry_run, one step of each kind and no files."""
    config = config.absolute()
    run = RunDir(config.train.output_dir)
    if dry_run:
        from zofo.api.dry_run import dry_run as rehearse

        return Run(run.root, rehearse(config))
    check_callbacks(config.train.report_to, callbacks)
    resume_from = _check_directory(config, run)
    session = build(config)
    if session.journals:
        audit(session)
    inputs = session.inputs  # while theta is still the base
    if resume_from is None:  # not before everything that can be wrong with the input has been found
        run.clear()
        run.begin(inputs)
    loop = Loop(session, run, callbacks)
    if resume_from is not None:
        loop.resume(resume_from)  # may be refused, and must leave the run as it was then
    launched = dataclasses.replace(config.train, output_dir=".", resume=None, overwrite=False)
    run.write_config(dataclasses.replace(config, train=launched))
    if resume_from is None:
        loop.checkpoints.start()
    loop.fit()
    with loop.ending():
        run = _finish(loop)
    loop.refuse_skips()
    return run


def _check_directory(config: Config, run: RunDir) -> Path | None:
    """The checkpoint to resume from, or None for a new run. Raises InputError where another run is in the way."""
    resume, out = config.train.resume, run.root
    if out.exists() and not out.is_dir():
        raise InputError(f"train.output_dir: {out} is a file")
    if resume is not None:
        return _to_resume(config, run, resume)
    if foreign := run.foreign():
        names = ", ".join(path.name for path in foreign)
        raise InputError(
            f"train.output_dir: {out} holds {names}, which no run of zofo wrote and a run would overwrite; choose "
            f"another directory"
        )
    if run.ours() and not config.train.overwrite:
        raise InputError(f"train.output_dir: {out} holds {_in_the_way(config, run)}")
    return None


def _to_resume(config: Config, run: RunDir, resume: str) -> Path:
    """The checkpoint, one of this run's own. Raises InputError."""
    present, out = run.checkpoints(), run.root
    if resume == "latest" and not present:
        fix = "start it again with --overwrite" if run.ours() else "leave it out to start a new run"
        raise InputError(f"train.resume: no checkpoint in {out}; instead of --resume, {fix}")
    chosen = present[-1] if resume == "latest" else Path(resume)
    if not chosen.is_dir():
        raise InputError(f"train.resume: no such checkpoint: {chosen}")
    if chosen.resolve() not in [path.resolve() for path in present]:
        known = ", ".join(path.name for path in present) or "none"
        raise InputError(f"train.resume: {chosen} is no checkpoint of the run in {out}, which has {known}")
    _same_run(config, run)
    return chosen


def _in_the_way(config: Config, run: RunDir) -> str:
    """What a directory holds that a new run cannot have, and the ways out."""
    try:
        same = resolve(str(run.config)).hash() == config.hash()
    except InputError:  # no config.yaml, or one of another version
        same = False
    what = "this run already" if same else "another run"
    if not run.checkpoints():  # killed before the first one: nothing to go on from
        return f"{what}, without a checkpoint; start again (--overwrite) or choose another directory"
    return f"{what}; choose another directory, go on with it (--resume latest), or replace it (--overwrite)"


_MAY_CHANGE = {
    "max_steps",
    "output_dir",
    "resume",
    "overwrite",
    "report_to",
    "threads",
    "save_total_limit",
    "logging_steps",
    "max_replay_seconds",
}


def _same_run(config: Config, run: RunDir) -> None:
    """Raises InputError naming every setting in which `config` is not the run's."""
    saved = run.read_config().absolute().to_dict()
    now = config.to_dict()
    changed = []
    for section in sorted({*saved, *now}):
        before, here = saved.get(section) or {}, now.get(section) or {}
        for key in sorted({*before, *here}):
            if before.get(key) != here.get(key) and not (section == "train" and key in _MAY_CHANGE):
                changed.append(f"{section}.{key}: the run has {before.get(key)!r}, now {here.get(key)!r}")
    if changed:
        raise InputError("cannot resume with other settings:\n" + "\n".join(changed))


def _finish(loop: Loop) -> Run:
    """Go back to the best evaluation, measure the test set, write run.json, predictions and a short README."""
    session, best, run = loop.session, loop.at.best, loop.run
    assert best is not None
    peak = record.peak_bytes(session.loaded.device)
    loop.checkpoints.restore_best(best, loop.at.k)
    test = {}
    for name in session.method.candidates:
        result = loop.evaluate("test", name)
        test[name] = result.values
        lines = [dumps(row) for row in as_rows(result, session.encoded["test"])]
        run.write(f"eval/predictions-{name}.jsonl", "\n".join(lines) + "\n")
        if result.report is not None:
            run.write_json(f"eval/report-{name}.json", result.report)
    info = _info(loop, peak, test)
    run.write("README.md", _readme(info))
    run.write_json("run.json", info)  # last: with it the run is finished
    return Run(run.root, info)


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
        "skipped": problem.skipped,
        "dev": best.dev,
        "test": test,
        "deployed": best.candidate,
        "seconds": loop.at.seconds,
        "seconds_per_step": loop.at.seconds / loop.count if loop.count else None,
        "peak_bytes": peak,
        "parameters": {
            "theta": problem.theta.size if method.moves != "nothing" else 0,
            "adapter": problem.adapters.size(problem.adapters.names[0]) if problem.adapters else 0,
        },
        "labels": list(session.data.labels),
        "bad_rows": dict(session.data.bad_rows),
        "examples": {name: len(encoded) for name, encoded in session.encoded.items()},
        "tasks": session.tasks,
        "world_size": 1,
        "labels": list(session.data.labels),
        "base_sha256": session.base_sha256,
        "inputs": session.inputs,
        "config_hash": config.hash(),
        "environment": record.environment(),
    }


def _readme(info: dict[str, Any]) -> str:
    name = info["deployed"]
    numbers = ", ".join(f"{k} {v:.4f}" for k, v in info["test"][name].items() if k != "n")
    what = "theta alone" if name == "theta" else f"(theta, {name})"
    return (
        f"# {info['method']} on {info['task']}\n\n"
        f"Base model `{info['model']}`, seed {info['seed']}, {info['steps']['lower']} lower and "
        f"{info['steps']['upper']} upper updates. Deployed: {what}, "
        f"chosen on dev at step {info['best_step']}. Test: {numbers}.\n\n"
        f"With the path of this folder in place of RUN, `zofo eval RUN` measures it again and `zofo export RUN OUT` "
        f"writes a directory for transformers and peft, from anywhere. The folder can be moved; where model or data "
        f"have moved, `--model` and `--data` name their new places.\n"
    )


def evaluate(
    target: str | Path,
    *,
    task: str | None = None,
    data: str | None = None,
    template: str | None = None,
    apply_chat_template: bool | None = None,
    system: str | None = None,
    split: str = "test",
    adapter: str | None = None,
    model: str | None = None,
    limit: int | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    output: str | Path | None = None,
    overrides: Sequence[str] = (),
    **task_options: Any,
) -> dict[str, float]:
    """Loss and metrics of a run, an export, a PEFT directory or a plain model on one split of a task.

    task, data, template, apply_chat_template, system and task_options (other fields of the task section, such as
    num_fewshot, scoring, max_new_tokens): where they are left out, those of the run or of the run that an export was
    made of. adapter: which of a run's ("p", "s", or "theta" for none). limit: only so many examples. seed: of the
    sample, the demonstrations and what is generated. output: a directory for predictions.jsonl, results.json and
    report.json, or a .jsonl file for the predictions. model: where the base model is now. overrides: "task.key=value"
    and "model.key=value". Raises InputError.
    """
    from zofo.api.evaluate import evaluate_target, write_files

    given, overrides = given_model(model, overrides, "an evaluation")
    changes = {"data": data, "template": template, "apply_chat_template": apply_chat_template, "system": system}
    result, encoded, facts = evaluate_target(
        as_path(target), task, changes | task_options, overrides, split, adapter, limit, seed, batch_size, given
    )
    if output is not None:
        write_files(Path(output), result, encoded, facts)
    return result.values
