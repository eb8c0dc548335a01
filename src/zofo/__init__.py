"""zofo: fine-tune language models in the memory of inference plus a small adapter."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from zofo.errors import plain_record

if TYPE_CHECKING:
    from zofo.api.configure import resolve as resolve
    from zofo.api.finetune import Run as Run
    from zofo.api.finetune import evaluate as evaluate
    from zofo.api.finetune import export as export
    from zofo.api.finetune import finetune as finetune
    from zofo.api.finetune import load as load
    from zofo.api.finetune import train as train
    from zofo.api.generate import generate as generate
    from zofo.api.metatest.run import meta_test as meta_test
    from zofo.api.optimizer import ZerothOrder as ZerothOrder
    from zofo.api.optimizer import replay as replay
    from zofo.api.predict import predict as predict
    from zofo.api.predict_file import predict_file as predict_file
    from zofo.api.trainer import TrainerMixin as TrainerMixin
    from zofo.errors import InputError as InputError
    from zofo.errors import RunError as RunError
    from zofo.errors import ZofoError as ZofoError
    from zofo.study.report.write import report as report

# transformers imports torchao where it is installed, which then says what of it this machine does not have
logging.getLogger("torchao").addFilter(lambda record: not str(record.msg).startswith("Failed to load"))
logging.getLogger("torch.utils._pytree").addFilter(lambda record: "register_constant" not in str(record.msg))
logging.getLogger("zofo").addFilter(plain_record)

__version__ = "0.1.0"
_HOMES = {
    **dict.fromkeys(("Run", "evaluate", "export", "finetune", "load", "train"), "zofo.api.finetune"),
    **dict.fromkeys(("InputError", "RunError", "ZofoError"), "zofo.errors"),
    "generate": "zofo.api.generate",
    "meta_test": "zofo.api.metatest.run",
    "ZerothOrder": "zofo.api.optimizer",
    "predict": "zofo.api.predict",
    "predict_file": "zofo.api.predict_file",
    "replay": "zofo.api.optimizer",
    "TrainerMixin": "zofo.api.trainer",
    "report": "zofo.study.report.write",
    "resolve": "zofo.api.configure",
}
__all__ = [
    "InputError",
    "Run",
    "RunError",
    "TrainerMixin",
    "ZerothOrder",
    "ZofoError",
    "evaluate",
    "export",
    "finetune",
    "generate",
    "load",
    "meta_test",
    "predict",
    "predict_file",
    "replay",
    "report",
    "resolve",
    "train",
]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Public names are imported on first use: `import zofo` does not load torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'zofo' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


class _Package(ModuleType):
    """`zofo.train` is the function, whether or not the folder of that name has been imported: `from zofo.train import
    ...` finds the folder by its own name, and here importing it would put it in the function's place."""

    @property
    def train(self) -> Any:
        return __getattr__("train")

    @train.setter
    def train(self, folder: ModuleType) -> None:
        """What the import system does with a folder that it has imported."""


sys.modules[__name__].__class__ = _Package
