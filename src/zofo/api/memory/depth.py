"""Depth: what a deep model takes, told from two models of few of its layers.

Layers that are alike take the same, so at a given moment of a step every part grows by the same bytes a layer. Which
moment is the fullest may change with the depth: in a first-order pass what is kept for the gradient shrinks while the
gradients grow, and the most is held at one end or at the other. So the moments with few gradients and those with most
of them are told apart, and each kind is followed to the depth of the model.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zofo.api.memory.live import PARTS, Peak

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Families whose layers are alike but for what a list in their configuration says of each (tests/api/test_depth.py)
ALIKE = {
    *("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi", "phi3", "smollm3"),
    *("opt", "gpt2", "gpt_neox", "olmo", "olmo2", "granite", "cohere", "stablelm"),
}
_GRADIENTS = PARTS.index("gradients")


@dataclass(frozen=True)
class Few:
    """Two configurations that differ from a model's in their number of layers alone."""

    settings: tuple[PreTrainedConfig, PreTrainedConfig]
    layers: tuple[int, int]
    whole: int

    def at_depth(self, one: int, other: int) -> int:
        """What is `one` and `other` at the two depths, at the model's. Bytes a layer are a whole number."""
        first, second = self.layers
        return one + (other - one) * (self.whole - first) // (second - first)


def shallow(settings: PreTrainedConfig) -> Few | None:
    """None for a model of few layers, and for one whose layers are not known to be alike."""
    if settings.model_type not in ALIKE or getattr(settings, "auto_map", None):
        return None
    whole = settings.num_hidden_layers
    lists = _by_layer(settings, whole)
    period = next(p for p in range(1, whole + 1) if all(_repeats(each, p) for each in lists.values()))
    first = next(n for n in range(2, whole + period + 2) if (whole - n) % period == 0)
    second = first + period
    if second >= whole:
        return None
    return Few((_cut(settings, first, lists), _cut(settings, second, lists)), (first, second), whole)


def _by_layer(settings: PreTrainedConfig, layers: int) -> dict[str, Sequence[Any]]:
    """{attribute: its list of a value a layer}"""
    return {k: v for k, v in vars(settings).items() if isinstance(v, list) and len(v) == layers and "layer" in k}


def _repeats(values: Sequence[Any], period: int) -> bool:
    return all(value == values[i % period] for i, value in enumerate(values))


def _cut(settings: PreTrainedConfig, layers: int, lists: Mapping[str, Sequence[Any]]) -> PreTrainedConfig:
    cut = copy.deepcopy(settings)
    for name, values in lists.items():
        setattr(cut, name, list(values[:layers]))
    cut.num_hidden_layers = layers
    return cut


def deepened(
    one: Mapping[str, Sequence[tuple[int, ...]]], other: Mapping[str, Sequence[tuple[int, ...]]], few: Few
) -> dict[str, Peak]:
    """The fullest moment of each phase at the model's depth, from all moments at the two depths."""
    peaks = {}
    for phase, moments in one.items():
        kinds = zip(_fullest(moments), _fullest(other[phase]))
        sizes = [[few.at_depth(*pair) for pair in zip(*each)] for each in kinds]
        peaks[phase] = Peak(phase, dict(zip(PARTS, max(sizes, key=sum))))
    return peaks


def _fullest(moments: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Of the moments with most of the gradients, and of the others; of equal ones the later."""
    half = max(moment[_GRADIENTS] for moment in moments) / 2
    kinds = ([m for m in moments if m[_GRADIENTS] >= half], [m for m in moments if m[_GRADIENTS] < half])
    return [max(reversed(kind), key=sum) for kind in kinds if kind]
