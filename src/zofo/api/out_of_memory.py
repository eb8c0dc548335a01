"""Where memory ran out, in one line: the part, bytes measured and predicted, what would take less, how to go on."""

from __future__ import annotations

import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from zofo.config.instantiate import make_method
from zofo.config.json_text import dumps
from zofo.config.resolve import Config, load
from zofo.config.reward_name import asked_again
from zofo.config.validate import not_offloaded
from zofo.errors import OutOfMemory, RunError, during, printable
from zofo.models.load import choose_dtype
from zofo.models.room import of_machine
from zofo.train.progress import gib
from zofo.train.run_dir import RunDir
from zofo.train.whole import going_on

SECONDS = 60  # of predictions: a run that has ended may take so long to say what would help
GENERAL = ("a smaller model", "a machine with more memory", "shorter examples")
RESUMABLE = ("train.micro_batch_size", "train.eval_batch_size", "train.gradient_checkpointing")  # see `start`


@contextmanager
def explained(config: Config, part: str) -> Iterator[None]:
    """Inside, a run of `config`. Raises RunError where memory runs out. part: what it is where nothing closer says."""
    try:
        with during(part):
            yield
    except OutOfMemory as error:
        let_go(error)
        line = _line(error, config)
    else:
        return
    raise RunError(line)


@contextmanager
def with_options(part: str, options: Sequence[str]) -> Iterator[None]:
    """As `explained`, of what is no training: the options are these, those that are empty left out."""
    try:
        with during(part):
            yield
    except OutOfMemory as error:
        let_go(error)
        known = [option for option in options if option]
        line = f"{error}: {held()}; {_listed([*known, *GENERAL])}; no file was harmed"
    else:
        return
    raise RunError(line)


def in_general(error: BaseException) -> str:
    """The line of a command that has no options of its own."""
    what = str(error) if isinstance(error, OutOfMemory) else "out of memory"
    let_go(error)
    return f"{what}: {held()}; {_listed([*smaller({}), *GENERAL])}; no file was harmed"


def smaller(given: Mapping[str, Any]) -> list[str]:
    """Settings of the model section that take less, beside those that are given."""
    known = {"dtype": "model.dtype=bfloat16", "max_length": "model.max_length=512"}
    return [text for key, text in known.items() if key not in given]


def let_go(error: BaseException) -> None:
    """What the frames of a failed call hold is free again: a prediction needs room."""
    seen: list[BaseException] = [error]
    while (link := seen[-1].__cause__ or seen[-1].__context__) is not None and link not in seen:
        seen.append(link)
    for each in seen:
        traceback.clear_frames(each.__traceback__)
    gc.collect()


def held() -> str:
    """Bytes measured: the most that this process held, and the limit that it met."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        most, whole = torch.cuda.max_memory_allocated(), torch.cuda.mem_get_info()[1]
        return f"torch held {gib(most)} of the device's {gib(whole)} at most"
    space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if space != resource.RLIM_INFINITY:
        return f"the process took {gib(_status('VmPeak'))} of addresses at most, and may have {gib(space)} (ulimit -v)"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f"the process held {gib(peak)} at most, and {gib(of_machine().total)} are there"


def _status(key: str) -> int:
    """Bytes of a field of /proc/self/status; the peak resident set where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass(frozen=True)
class Option:
    """A setting that takes less. section, key, value: of the configuration."""

    section: str
    key: str
    value: Any

    @property
    def setting(self) -> str:
        shown = str(self.value).lower() if isinstance(self.value, bool) else self.value
        return f"{self.section}.{self.key}={shown}"

    def of(self, config: Config) -> Config:
        part = replace(getattr(config, self.section), **{self.key: self.value})
        return replace(config, **{self.section: part})


def options_of(config: Config) -> list[Option]:
    """What this configuration does not use yet."""
    train, model, method = config.train, config.model, make_method(config)
    micro, options = train.micro_batch_size or train.batch_size, list[Option]()
    if micro > 1:
        options.append(Option("train", "micro_batch_size", max(1, micro // 4)))
    if train.eval_batch_size > 1:
        options.append(Option("train", "eval_batch_size", max(1, train.eval_batch_size // 4)))
    if method.first_order and not train.gradient_checkpointing and config.names.get("adapter") != "prefix":
        options.append(Option("train", "gradient_checkpointing", True))
    if not model.quantization:
        if _wide(config):
            options.append(Option("model", "dtype", "bfloat16"))
        if method.moves != "fo" and find_spec("torchao"):
            options.append(Option("model", "quantization", "int8"))
    if config.estimator is not None and config.estimator.shift == "copy":
        options.append(Option("estimator", "shift", "layer"))
    if config.estimator is not None and getattr(config.estimator, "anchor", "") == "memory":
        options.append(Option("estimator", "anchor", "disk"))
    if config.rule is not None and getattr(config.rule, "state", "8bit") != "8bit":
        options.append(Option("rule", "state", "8bit"))
    return [*options, *_to_disk(config)]


def _to_disk(config: Config) -> list[Option]:
    """The weights in a file: on a CPU, where nothing needs all of them at once. The same numbers."""
    parts = {name: getattr(config, name) for name in ("model", "parallel", "estimator", "rule", "mask")}
    here = config.model.device == "cpu" or (config.model.device == "auto" and not torch.cuda.is_available())
    if not here or config.model.offload_folder is not None or not_offloaded(parts, config.names, make_method(config)):
        return []
    return [Option("model", "offload_folder", "DIR")]


def _wide(config: Config) -> bool:
    """Whether the weights take 4 bytes each."""
    device = "cuda" if torch.cuda.is_available() and config.model.device in ("auto", "cuda") else "cpu"
    return choose_dtype(config.model.dtype, torch.device(device), object()).itemsize == 4  # type: ignore[arg-type]


def _size(config: Config, part: str) -> tuple[int, str]:
    """(bytes, where): the prediction for this part of a run. Raises whatever a prediction may."""
    from zofo.api.memory.footprint import EVALUATION, predict

    footprint = predict(config)
    if part.startswith("loading"):
        return max(peak.parts["weights"] for peak in footprint.peaks), "for the weights"
    evaluates = "evaluation" in part or "generation" in part
    peaks = [peak for peak in footprint.peaks if (peak.phase == EVALUATION) == evaluates] or list(footprint.peaks)
    fullest = max(peaks, key=lambda peak: peak.total)
    return fullest.total, f"of tensors in the {fullest.phase}"


def _line(error: OutOfMemory, config: Config) -> str:
    options = [option.setting for option in options_of(config)]
    try:
        predicted, ranked = asked(config, error.part)
        told = [f"{setting} ({less} less)" if less else setting for setting, less in ranked]
        options = [setting for setting, _ in ranked]
    except RunError as failed:
        predicted, told = f"not predicted ({failed})", options
    if make_method(config).moves == "fo":
        told = [*told[:1], "method=mezo, which keeps no gradients and moments", *told[1:]]
    return f"{error}: {held()}; {predicted}; {_listed([*told, *GENERAL])}; {_going_on(config, options)}"


def asked(config: Config, part: str) -> tuple[str, list[tuple[str, str]]]:
    """(the prediction in words, [(a setting that takes less, how much less, or "")]), by a process of its own.

    It has room of its own, and what happens to it does not happen here. Raises RunError with a reason.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "config.yaml"
            path.write_text(config.to_yaml(), encoding="utf-8")
            command = [sys.executable, "-m", "zofo.api.out_of_memory", str(path), part]
            child = subprocess.run(
                command, capture_output=True, encoding="utf-8", errors="replace", timeout=2 * SECONDS, check=False
            )
        if child.returncode:
            last = (child.stderr.strip().splitlines() or [f"exit {child.returncode}"])[-1]
            raise RunError(printable(last, 120))
        predicted, ranked = json.loads(child.stdout.splitlines()[-1])
        return predicted, [(setting, less) for setting, less in ranked]
    except (OSError, ValueError, IndexError, MemoryError, subprocess.SubprocessError) as failed:
        raise RunError(printable(str(failed).split("\n")[0] or type(failed).__name__, 120)) from failed


def answer(config: Config, part: str) -> tuple[str, list[tuple[str, str]]]:
    """What `asked` returns, predicted here. Raises whatever a prediction may."""
    end = time.monotonic() + SECONDS
    size, where = _size(config, part)
    sized: list[tuple[int, str]] = []
    unsized: list[tuple[str, str]] = []
    for option in options_of(config):
        if time.monotonic() > end:
            unsized.append((option.setting, ""))
        elif (less := _size(option.of(config), part)[0]) < 0.99 * size:
            sized.append((less, option.setting))
    return f"predicted {gib(size)} {where}", [(setting, gib(size - less)) for less, setting in sorted(sized)] + unsized


def _listed(told: Sequence[str]) -> str:
    return "less is taken by " + ", or ".join(told[:3])


def _going_on(config: Config, options: Sequence[str]) -> str:
    run = RunDir(config.train.output_dir)
    present = run.checkpoints()
    if not present:
        kept = "nothing was saved"
        return f"{kept}; start again with one of these" + (" and --overwrite" if run.ours() else "")
    may = next((setting for setting in options if setting.partition("=")[0] in RESUMABLE), None)
    command = going_on(run.root, again=asked_again(config.model.trust_remote_code, config.task.metric))
    go = f"`{command} {may}`" if may else f"`{command}` where there is more memory"
    return f"{present[-1].name} is kept: go on with {go}"


if __name__ == "__main__":  # the process of `asked`
    print(dumps(answer(load(Path(sys.argv[1])), sys.argv[2])))
