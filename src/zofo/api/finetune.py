"""The public functions: finetune, evaluate, load, export. They join the parts and hold no algorithm."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zofo.api import adapter_start
from zofo.api.configure import resolve
from zofo.api.export import export
from zofo.api.finish import finish
from zofo.api.memory.before_run import Once, warn_if_it_will_not_fit
from zofo.api.out_of_memory import explained, smaller, with_options
from zofo.api.ranks import of_this_process, parallel_given, resumed_from, seen_by_all, settled_by_all
from zofo.api.restore import given_model
from zofo.api.standing import ended_before, warn_of_the_export
from zofo.api.start import check_directory
from zofo.api.states import info_of
from zofo.api.targets import as_path, export_info, load
from zofo.api.trained_before import say_trained_before
from zofo.config.resolve import Config
from zofo.config.sections import ModelConfig
from zofo.data.kept_rows import rows_kept
from zofo.data.rewards import name_given
from zofo.errors import InputError, RunError
from zofo.models.backbone import Loaded
from zofo.models.load import load as load_model
from zofo.train.agreement import same_start
from zofo.train.callbacks import check_callbacks
from zofo.train.ending import Ending
from zofo.train.follower import FollowedDir
from zofo.train.lease import Lease, refuse_in_use
from zofo.train.loop import Loop
from zofo.train.outcome import note, stopped_by
from zofo.train.record import environment
from zofo.train.run_dir import RunDir
from zofo.train.setup import Session, audit, build
from zofo.zo.ranks import Ranks

if TYPE_CHECKING:
    from transformers import TrainerCallback

log = logging.getLogger("zofo")
__all__ = ["Run", "evaluate", "export", "finetune", "load", "score_test", "train"]


@dataclass
class Run:
    """A finished run: its directory and the contents of run.json."""

    path: Path
    info: dict[str, Any] = field(repr=False)
    leads: bool = field(default=True, repr=False)  # whether this process wrote it, of several that made it

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
        """Loss and metric on test of what is deployed; {} where the test set was left alone (train.score_test)."""
        return self.info["test"][self.deployed]

    @property
    def test_by_candidate(self) -> dict[str, dict[str, float]]:
        """Loss and metric on test of every candidate, e.g. both adapters."""
        return self.info["test"]

    def predict(self, rows: Sequence[Any], **settings: Any) -> list[dict[str, Any]]:
        """The answer to each text, conversation or mapping, none of which has one; see `zofo.predict`."""
        from zofo.api.predict import predict

        return predict(self.path, rows, **settings)

    def export(
        self,
        output_dir: str | Path,
        merge: bool | None = None,
        adapter: str | None = None,
        *,
        push_to_hub: str | None = None,
        private: bool | None = None,
        revision: str | None = None,
    ) -> Path:
        """A directory for plain transformers and peft, and on the hub; see `zofo.api.export.export`."""
        hub = {"push_to_hub": push_to_hub, "private": private, "revision": revision}
        return export(self.path, output_dir, merge=merge, adapter=adapter, **hub)  # type: ignore[arg-type]


def finetune(
    model: str,
    task: str | None = None,
    method: str | Mapping[str, Any] | None = None,
    adapter: str | Mapping[str, Any] | None = None,
    *,
    output_dir: str | Path,
    preset: str | None = None,
    callbacks: Sequence[TrainerCallback | type[TrainerCallback]] = (),
    overrides: Sequence[str] = (),
    dry_run: bool = False,
    metric: str | Callable[..., Any] | None = None,
    train_file: str | Path | None = None,
    dev_file: str | Path | None = None,
    test_file: str | Path | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    **train_options: Any,
) -> Run:
    """Fine-tune `model` (a hub id or a directory) on `task` (a task's name, or a file of one's own) or `train_file`.

    dev_file, test_file: beside train_file, of which they are cut otherwise. text_column, label_column: the rows' own
    names for text (or prompt) and label. method, adapter: a name, or a mapping with `name` and settings; the
    preset's if left out, and without a preset bilevel-zofo. train_options: fields of the `train` section, such as
    max_steps, batch_size, seed, resume, overwrite. overrides: "section.key=value" for everything else. callbacks:
    transformers TrainerCallbacks. metric: what leads, a name, "FILE.py:FUNCTION", or a function (docs/rewards.md).
    Returns the finished Run. Raises InputError and RunError.
    """
    if method is None and preset is None:
        method = "bilevel-zofo"
    sections: dict[str, Any] = {"model": model, "task": task, "method": method, "adapter": adapter}
    options = {"output_dir": str(output_dir), **train_options}
    function = metric if callable(metric) else None
    own = {"train_file": train_file, "dev_file": dev_file, "test_file": test_file}
    own |= {
        "text_column": text_column,
        "label_column": label_column,
        "metric": metric if isinstance(metric, str) else None,
    }
    if own := {key: os.fspath(value) for key, value in own.items() if value is not None}:
        sections["task"] = own | ({} if task is None else {"name": task})
    with rows_kept():
        config = resolve(None, overrides, preset, train=options, source="caller", metric=function, **sections)
        return train(config, dry_run, callbacks, function)


def train(
    config: Config,
    dry_run: bool = False,
    callbacks: Sequence[TrainerCallback | type[TrainerCallback]] = (),
    metric: Callable[..., Any] | None = None,
    load: Callable[[ModelConfig], Loaded] | None = None,
) -> Run:
    """Run a resolved configuration: train, select, test, record. With dry_run, one step of each kind and no files.

    metric: the reward that `resolve` was given, where it was a function. load: reads the model in place of
    `models.load.load`, as a sweep's worker does.
    """
    config = config.absolute()
    with explained(config, "the rehearsal" if dry_run else "the run"):
        if dry_run:
            return _rehearse(config, metric, load)
        with of_this_process(config) as ranks:
            return _run(settled_by_all(config, ranks), callbacks, metric, load, ranks)


def _rehearse(config: Config, metric: Callable[..., Any] | None, load: Callable[[ModelConfig], Loaded] | None) -> Run:
    from zofo.api.dry_run import dry_run as rehearse

    warn_if_it_will_not_fit(config)
    return Run(Path(config.train.output_dir), rehearse(config, metric, load))


def _run(
    config: Config,
    callbacks: Sequence[TrainerCallback | type[TrainerCallback]],
    metric: Callable[..., Any] | None,
    load: Callable[[ModelConfig], Loaded] | None,
    ranks: Ranks,
) -> Run:
    began, root = time.perf_counter(), Path(config.train.output_dir)
    check_callbacks(config.train.report_to, callbacks)
    ranks.lead(lambda: _check_alone(config, RunDir(root)))
    with rows_kept() as let_go:
        warn_if_it_will_not_fit(config, read=(read := Once()))
        trained = adapter_start.trained_for(config)
        load = load or (None if read.tokenizer is None else partial(load_model, tokenizer=read.tokenizer))
        session = build(config, load, metric=metric, start=None if trained is None else trained.directory, ranks=ranks)
        let_go()
    warn_of_the_export(Path(config.model.name), export_info(Path(config.model.name)))
    if session.journals:
        audit(session)
    versions = {"versions": environment()["packages"], "device": session.loaded.device.type}
    same_start(ranks, {**session.inputs, **versions})
    adapter_start.say_what_differs(config, trained, session.base_sha256, session.loaded.tokenizer)
    if config.train.resume is None:
        say_trained_before(config, session.data)
    # Not before everything that can be wrong with the input has been found
    with Lease(root) if ranks.leads else nullcontext() as lease:
        run = FollowedDir(root) if lease is None else RunDir(root, lease.check)
        return _train(session, run, resumed_from(session.config, run, ranks), callbacks, began)


def _check_alone(config: Config, run: RunDir) -> None:
    """Raises InputError where the directory is another run's, or another process's."""
    refuse_in_use(run.root, here=True)
    try:
        check_directory(config, run)
    except InputError:
        refuse_in_use(run.root)  # then what helps is to wait
        raise


def _train(
    session: Session,
    run: RunDir,
    resume_from: Path | None,
    callbacks: Sequence[TrainerCallback | type[TrainerCallback]],
    began: float,
) -> Run:
    """began: see `Phases`."""
    config = session.config  # of which the steps are counted
    if resume_from is None:
        session.ranks.lead(lambda: (run.clear(), run.begin(session.inputs)))
    seen_by_all(run, session.ranks)
    loop, before = Loop(session, run, callbacks, began), None if resume_from is None else ended_before(run)
    if resume_from is not None:
        loop.resume(resume_from)  # may be refused, and must leave the run as it was then
    if before is not None and before.failed and not loop.trained:  # else the same is said in the end
        log.warning("%s: goes on with a run that %s", run.root, before.words())
    note(run, None)
    launched = dataclasses.replace(config.train, output_dir=".", resume=None, overwrite=False, num_train_epochs=None)
    run.write_config(dataclasses.replace(config, train=launched))
    if resume_from is None:
        loop.checkpoints.start()
    trained = False
    try:
        loop.fit()
        trained = True
        with loop.ending():
            info = finish(loop)
    except BaseException as error:
        note(run, stopped_by(error, loop.count, config.train.max_steps, trained))
        raise
    if (ending := Ending.read(info["outcome"])).failed:
        raise RunError(f"{ending.reason}; the weights in {run.root} are {ending.weights}; {ending.fix}")
    return Run(run.root, info, session.ranks.leads)


def score_test(path: str | Path, load: Callable[[ModelConfig], Loaded] | None = None) -> Run:
    """Measure the test set of a run at its end that left it alone (train.score_test=false), as if it had done so then:
    run.json, predictions and the model card are those of a run that was not told to. load: see `train`. Raises
    InputError."""
    run = RunDir(path)
    info = info_of(run)
    if any(info["test"].values()):
        return Run(run.root, info)
    config = run.read_config()
    again = dataclasses.replace(config.train, output_dir=str(run.root), resume="latest", score_test=True)
    measured = train(dataclasses.replace(config, train=again), load=load)
    phases = {**info.get("phases", {}), "test": measured.info["phases"]["test"]}  # the run's own, but for this one
    done = measured.info | {"phases": phases}
    if measured.leads:
        with Lease(run.root) as lease:
            RunDir(run.root, lease.check).write_info(done)
    return Run(run.root, done, measured.leads)


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
    report.json, or a file (.jsonl, .json, .csv, .tsv, .parquet) for the predictions. model: where the base model is
    now. overrides: "task.key=value", "model.key=value" and "parallel.key=value". Among the task_options, metric may be
    a function (docs/rewards.md). Raises InputError.
    """
    from zofo.api.evaluate import evaluate_target
    from zofo.api.predictions import check_output, write_files

    parallel, overrides = parallel_given(overrides)
    given, overrides = given_model(model, overrides, "an evaluation", tasks=True)
    if output is not None:
        check_output(Path(output))
    changes = {"data": data, "template": template, "apply_chat_template": apply_chat_template, "system": system}
    function = task_options["metric"] if callable(task_options.get("metric")) else None
    if function is not None:
        task_options["metric"] = name_given(function)
    fewer = f"--batch-size {max(1, (batch_size or 32) // 4)}" if batch_size != 1 else ""
    with with_options("the evaluation", [fewer, *smaller(given)]):
        asked = (as_path(target), task, changes | task_options, overrides, split, adapter, limit, seed, batch_size)
        with of_this_process(parallel=parallel) as ranks:
            result, encoded, facts = evaluate_target(*asked, given, function, ranks)
    if output is not None and ranks.leads:
        write_files(Path(output), result, encoded, facts)
    return result.values
