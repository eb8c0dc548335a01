"""AdaMeZO: Adam whose moments are made again from the last h seeds and coefficients (Cai et al., arXiv 2605.00650).

| symbol | field | default | place |
|---|---|---|---|
| h | h | 10 | the authors' repository, its example (HESS_WINDOW) |
| beta_1, beta_2 | beta1, beta2 | 0.7, 0.9 | the same, and the defaults of its run.py; its mezo.sh has Adam's |
| epsilon | adam_eps | 1e-10 | inside the root, as the update has it; run.py's 1e-5 outside is about that |

    m = (1 - beta_1) sum_j beta_1^j g_(t-j),  v = (1 - beta_2) sum_j beta_2^j g_(t-j)^2,  j = 0, ..., h - 1,
    theta <- theta - lr m / sqrt(v + epsilon)

The update is that of a secondary source (junaidaliop.github.io/zij/math/adamezo) and of the authors' repository; of the
paper's own text only the abstract was seen. Their code has neither 1 - beta_1 nor 1 - beta_2 and multiplies by 100,
which is another rate. Here a window has what there is, and nothing is corrected for that: with one g in each step and
the defaults a weight moves .95 lr in the first step and 1.2 lr from the 10th on. (With Adam's betas 3.2 and 6.5: the
sums of ten terms are far below those of all.) With h no less than the steps of a run m and v are `adam`'s, to the bit,
under any mask. Signs and one term a step make v one number.

0 extra bytes a weight: of each step of the window 12 bytes a term are kept. A step makes z h times; see `_rebuilt` for
the window under a mask.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from zofo.zo.grad import float32
from zofo.zo.rules import _rebuilt

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Config(_rebuilt.Config):
    beta1: float = field(
        default=0.7, metadata={"help": "decay of the mean of g", "paper": "authors' code: 0.7", "ge": 0, "lt": 1}
    )
    beta2: float = field(
        default=0.9, metadata={"help": "decay of the mean of g^2", "paper": "authors' code: 0.9", "ge": 0, "lt": 1}
    )
    adam_eps: float = field(default=1e-10, metadata={"help": "added to the mean of g^2, inside the root", "gt": 0})


class Rule(_rebuilt.Rebuilt):
    """State: the window. 0 extra bytes a weight, 2 with rounding `split`."""

    numbers: ClassVar = ("m", "v")
    largest: ClassVar = 1e17  # as in `adam`
    config: Config

    def begin(self, lr: float) -> None:
        self.rate = float32(-lr)

    def fold(self, g: Tensor, **numbers: Tensor) -> None:
        m, v, cfg = numbers["m"], numbers["v"], self.config
        m.mul_(float32(cfg.beta1)).add_(g * float32(1 - cfg.beta1))
        v.mul_(float32(cfg.beta2)).add_(g.mul_(g).mul_(float32(1 - cfg.beta2)))

    def delta(self, **numbers: Tensor) -> Tensor:
        below = (numbers["v"] + float32(self.config.adam_eps)).double().sqrt_().float()  # rounded once: see `adam`
        return (numbers["m"] * self.rate).div_(below)
