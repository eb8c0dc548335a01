"""What stands in the way of a run, and where one goes on."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from zofo.api.standing import ended_before
from zofo.config.resolve import Config
from zofo.config.reward_name import reward_name
from zofo.config.sections import SPLIT_FIELDS, exists
from zofo.errors import InputError, printable
from zofo.train.ownership import is_numbered, refuse_what_is_in_the_way, whose
from zofo.train.run_dir import RunDir
from zofo.train.whole import newest_whole

log = logging.getLogger("zofo")


def check_directory(config: Config, run: RunDir) -> Path | None:
    """The checkpoint to resume from, or None for a new run. Raises InputError where another run is in the way."""
    resume, out = config.train.resume, run.root
    if out.exists() and not out.is_dir():
        raise InputError(f"train.output_dir: {out} is a file")
    if resume is not None:
        return _to_resume(config, run, resume)
    refuse_what_is_in_the_way(out, run.foreign() if out.is_dir() else (), run.id)
    if run.ours() and not config.train.overwrite:
        raise InputError(f"train.output_dir: {out} holds {_in_the_way(config, run)}")
    return None


def settled(config: Config) -> Config:
    """resume=auto as what it comes to: the run goes on from its newest checkpoint, or begins where it has none. One
    that ended before its first checkpoint begins again. Raises InputError where another run is in the way."""
    if config.train.resume != "auto":
        return config
    run = RunDir(config.train.output_dir)
    if run.root.is_dir() and run.ours() and run.checkpoints():
        return replace(config, train=replace(config.train, resume="latest"))
    again = run.root.is_dir() and bool(run.ours()) and _is_same(config, run)
    return replace(config, train=replace(config.train, resume=None, overwrite=again))


def _is_same(config: Config, run: RunDir) -> bool:
    """Whether the directory's run has this configuration."""
    try:
        return run.read_config().absolute().hash() == config.hash()
    except InputError:  # no config.yaml, or one of another version
        return False


def _to_resume(config: Config, run: RunDir, resume: str) -> Path:
    """The checkpoint, one of this run's own. Raises InputError."""
    present, out = run.checkpoints(), run.root
    if resume == "latest" and not present:
        fix = "start it again with --overwrite" if run.ours() else "leave it out to start a new run"
        raise InputError(f"train.resume: no checkpoint in {out}; instead of --resume, {fix}")
    chosen = newest_whole(run, present) if resume == "latest" else Path(resume)
    if not exists(chosen) or not chosen.is_dir():
        raise InputError(f"train.resume: no such checkpoint: {printable(str(chosen), 300)}")
    if chosen.resolve() not in [path.resolve() for path in present]:
        known = ", ".join(path.name for path in present) or "none"
        raise InputError(f"train.resume: {chosen} is no checkpoint of the run in {out}, which has {known}")
    _same_run(config, run)
    _nothing_in_the_way(run, chosen)
    return chosen


def _nothing_in_the_way(run: RunDir, chosen: Path) -> None:
    """Of a run that goes on. Raises InputError for what is not its own and has a name that it will write."""
    count = int(chosen.resolve().name.rpartition("-")[2]) if is_numbered(chosen.resolve().name) else 0
    for path in run.foreign() if run.manifest else ():
        if not is_numbered(path.name) or int(path.name.rpartition("-")[2]) > count:
            whose_it_is = whose(path, run.id)
            raise InputError(f"train.resume: {path} is {whose_it_is}, and the run would overwrite it; move it away")


def _in_the_way(config: Config, run: RunDir) -> str:
    """What a directory holds that a new run cannot have, and the ways out."""
    what = "this run already" if _is_same(config, run) else "another run"
    if (ending := ended_before(run)).failed:
        return f"{what}, which {ending.words()}; choose another directory, or replace it (--overwrite)"
    if not run.checkpoints():  # killed before the first one: nothing to go on from
        return f"{what}, without a checkpoint; start again (--overwrite) or choose another directory"
    return f"{what}; choose another directory, go on with it (--resume latest), or replace it (--overwrite)"


_MAY_CHANGE = {
    "max_steps",
    "num_train_epochs",
    "output_dir",
    "resume",
    "overwrite",
    "report_to",
    "threads",
    "save_total_limit",
    "logging_steps",
    "max_replay_seconds",
    "score_test",
    "eval_candidates",
}
# How much is computed at once: the same numbers but for the last bits of first-order parts, of losses and coefficients
_AT_ONCE = {"micro_batch_size", "eval_batch_size", "gradient_checkpointing"}
# Where the run's inputs are: they may be elsewhere now, since their digests are compared
_PLACES = {("model", "name"), ("task", "name"), ("task", "data"), *(("task", key) for key in SPLIT_FIELDS.values())}


def _is_place(section: str, key: str, before: object, now: object) -> bool:
    """Whether a setting says where an input is, and nothing else. A task's name is more, unless it is a file."""
    files = all(isinstance(value, str) and Path(value).is_absolute() for value in (before, now))
    rewards = [reward_name(value) for value in (before, now)]
    if (section, key) == ("task", "metric") and rewards[0] and rewards[1]:
        return rewards[0].function == rewards[1].function
    return (section, key) in _PLACES and (files or (section, key) != ("task", "name"))


def _same_run(config: Config, run: RunDir) -> None:
    """Raises InputError naming every setting in which `config` is not the run's."""
    saved = run.read_config().absolute().to_dict()
    now = config.to_dict()
    changed, pinned = [], "examples" in run.inputs
    for section in sorted({*saved, *now} - {"parallel"}):  # how many compute changes nothing
        before, here = saved.get(section) or {}, now.get(section) or {}
        for key in sorted({*before, *here}):
            free = (section == "train" and key in _MAY_CHANGE) or (section, key) == ("model", "offload_folder")
            if before.get(key) == here.get(key) or free:
                continue
            if pinned and _is_place(section, key, before.get(key), here.get(key)):
                log.info("%s.%s: %s -> %s", section, key, before.get(key), here.get(key))
                continue
            if section == "train" and key in _AT_ONCE:
                log.warning(
                    "train.%s: %s -> %s; last bits of losses and gradients may be other ones than without the change",
                    *(key, before.get(key), here.get(key)),
                )
            else:
                changed.append(f"{section}.{key}: the run has {before.get(key)!r}, this command {here.get(key)!r}")
    if changed:
        raise InputError("cannot resume with other settings:\n" + "\n".join(changed))
