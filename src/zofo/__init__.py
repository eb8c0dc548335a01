"""zofo: fine-tune language models in the memory of inference plus a small adapter."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zofo.api import Run as Run
    from zofo.api import evaluate as evaluate
    from zofo.api import export as export
    from zofo.api import finetune as finetune
    from zofo.api import load as load
    from zofo.api import train as train
    from zofo.errors import InputError as InputError
    from zofo.errors import RunError as RunError
    from zofo.errors import ZofoError as ZofoError
    from zofo.generation import generate as generate
    from zofo.meta.run import meta_test as meta_test
    from zofo.torch_optim import ZerothOrder as ZerothOrder

# transformers imports torchao where it is installed, which then says what of it this machine does not have
logging.getLogger("torchao").addFilter(lambda record: not str(record.msg).startswith("Failed to load"))
logging.getLogger("torch.utils._pytree").addFilter(lambda record: "register_constant" not in str(record.msg))

__version__ = "0.1.0"
_HOMES = {
    **dict.fromkeys(("Run", "evaluate", "export", "finetune", "load", "train"), "zofo.api"),
    **dict.fromkeys(("InputError", "RunError", "ZofoError"), "zofo.errors"),
    "generate": "zofo.generation",
    "meta_test": "zofo.meta.run",
    "ZerothOrder": "zofo.torch_optim",
}
__all__ = [
    "InputError", "Run", "RunError", "ZerothOrder", "ZofoError", "evaluate", "export", "finetune", "generate", "load",
    "meta_test", "train",
]  # fmt: skip


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Public names are imported on first use: `import zofo` does not load torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'zofo' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
