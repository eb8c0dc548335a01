"""Zeroth-order steps inside transformers' Trainer, and what is built on it (TRL's SFTTrainer): a mixin.

    class ZOTrainer(TrainerMixin, Trainer):
        zeroth_order = {"estimator": {"name": "spsa", "q": 4}, "journal": "run.bin"}

    ZOTrainer(model=model, args=args, train_dataset=rows).train()

Their loop, callbacks, logs, schedule and checkpoints; no gradients, and no optimizer's state beyond the rule's.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from zofo.api.optimizer import ZerothOrder
from zofo.errors import InputError

log = logging.getLogger("zofo")


class TrainerMixin:
    """Put it before the trainer's class. theta is what has `requires_grad` when the optimizer is made: the whole model,
    or PEFT's adapter.

    zeroth_order: of `ZerothOrder`: estimator, rule, mask, journal, overwrite. The rate and its schedule are
    `args.learning_rate`'s, the seed `args.seed`'s. Accumulated batches are one estimate. What `args` says of optimizers
    and of clipping gradients does nothing.
    Raises InputError for mixed precision in fp16, several devices, and for what `ZerothOrder` refuses.
    """

    zeroth_order: ClassVar[Mapping[str, Any]] = {}

    def create_optimizer(self: Any, model: Any = None) -> Any:
        if self.optimizer is None:
            args = self.args
            if args.n_gpu > 1 or args.world_size > 1:
                raise InputError("args: several devices; a zeroth-order step inside the Trainer takes one")
            if args.fp16:
                raise InputError("args.fp16: its scaling is of gradients, and there are none; take bf16 or neither")
            if args.weight_decay:
                log.warning("args.weight_decay: does nothing here; give the rule its own, such as adamw's")
            model = self.model if model is None else model
            names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
            settings = {"seed": args.seed, **self.zeroth_order}
            self.optimizer = ZerothOrder(model, lr=args.learning_rate, names=names, **settings)
            self._batches = []
        return self.optimizer

    def training_step(self: Any, model: Any, inputs: Mapping[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """The loss of the step's batches, of which all but the last wait; its `optimizer.step()` moves theta."""
        for module in model.modules():  # the Trainer's loop has set them to train
            module.training = False
        model.training = True  # by which TRL tells its training's metrics from an evaluation's
        self._batches.append(self._prepare_inputs(inputs))
        if not self.accelerator.sync_gradients:
            return torch.zeros((), device=self.args.device)
        batches, self._batches = self._batches, []
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)  # accelerate has wrapped it

        def closure() -> torch.Tensor:
            return torch.stack(
                [self._loss_of(model, batch, num_items_in_batch, len(batches)) for batch in batches]
            ).sum()

        return torch.tensor(optimizer.estimate(closure), device=self.args.device)

    def _loss_of(self: Any, model: Any, inputs: Mapping[str, Any], items: Any, batches: int) -> torch.Tensor:
        """A batch's part of the step's loss, by the trainer's own `compute_loss`."""
        with self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs, num_items_in_batch=items)
        by_items = (self.model_accepts_loss_kwargs and items is not None) or self.compute_loss_func is not None
        scaled = getattr(self, "loss_is_scaled_for_ga", None)
        return (loss if (by_items if scaled is None else scaled) else loss / batches).detach().float()
