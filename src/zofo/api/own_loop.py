"""What somebody's own training loop brings along: a model, a rate, a closure. What is wrong with them, in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from zofo.errors import InputError, did_you_mean

Closure = Callable[[], float | Tensor]  # () -> loss, a number or a tensor of one element


def module_of(model: Any) -> nn.Module:
    """The module whose parameters move; of one that torch.compile wrapped, the one inside, whose names are the plain
    ones. Raises InputError for what is no module."""
    if isinstance(model, nn.Module):
        inside = getattr(model, "_orig_mod", None)
        return inside if isinstance(inside, nn.Module) else model
    what = f"a {type(model).__name__}"
    if isinstance(model, Iterable) and not isinstance(model, (str, Tensor)):
        what = "parameters, as torch's optimizers take them (a generator or a list)"
    raise InputError(
        f"model: expected the torch module itself, as in ZerothOrder(model, lr=...), got {what}: a shifted weight is "
        f"put where the module reads it; names=[...] says which of its parameters move"
    )


def is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile has wrapped the model, or a part of it in place (model.compile())."""
    if hasattr(model, "_orig_mod"):
        return True
    return any(getattr(m, "_compiled_call_impl", None) is not None or hasattr(m, "_orig_mod") for m in model.modules())


def check_names(names: Iterable[str] | None, model: nn.Module) -> None:
    """Raises InputError for names that are no parameters of the model."""
    if names is None:
        return
    if isinstance(names, str):
        raise InputError(f"names: expected a list of names, got one text; give [{names!r}]")
    known = dict(model.named_parameters())
    odd = sorted(set(map(str, names)) - set(known))
    if odd:
        raise InputError(f"names: the model has no parameter {odd[0]}{did_you_mean(odd[0], list(known))}")


def check_rate(lr: Any) -> None:
    """Raises InputError for a rate that no step can be taken with."""
    number = isinstance(lr, (int, float)) and not isinstance(lr, bool)
    if isinstance(lr, Tensor) and lr.numel() == 1:
        number, lr = True, lr.item()
    if not number or not math.isfinite(lr) or lr < 0:
        raise InputError(f"lr: expected a number that is 0 or more, got {lr!r}")


def check_seed(seed: Any) -> None:
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise InputError(f"seed: expected a whole number that is 0 or more, got {seed!r}")


def check_modes(model: nn.Module) -> None:
    """Raises InputError for a part of the model in training mode whose output, or state, is another in each call."""
    for name, module in model.named_modules():
        if not module.training:
            continue
        at = f"{name or 'the model'} ({type(module).__name__})"
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            raise InputError(
                f"{at} is in training mode: it drops others in each of the estimate's forwards, so their difference "
                f"would measure that; call model.eval() before the step (gradients are not needed here)"
            )
        if _keeps_statistics(module):
            raise InputError(
                f"{at} is in training mode: every forward, at shifted weights too, would move its running statistics; "
                f"call model.eval() before the step, after its statistics have been taken from data"
            )
        if isinstance(module, nn.RNNBase) and module.dropout > 0 and module.num_layers > 1:
            raise InputError(
                f"{at} is in training mode with dropout: it drops others in each of the estimate's forwards; call "
                f"model.eval() before the step"
            )


def _keeps_statistics(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats


def closure_of(closure: Any, what: str = "closure") -> Callable[[], Any]:
    """Raises InputError for what cannot be called."""
    if callable(closure):
        return closure
    raise InputError(
        f"{what}: expected a function () -> loss, which is called several times, got a {type(closure).__name__}; give "
        f"lambda: loss_of(model(x), y)"
    )


class Objective:
    """The closure as estimators and rules want it: a float, no gradients, and `further` where it was given."""

    def __init__(self, closure: Closure, further: Callable[[], Closure] | None) -> None:
        self.closure: Closure = closure_of(closure)
        made = None if further is None else closure_of(further, "further")
        self.further = None if made is None else lambda: Objective(made(), made)

    @torch.no_grad()
    def __call__(self) -> float:
        try:
            loss = self.closure()
        except RuntimeError as error:
            raise _in_words(error) from error
        if isinstance(loss, Tensor):
            if loss.numel() != 1 or loss.is_complex():
                raise InputError(
                    f"closure: returned a tensor of shape {tuple(loss.shape)}, {loss.dtype}; a loss is one real "
                    f"number: its .mean(), for one a row"
                )
            return float(loss)
        if isinstance(loss, bool) or not hasattr(loss, "__float__"):
            hint = "; does it end without `return`?" if loss is None else ""
            raise InputError(f"closure: returned a {type(loss).__name__}; expected the loss, one number{hint}")
        try:
            return float(loss)
        except (TypeError, ValueError):
            raise InputError(f"closure: returned {loss!r:.80}; expected the loss, one number") from None


def _in_words(error: RuntimeError) -> Exception:
    """The error, or the InputError that says what of it is zofo's business."""
    if type(error).__module__.startswith("torch._dynamo"):
        return InputError(
            "closure: torch.compile's code cannot read a weight that is shifted while it is read; give "
            'estimator={"name": ..., "shift": "copy"} (a second copy of the weights), or leave out torch.compile'
        )
    if "does not require grad" in str(error):
        return InputError(
            "closure: calls backward(), and there are no gradients here: an estimate needs the loss alone; return it"
        )
    return error
