"""DePT: a short soft prompt, and a low-rank shift of the words by position (Shi and Lipani, ICLR 2024).

Decomposed prompt tuning, arXiv 2309.05173, section 2: prompt tuning's l D trained numbers become m D of a shorter
prompt and r (s + D) of two matrices, and the model reads [P; E + A B], which is l - m tokens shorter.

| symbol | field | default | place |
|---|---|---|---|
| m | tokens | 4 | 0.4 of prompt tuning's 10, as the paper's m = 40 of l = 100 |
| r | r | 4 | m D + r (s + D) = 5,632 at D = 576, where 10 tokens of `prompt` have 5,760 |
| s | max_length | 256 | the paper's longest input |
| P at the start | text | words of the instruction | as in `prompt` |
| A, B at the start | - | uniform in +-1 / sqrt(r), 0: the words start unchanged | the authors' code, f0266a7 |
| - | scale | 1 | E + scale A B; the authors' code has 8 / sqrt(r) |

The paper trains P and (A, B) at two learning rates. Here one optimizer has one rate; with Adam, a `scale` of c moves
scale A B at first as c times the rate would. Row t of A belongs to position t of the row's own tokens, the special ones
counted and the prompt not. A position beyond s is read as it is: a text may grow over s while it is generated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from zofo.models.adapters._base import Base, Settings
from zofo.models.adapters.prompt import real_embeddings

if TYPE_CHECKING:
    from torch import Tensor

    from zofo.models.adapters._soft import SoftSet


@dataclass(frozen=True)
class Config(Settings):
    tokens: int = field(
        default=4, metadata={"help": "virtual tokens of the short prompt", "paper": "section 2: m", "ge": 1}
    )
    r: int = field(default=4, metadata={"help": "rank of the words' shift", "paper": "section 2: r", "ge": 1})
    max_length: int = field(
        default=256,
        metadata={"help": "positions that are shifted; the words after them stay", "paper": "section 2: s", "ge": 1},
    )
    scale: float = field(
        default=1.0, metadata={"help": "factor of the shift, in place of a rate of its own for it", "gt": 0}
    )
    text: str = field(
        default="Read the text below with care, then give the right answer to it.",
        metadata={
            "help": "the embeddings of its tokens are the start, repeated or cut to the number of virtual tokens"
        },
    )


class Adapter(Base):
    """p and s start equal: the prompt from a text, A from a generator of its own, B at 0."""

    config: Config

    @classmethod
    def reads(cls, raw: Mapping[str, Any], tensors: Sequence[str]) -> dict[str, Any] | None:
        """PEFT has none: the file is one of zofo's, with every setting in it."""
        names = [spec.name for spec in fields(Config) if spec.name != "start"]
        return {name: raw[name] for name in names if name in raw} if raw.get("zofo") == "dept" else None

    def build(self, model: Any, names: Sequence[str], seed: int, tokenizer: Any = None) -> SoftSet:
        """seed: key of A's draw. tokenizer: the model's."""
        from zofo.models.adapters._front import PromptFront
        from zofo.models.adapters._soft import SoftSet

        config, prompt = self.config, real_embeddings(model, tokenizer, self.config.text, self.config.tokens)

        def draw(seed: int) -> dict[str, Tensor]:
            """prompt [m, D], A [s, r], B [r, D], fp32."""
            import torch

            generator = torch.Generator().manual_seed(seed % 2**63)
            a = (2 * torch.rand(config.max_length, config.r, generator=generator) - 1) / config.r**0.5
            return {"prompt": prompt, "A": a.to(prompt.device), "B": prompt.new_zeros(config.r, prompt.shape[1])}

        def shift(weights: dict[str, Tensor], positions: Tensor) -> Tensor:
            """scale A B at positions [R, L], 0 beyond s: [R, L, D]."""
            places = positions.clamp(max=config.max_length - 1)[..., None].expand(-1, -1, config.r)
            rows = weights["A"].gather(1, places) * (positions < config.max_length)[..., None]
            return config.scale * rows @ weights["B"]

        written = {"peft_type": "DEPT", "task_type": "CAUSAL_LM", "zofo": "dept", **asdict(config)}
        del written["start"]  # a place on this machine, and no part of what the adapter computes
        written["base_model_name_or_path"] = getattr(model.config, "_name_or_path", None)
        return SoftSet(model, PromptFront(shift), names, draw(seed), written, virtual=config.tokens, draw=draw)
