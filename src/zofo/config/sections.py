"""The sections every run has: model, task, train."""

# ruff: noqa: RUF009 (_f only wraps dataclasses.field)

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from zofo.config import registry, reward_name
from zofo.errors import did_you_mean, printable

# Beyond these a machine is brought down: torch starts the threads at once, a batch is made as a whole
MOST = {"threads": 1024, "batch_size": 10**6, "micro_batch_size": 10**6, "eval_batch_size": 10**6}
DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".json.gz", ".csv.gz", ".tsv.gz")
SPLIT_FIELDS = {"train": "train_file", "dev": "dev_file", "test": "test_file"}  # of the task section
REPORTERS = ("tensorboard", "wandb", "trackio", "mlflow", "comet_ml", "clearml", "swanlab", "dvclive", "codecarbon")


def _f(default: Any = dataclasses.MISSING, help: str = "", **metadata: Any) -> Any:
    """A field with its documentation and bounds."""
    metadata = {"help": help, **metadata}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(metadata=metadata) if default is dataclasses.MISSING else field(default=default, metadata=metadata)


def data_suffix(path: str | os.PathLike[str]) -> str | None:
    """Which of DATA_SUFFIXES a file's name ends in, in small letters; None: it is no file of rows."""
    name = os.path.basename(path).lower()
    return next((suffix for suffix in reversed(DATA_SUFFIXES) if name.endswith(suffix)), None)


def kind_of_task(name: str) -> Literal["rows", "file", "known", "unknown"]:
    """What `task.name` names: rows of one's own (a file, or a directory of files), a task's or setting's .yaml file, or
    one that zofo knows; "" where the section names a file for each split. The one place that decides it."""
    if not name or data_suffix(name) is not None:
        return "rows"
    if Path(name).suffix.lower() in (".yaml", ".yml"):
        return "file"
    if registry.canonical(name) in (*registry.names("tasks"), *registry.names("settings")):
        return "known"
    return "rows" if os.sep in name or name.startswith((".", "~")) or exists(name) else "unknown"


def exists(path: str | Path) -> bool:
    """Whether there is something; False for what can be no path: too long, a NUL, a lone surrogate."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


@dataclass(frozen=True)
class ModelConfig:
    """The backbone, any Hugging Face causal LM."""

    name: str = _f(help="hub id or directory of a causal LM", flag="--model")
    revision: str | None = _f(None, "branch, tag or commit on the hub")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = _f("auto", "auto: float32 on CPU, bfloat16 on CUDA")
    device: str = _f("auto", "auto, cpu, cuda, cuda:N or mps; auto takes CUDA where there is one")
    device_map: Literal["auto", "balanced", "sequential"] | dict[str, str] | None = _f(
        None, "several devices of one process: how accelerate deals out the layers, or {module: device}"
    )
    quantization: Literal["int8", "nf4"] | None = _f(
        None, "quantises the linear layers, which are frozen then; int8: by torchao, nf4: by bitsandbytes, on CUDA"
    )
    offload_folder: str | None = _f(
        None,
        "directory on a local disk, for weights larger than memory: they are in a file there while theta moves, and in "
        "memory a layer at a time; on a CPU",
    )
    max_length: int | None = _f(None, "tokens of an example, the rest is cut on the left; null: the model's own", ge=2)
    trust_remote_code: bool = _f(False, "run code that comes with the model")

    def problems(self) -> list[str]:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            return [f'device: expected auto, cpu, cuda, cuda:N or mps, got "{self.device}"']
        return [] if self.name.strip() else ["name: empty; give --model or model.name=..."]

    def faults(self, parts: Mapping[str, Any]) -> list[str]:
        """See `zo.estimators._base.Shift.faults`."""
        if self.device_map is None:
            return []
        faults = []
        if self.device != "auto":
            faults.append("model.device_map: says where each part is; leave model.device out")
        if self.quantization is not None:
            faults.append("model.device_map: a quantised model is on one device; leave one of the two out")
        if hasattr(parts.get("mask"), "batches"):
            faults.append("model.device_map: the mask sensitivity keeps its numbers on one device; use magnitude")
        return faults

    def files(self) -> list[str]:
        """What is wrong with the directory that is named; of a hub id nothing is asked."""
        local = self.name.startswith((".", "/", "~")) or self.name.count("/") > 1
        there = exists(self.name)
        if local and not there:
            return [f"name: no such model directory: {printable(self.name, 300)}"]
        if self.revision is not None and there:
            return ["revision: is of a model on the hub, and model.name is a directory here; leave it out"]
        return []


@dataclass(frozen=True)
class TaskConfig:
    """The data and how an example reads."""

    name: str = _f(
        help="a task (zofo ls tasks), a file (.jsonl, .json, .csv, .tsv, .parquet), a directory of such, or a .yaml",
        flag="--task, --train-file",
    )
    template: str = _f("default", "which of the task's templates; plain: the input and the answer only")
    apply_chat_template: bool = _f(
        False, "for an instruct model: its chat template around each prompt, the answers as the assistant's turn"
    )
    system: str | None = _f(None, "text of a system turn before the user's; needs apply_chat_template")
    loss_on: Literal["last", "all"] = _f(
        "last",
        "of rows with messages: the assistant's last turn is learnt, or all of its turns (TRL: assistant_only_loss)",
    )
    data: str | None = _f(None, "directory with train, validation, test .jsonl in the task's columns, or one file")
    train_file: str | None = _f(None, "rows to train on, in place of name: dev and test are cut from it without files")
    dev_file: str | None = _f(None, "rows that select the checkpoint, beside train_file")
    test_file: str | None = _f(None, "rows of the reported numbers, beside train_file; zofo eval needs it alone")
    text_column: str | None = _f(None, "of rows of one's own: the column that is read as text (or prompt)")
    label_column: str | None = _f(None, "of rows of one's own: the column that is read as label")
    train_examples: int = _f(1000, "examples sampled for training", paper="section 4: 1000", ge=1)
    dev_examples: int = _f(500, "examples that select the checkpoint", paper="section 4: 500", ge=1)
    test_examples: int = _f(1000, "examples of the reported numbers", paper="section 4: 1000", ge=1)
    on_bad_row: Literal["error", "skip"] = _f(
        "error", "a row that cannot be used: stop and name it, or leave it out and count it (at most half of them)"
    )
    held_out: int = _f(1, "of a setting: training tasks that are not trained on; they select and tune", ge=1)
    choices: list[str] | None = _f(
        None, "the answers of a local file, in order, where it has no choices column", separated=True
    )
    numbers_are_classes: bool = _f(
        False, "labels of a local file that are many different numbers, as a score has, are classes all the same"
    )
    objective: str = _f(
        "auto", "auto: the task's; options: cross-entropy; lm: answer tokens; metric: minus the metric, no gradient"
    )
    metric: str | None = _f(
        None,
        "the metric that leads: what select_by=metric and objective=metric take; null: the task's; FILE.py:FUNCTION: a "
        "reward of one's own of what is written (docs/rewards.md)",
    )
    scoring: Literal["mean", "sum", "characters", "calibrated", "pmi"] = _f(
        "mean",
        "an option's score: mean, sum, sum by characters; calibrated, pmi: sum, mean minus that under the prompt "
        "without its input",
    )
    num_fewshot: int = _f(0, "answered examples before each dev and test prompt", ge=0)
    fewshot: Literal["random", "per-example", "fixed"] = _f(
        "random", "which ones: one draw for all, a draw each, or the task file's own (else the first rows of train)"
    )
    max_new_tokens: int | None = _f(None, "of a generated answer; null: the task's own", ge=1)
    temperature: float | None = _f(None, "of generated answers, 0 is greedy; null: the task's own", ge=0)
    top_p: float | None = _f(None, "sample from the likeliest tokens of so much probability; null: 1", gt=0, le=1)
    samples: int | None = _f(None, "generated answers for each example (pass@k); null: the task's own", ge=1)
    run_generated_code: bool = _f(False, "run the programs that the model writes, in a sandbox (pass@k)")

    @property
    def files(self) -> dict[str, str]:
        """{split: its file} of those that are named, train, dev, test."""
        return {split: path for split, key in SPLIT_FIELDS.items() if (path := getattr(self, key)) is not None}

    @property
    def place(self) -> str:
        """What the rows are called in a message: `data`, the first file of a split, or `name`."""
        return self.data or next(iter(self.files.values()), self.name)

    @property
    def title(self) -> str:
        """The task's name, or its rows', without the way there: "sst2", "mine.csv"."""
        return Path(self.name or self.place).name

    def problems(self) -> list[str]:
        if not self.name.strip() and not self.files:
            return ["name: empty; give --task, --train-file or task.name=..."]
        problems = self._of_rows()
        if self.choices is not None and (len(self.choices) < 2 or len(set(self.choices)) < len(self.choices)):
            problems.append("choices: expected at least two different answers")
        objectives = ("auto", *registry.names("objectives"))
        if registry.canonical(self.objective) not in objectives:
            near = did_you_mean(self.objective, objectives)
            listed = ", ".join(f'"{name}"' for name in objectives)
            problems.append(f'objective: expected one of {listed}, got "{self.objective}"{near}')
        if self.metric is not None and (fault := reward_name.fault(self.metric)):
            problems.append(f"metric: {fault}")
        if self.system is not None and not self.apply_chat_template:
            problems.append("system: is part of a chat; give task.apply_chat_template=true too")
        if self.loss_on == "all" and kind_of_task(self.name) in ("known", "file"):
            problems.append(f"loss_on: all is for rows of one's own with messages, not for {self.name}; set it to last")
        if kind_of_task(self.name) == "unknown":
            known = (*registry.names("tasks"), *registry.names("settings"))
            hint = did_you_mean(registry.canonical(self.name), known) or f"; known: {', '.join(known)}"
            problems.append(
                f'name: unknown task "{printable(self.name, 100)}"{hint}; or give a file {", ".join(DATA_SUFFIXES)}, a '
                f"directory with train{DATA_SUFFIXES[0]}, or a task .yaml"
            )
        return problems

    def _of_rows(self) -> list[str]:
        """What is wrong with the fields that say where rows are and which columns they have."""
        problems = []
        own = kind_of_task(self.name) == "rows"
        for split, path in self.files.items():
            field = SPLIT_FIELDS[split]
            if data_suffix(path) is None:
                problems.append(f"{field}: expected a file {', '.join(DATA_SUFFIXES)}, got {printable(path, 300)}")
        if self.files and (other := "data" if self.data is not None else "name" if self.name and own else ""):
            problems.append(
                f"{other}: {printable(str(getattr(self, other)), 200)} names the rows already, and so does "
                f"{', '.join(f'task.{SPLIT_FIELDS[split]}' for split in self.files)}; give one or the other"
            )
        if self.files and registry.canonical(self.name) in registry.names("settings"):
            problems.append(f"{SPLIT_FIELDS[next(iter(self.files))]}: {self.name} is many tasks; give task.data=DIR")
        for field in ("text_column", "label_column"):
            column = getattr(self, field)
            if column is not None and not own:
                problems.append(f"{field}: is for rows of one's own; which columns {self.name} reads is in its file")
            elif column is not None and not column.strip():
                problems.append(f"{field}: empty; give a column's name, or leave it out")
        if self.numbers_are_classes and not own:
            problems.append("numbers_are_classes: is for own files with text and label; leave it out")
        if self.text_column is not None and self.text_column == self.label_column:
            problems.append(f"label_column: {printable(self.text_column, 60)} is the text_column already")
        return problems


@dataclass(frozen=True)
class TrainConfig:
    """The loop: cadence, data position, files."""

    output_dir: str = _f(help="directory of the run", flag="--output-dir")
    max_steps: int = _f(
        1000, "updates in all, lower and upper level counted", paper="section 4: every update counts", ge=0
    )
    num_train_epochs: float | None = _f(
        None,
        "passes over the training examples, in place of max_steps: it is the least that makes them; null: max_steps",
        flag="--num-train-epochs",
        gt=0,
        le=10**6,
    )
    count: Literal["all", "outer"] = _f(
        "all", "what max_steps and every cadence count: all updates, or upper-level iterations alone", paper="Table 7"
    )
    batch_size: int = _f(16, "examples of one batch, at each level", paper="appendix B.1.4: 16", ge=1)
    micro_batch_size: int | None = _f(None, "examples at once; same numbers, less memory; null: the whole batch", ge=1)
    group_by_length: bool = _f(
        True, "batches of similar lengths, in a seeded order: less padding (not of many tasks, which take turns)"
    )
    gradient_checkpointing: bool = _f(
        False, "first-order steps keep each layer's input alone and compute it again: less memory, a third more time"
    )
    eval_batch_size: int = _f(32, "examples at once in an evaluation", ge=1)
    eval_steps: int = _f(100, "steps between two evaluations on dev", ge=1)
    save_steps: int = _f(100, "steps between two checkpoints", ge=1)
    save_total_limit: int | None = _f(2, "checkpoints kept, the best one besides; null: all", ge=1)
    logging_steps: int = _f(10, "steps between two log lines", ge=1)
    seed: int = _f(0, "samples, splits, batches, adapters and directions derive from it", ge=0, lt=2**63)
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = _f("constant", "schedule of every rate")
    warmup_steps: int = _f(0, "steps of linear warm-up", ge=0)
    report_to: list[str] = _f([], "where TrainerCallbacks send metrics: tensorboard, wandb, trackio", separated=True)
    on_nonfinite: Literal["stop", "skip", "halve"] = _f(
        "stop",
        "an update whose loss or gradient is NaN or infinite: stop; skip it; or skip it and halve its level's rates "
        "from then on",
    )
    max_grad_norm: float | None = _f(None, "clips the norm of first-order gradients; null: no clipping", gt=0)
    max_replay_seconds: float = _f(60.0, "a snapshot of theta is kept when replaying the journal takes longer", ge=0)
    select_by: Literal["loss", "metric"] = _f(
        "loss", "what on dev selects the checkpoint", paper="B.1.4: validation loss"
    )
    eval_candidates: Literal["deciding", "all"] = _f(
        "deciding",
        "what evaluations on dev measure: the candidates that it may choose from, or also those that method.deploy "
        "rules out; test measures all",
    )
    score_test: bool = _f(True, "measure the test set at the end; false leaves it alone, for a run that is a trial")
    resume: str | None = _f(
        None, "latest, or a checkpoint directory; auto: the newest checkpoint, or a new run where there is none"
    )
    overwrite: bool = _f(False, "replace another run in output_dir")
    threads: int | None = _f(None, "CPU threads; null: torch's own choice", ge=1)

    def problems(self) -> list[str]:
        unknown = [name for name in self.report_to if name not in REPORTERS]
        problems = [
            "report_to: leave none out; nothing is reported where nothing is named"
            if name == "none"
            else f'report_to: unknown "{name}"{did_you_mean(name, REPORTERS) or "; known: " + ", ".join(REPORTERS)}'
            for name in unknown
        ]
        # Of num_train_epochs the steps are not known yet, see `config.epochs`
        if 0 < self.max_steps < self.warmup_steps and self.num_train_epochs is None:
            problems.append(f"warmup_steps: more than max_steps ({self.max_steps}), so no rate would reach its value")
        if self.resume and self.overwrite:
            problems.append("overwrite: cannot be given together with resume")
        problems += [
            f"{name}: must be <= {most}, got {value}"
            for name, most in MOST.items()
            if (value := getattr(self, name)) is not None and value > most
        ]
        if not self.output_dir:
            problems.append("output_dir: must not be empty")
        if any(len(os.fsencode(part)) > 255 for part in Path(self.output_dir).parts):
            problems.append("output_dir: a name of more than 255 bytes is none of a directory; give a shorter one")
        return problems
