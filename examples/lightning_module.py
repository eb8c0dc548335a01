"""The same in PyTorch Lightning, `pip install lightning`: `python examples/lightning_module.py MODEL`."""

import sys

import lightning
import torch
from accelerate_loop import TEXTS, batches
from transformers import AutoModelForCausalLM, AutoTokenizer

from zofo import ZerothOrder


class ZeroOrderModule(lightning.LightningModule):
    """Manual optimization: one step calls its closure several times, and nothing is differentiated."""

    automatic_optimization = False

    def __init__(self, name: str, lr: float = 1e-4) -> None:
        super().__init__()
        self.model, self.lr, self.losses = AutoModelForCausalLM.from_pretrained(name), lr, []

    def configure_optimizers(self):
        return ZerothOrder(self.model, lr=self.lr, estimator={"name": "spsa", "q": 2})

    def on_train_epoch_start(self) -> None:
        self.model.eval()  # dropout would differ between the forwards of a step

    def training_step(self, batch, index: int) -> None:
        loss = self.optimizers().step(lambda: self.model(**batch).loss)  # counts in global_step, too
        self.log("loss", loss, prog_bar=True)
        self.losses.append(loss)


def main(name: str, out: str = "out/lightning", epochs: int = 5, resume: str | None = None) -> list[float]:
    """The loss of each step; checkpoints are Lightning's own, of which `resume` names one."""
    tokenizer = AutoTokenizer.from_pretrained(name)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    module = ZeroOrderModule(name)
    device = "auto" if torch.cuda.is_available() else "cpu"
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator=device, devices=1, default_root_dir=out, logger=False, enable_progress_bar=False
    )
    trainer.fit(module, batches(tokenizer, TEXTS), ckpt_path=resume)
    return module.losses


if __name__ == "__main__":
    main(*sys.argv[1:3])
