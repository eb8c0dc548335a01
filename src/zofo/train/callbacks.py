"""The ecosystem's surface: TrainerState, TrainerControl and TrainerCallbacks, driven by zofo's own loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import DefaultFlowCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from zofo.config.layers import brief
from zofo.config.sections import TrainConfig
from zofo.errors import InputError, out_of_memory
from zofo.models._transformers import CallbackHandler, get_reporting_integration_callbacks

EXTRAS = ("tensorboard", "trackio", "wandb")  # of pyproject.toml
# Entries of TrainerState.log_history: each checkpoint writes all of them, and metrics.jsonl has every line anyway
HISTORY = 1000


def check_callbacks(report_to: Sequence[str], callbacks: Sequence[object]) -> None:
    """Before anything is loaded or replaced. Raises InputError for what is no callback, and for a missing package."""
    if not isinstance(callbacks, Sequence):
        raise InputError(f"callbacks: expected a list, got {brief(callbacks)}")
    for callback in callbacks:
        if not issubclass(callback if isinstance(callback, type) else type(callback), TrainerCallback):
            raise InputError(f"callbacks: expected transformers' TrainerCallbacks, got {brief(callback)}")
    _reporters(report_to)


def _reporters(names: Sequence[str]) -> list[TrainerCallback]:
    reporters = []
    for name in names:
        try:
            reporters += [make() for make in get_reporting_integration_callbacks([name])]
        except (RuntimeError, ImportError) as error:
            if out_of_memory(error):
                raise
            package = f"zofo[{name}]" if name in EXTRAS else name
            raise InputError(f'train.report_to: {name} is not installed; pip install "{package}"') from None
        except ValueError as error:
            raise InputError(f"train.report_to: {error}") from None
    return reporters


def _arguments(config: TrainConfig, out: Path, device: torch.device) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=max(1, config.max_steps),
        seed=config.seed,
        report_to="none",
        per_device_train_batch_size=config.batch_size,
        logging_steps=config.logging_steps,
        eval_strategy="steps",
        eval_steps=config.eval_steps,
        save_steps=config.save_steps,
        use_cpu=device.type == "cpu",
        disable_tqdm=True,
    )
    arguments.metric_for_best_model, arguments.greater_is_better = "eval_loss", False
    arguments.load_best_model_at_end = True  # what the loop does; the flag itself would ask for matching cadences
    return arguments


class _OwnCadence(DefaultFlowCallback):
    """HF's handler expects a flow callback; when to log, evaluate and save is decided by zofo's loop."""

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        return control

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        return control


def read_state(path: Path) -> TrainerState:
    """A checkpoint's trainer_state.json. Raises ValueError for a field of another type than the run counts in."""
    state = TrainerState.load_from_json(str(path))
    for name, usual in vars(TrainerState()).items():
        value = getattr(state, name)
        fits = type(value) in (int, float) if type(usual) is int else isinstance(value, type(usual))
        if usual is not None and not fits:
            raise ValueError(f"{path.name}: {name} is a {type(value).__name__}")
    if not all(isinstance(line, dict) for line in state.log_history):
        raise ValueError(f"{path.name}: log_history has an entry that is no mapping")
    return state


class Callbacks:
    """Calls the events of HF TrainerCallbacks with a true TrainingArguments, TrainerState and TrainerControl.

    `state.global_step` counts every update, lower and upper. Reports go to `report_to` and to `callbacks`.
    """

    def __init__(
        self,
        config: TrainConfig,
        out: Path,
        callbacks: Sequence[TrainerCallback | type[TrainerCallback]],
        model: Any,
        tokenizer: Any,
        device: torch.device,
        leads: bool = True,
    ) -> None:
        """leads: whether this is rank 0, whose reports are those of all ranks."""
        self.args = _arguments(config, out, device)
        reporters = _reporters(config.report_to) if leads else []
        self.given = bool(callbacks)
        self.ask = bool(callbacks or config.report_to)  # whether somebody may ask for something
        self.state = TrainerState(
            max_steps=config.max_steps,
            logging_steps=config.logging_steps,
            eval_steps=config.eval_steps,
            save_steps=config.save_steps,
            train_batch_size=config.batch_size,
            is_local_process_zero=leads,
            is_world_process_zero=leads,
        )
        self.control = TrainerControl()
        self._handler = CallbackHandler([_OwnCadence(), *reporters, *callbacks], model, tokenizer, None, None)
        self.call("on_init_end")

    def call(self, event: str, **kwargs: Any) -> None:
        """Run one event, e.g. "on_step_end", on every callback."""
        self.control = self._handler.call_event(event, self.args, self.state, self.control, **kwargs)

    def log(self, values: dict[str, float], event: str = "on_log") -> None:
        finite: dict[str, Any] = {
            key: value if math.isfinite(value) else None for key, value in values.items()
        }  # for its JSON
        self.state.log_history.append({**finite, "step": self.state.global_step})
        del self.state.log_history[:-HISTORY]
        self.call(event, logs=values)

    def stopped(self) -> bool:
        """Whether a callback asked to stop."""
        return bool(self.control.should_training_stop)

    def asked(self, flag: str) -> bool:
        """Whether a callback asked for it ("should_evaluate", "should_save"); the wish is cleared."""
        wish = bool(getattr(self.control, flag))
        setattr(self.control, flag, False)
        return wish
