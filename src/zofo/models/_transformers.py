"""All that zofo takes from the inside of transformers, and how it asks a model what it does.

Nothing here goes by the name of an argument alone: names move (in 5.24.0 a forward's `past_key_values` became `cache`),
and what is passed under the wrong one is dropped without a word. A model is tried with a token or two, and what it did
counts. `zofo.models.versions` knows the versions that this was tried with; `zofo env` prints them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from zofo.errors import RunError, out_of_memory
from zofo.models.versions import named

if TYPE_CHECKING:
    from transformers import Cache

log = logging.getLogger("zofo")

CACHE_NAMES = ("cache", "past_key_values")  # what forwards have called it; the newest name first
TRIED = 3  # tokens that are written to compare two ways
PROMPT = 6  # tokens of a prompt that is tried, at most: whatever is written must fit the model's positions
WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")  # where a config tells how far a token looks back
_names: WeakKeyDictionary[nn.Module, str | None] = WeakKeyDictionary()
_pads_left: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_ways: WeakKeyDictionary[nn.Module, dict[str, Any]] = WeakKeyDictionary()


def unwrapped(model: Any) -> Any:
    """The backbone of a model with or without an adapter around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def window(config: Any) -> float:
    """Tokens that the layer which sees fewest looks back; inf where all see the whole row."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    kinds = getattr(text, "layer_types", None)
    if kinds and set(kinds) == {"full_attention"}:
        return math.inf
    windows = (getattr(text, name, None) for name in WINDOWS)
    return min((n for n in windows if isinstance(n, int) and n > 0), default=math.inf)


_INSIDE = {
    "CallbackHandler": "transformers.trainer_callback",
    "Conv1D": "transformers.pytorch_utils",
    "GradientCheckpointingLayer": "transformers.modeling_layers",
    "get_reporting_integration_callbacks": "transformers.integrations.integration_utils",
    "AutoHfQuantizer": "transformers.quantizers.auto",
    "TransformersDeviceMesh": "transformers.distributed.utils",
    "mixin": "transformers.distributed",
}


def __getattr__(name: str) -> Any:
    """What lies in undocumented modules of transformers, on first use. Raises RunError where it is gone."""
    if name not in _INSIDE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_INSIDE[name]), name)
    except (ImportError, AttributeError) as error:
        raise RunError(f"{named('transformers')} has no {_INSIDE[name]}.{name}: take a tested version") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and its tables of a checkpoint's tensors: a run has lines of its own."""
    from transformers.utils import logging as hf_logging

    shown, level = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if shown:
            hf_logging.enable_progress_bar()


# ------------------------------------------------------------------------------------------------------------- caches


@torch.no_grad()
def cache_name(base: Any) -> str | None:
    """The name under which a forward of `base` takes a cache of keys and values, found with one token.

    None where the cache stays empty under every name: the model keeps its state elsewhere, or keeps none.
    """
    if base not in _names:
        _names[base] = next((name for name in CACHE_NAMES if _fills(base, name)), None)
    return _names[base]


def _fills(base: Any, name: str) -> bool:
    from transformers import DynamicCache

    ids = torch.zeros((1, 1), dtype=torch.long, device=base.device)
    try:
        cache = DynamicCache(config=base.config)
        base(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, **{name: cache})
    except Exception as error:  # whatever a model's code says to an argument or a cache that it does not know
        if out_of_memory(error):
            raise
        log.debug("%s takes no cache as %s: %s", type(base).__name__, name, error)
        return False
    return _keys_and_values(cache) is not None


def keys_and_values(base: Any, ids: Tensor) -> list[tuple[Tensor, Tensor]] | None:
    """(keys, values), each [R, heads, L, width], of every layer on the tokens [R, L]; of a sliding layer's the last.

    None for a model that does not cache just these.
    """
    from transformers import DynamicCache

    name = cache_name(base)
    if name is None:
        return None
    cache = DynamicCache(config=base.config)
    with torch.no_grad():
        base(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, **{name: cache})
    return _keys_and_values(cache)


def _keys_and_values(cache: Cache) -> list[tuple[Tensor, Tensor]] | None:
    layers = [(getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in cache.layers]
    plain = layers and all(isinstance(tensor, Tensor) and tensor.ndim == 4 for layer in layers for tensor in layer)
    return layers if plain else None  # pyright: ignore[reportReturnType]


def fill(cache: Cache, layers: Sequence[tuple[Tensor, Tensor]]) -> Cache:
    """The cache, with (keys, values) [R, heads, n, width] of each layer behind what it holds."""
    for index, (keys, values) in enumerate(layers):
        cache.update(keys, values, index)
    return cache


def passed_cache(arguments: dict[str, Any]) -> Cache | None:
    """The cache among a forward's arguments, whatever its name there."""
    from transformers import Cache

    return next((value for value in arguments.values() if isinstance(value, Cache)), None)


class SharedStart:
    """A cache of what many rows begin with: a forward sees it before its own tokens, and adds nothing to it."""

    def __init__(self, model: Any, ids: Tensor) -> None:
        """ids: [1, P], read by the model as it is.

        Raises ValueError for a model that keeps more than keys and values of every token.
        """
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        class SharedLayer(DynamicLayer):
            """One layer's keys and values of the start, [1, heads, P, width], shown before a batch's own."""

            def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
                rows = len(key_states)
                keys, values = (start.expand(rows, -1, -1, -1) for start in (self.keys, self.values))  # pyright: ignore
                return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)

        name, cache = cache_name(unwrapped(model)), DynamicCache()
        if name is None:
            raise ValueError(f"it takes no cache as {' or '.join(CACHE_NAMES)} ({named('transformers')})")
        model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, **{name: cache})
        if not cache.layers or any(type(layer) is not DynamicLayer for layer in cache.layers):
            raise ValueError("its state is more than keys and values of every token")
        if _keys_and_values(cache) is None:
            raise ValueError("its cache stays empty")
        for layer in cache.layers:
            layer.__class__ = SharedLayer  # pyright: ignore[reportAttributeAccessIssue]
        self.cache = cache
        self.arguments: dict[str, Any] = {"use_cache": True, name: cache}  # of a forward behind the start


# --------------------------------------------------------------------------------------------------------- generation


@torch.no_grad()
def pads_left(model: Any) -> bool:
    """Whether a row says the same behind padding on the left: its positions follow the mask, and it has no other state.

    Tried in `generate` with a row alone and behind two tokens of padding. model: a backbone, or a soft adapter's model.
    """
    if model not in _pads_left:
        _pads_left[model] = True  # while it is tried: a soft adapter's `generate` asks, too
        try:
            stateful = getattr(unwrapped(model), "_is_stateful", False)
            _pads_left[model] = not stateful and _same_behind_padding(model)
        except BaseException:
            del _pads_left[model]
            raise
    return _pads_left[model]


def write_greedily(model: Any, ids: Tensor, mask: Tensor, settings: dict[str, Any], **hooks: Any) -> Any:
    """`model.generate` by a generation_config of our own: the settings, and nothing that the checkpoint's asks for.

    What a checkpoint's own generation_config says transformers puts wherever one that is given says nothing, so the
    model has none meanwhile. PEFT's models have one beside their base's. hooks: logits_processor, stopping_criteria.
    """
    from transformers import GenerationConfig

    holders = [each for each in dict.fromkeys((model, unwrapped(model))) if hasattr(each, "generation_config")]
    theirs = [each.generation_config for each in holders]
    ours = GenerationConfig(do_sample=False, num_beams=1, **settings)
    try:
        for each in holders:
            each.generation_config = GenerationConfig()
        return model.generate(input_ids=ids, attention_mask=mask, generation_config=ours, **hooks)
    finally:
        for each, before in zip(holders, theirs):
            each.generation_config = before


def _same_behind_padding(model: Any) -> bool:
    ids = torch.tensor([[1, 2, 3, 1]], device=model.device)  # any will do
    behind, mask = torch.cat([ids[:, :2], ids], dim=1), torch.tensor([[0, 0, 1, 1, 1, 1]], device=model.device)
    try:
        alone, padded = (_write(model, row, seen)[1] for row, seen in ((ids, torch.ones_like(ids)), (behind, mask)))
    except Exception as error:  # whatever a model's code says to padding
        if out_of_memory(error):
            raise
        log.debug("%s takes no padding on the left: %s", type(model).__name__, error)
        return False
    return close(padded[:, :1], alone[:, :1])


def way_to_write(model: Any, ids: Sequence[int]) -> dict[str, Any]:
    """Arguments with which `model.generate` writes on as the model's own forward says, found with a prompt's ids.

    Empty where all is well with the cache on; {"use_cache": False}, which is slower, where that is what it takes. The
    model is tried once. Raises RunError, naming the versions, where neither is right: an adapter that `generate` drops
    (PEFT's prefix with transformers 5.24.0) is no error anywhere else, only another text.
    """
    if model not in _ways:
        way = right_way(model, ids)
        if way is None:
            _check_finite(model, ids)
            raise RunError(
                f"{type(model).__name__}: `generate` computes other logits than the forward that was trained, with and "
                f"without its cache, so its texts would not be this model's ({named('transformers', 'peft')}); take "
                f"versions that were tested together"
            )
        if way:
            log.warning(
                "%s.generate is right without its cache alone, so each token reads the whole text: %s",
                type(model).__name__,
                named("transformers", "peft"),
            )
        _ways[model] = way
    return _ways[model]


@torch.no_grad()
def _check_finite(model: Any, ids: Sequence[int]) -> None:
    """Raises RunError for a model whose logits are none, which no version of a library is to blame for."""
    row = torch.tensor([list(ids)[:PROMPT]], device=model.device)
    if not torch.isfinite(model(input_ids=row).logits).any():
        raise RunError(
            f"{type(model).__name__}: what it computes is NaN or infinite, so it writes nothing: its weights are not "
            f"finite, or overflow in its dtype (try model.dtype=float32)"
        )


@torch.no_grad()
def right_way(model: Any, ids: Sequence[int]) -> dict[str, Any] | None:
    """The first of {} and {"use_cache": False} with which `model.generate` is right; None where neither is.

    A single token is a prompt of its own: state-space models have a case for fewer tokens than their convolution sees.
    """
    rows = [torch.tensor([list(ids)[:n]], device=model.device) for n in sorted({1, min(len(ids), PROMPT)})]
    ways: tuple[dict[str, Any], ...] = ({}, {"use_cache": False})
    return next((way for way in ways if all(_writes_as_forward(model, row, way) for row in rows)), None)


def _writes_as_forward(model: Any, row: Tensor, way: dict[str, Any]) -> bool:
    try:
        sequences, logits = _write(model, row, torch.ones_like(row), **way)
    except Exception as error:  # the text itself would meet it again, without the cache or with
        if out_of_memory(error):
            raise
        log.debug("%s.generate(%s): %s", type(model).__name__, way, error)
        return False
    whole = model(input_ids=sequences, attention_mask=torch.ones_like(sequences), use_cache=False).logits
    after = whole.shape[1] - 1 - logits.shape[1]  # a soft prompt's own positions may stand before the row's
    return close(logits, whole[:, after:-1])


def _write(model: Any, ids: Tensor, mask: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """(sequences [R, L + TRIED], the logits [R, TRIED, V] that each new token was taken from), greedily."""
    options |= {"max_new_tokens": TRIED, "pad_token_id": 0, "return_dict_in_generate": True, "output_logits": True}
    out = write_greedily(model, ids, mask, options)
    return out.sequences, torch.stack(out.logits, dim=1)


def close(logits: Tensor, right: Tensor) -> bool:
    """Whether two ways to the same logits [R, L, V] agree at every token: rms of the difference over that of the right.

    In half precision two ways round apart: by .09 at most in SmolLM2-135M, where an adapter that is dropped changes the
    logits by .28 and more (docs/log.md).
    """
    part = 1e-3 if torch.finfo(right.dtype).bits >= 32 else 0.15
    logits, right = logits.float(), right.float()
    spread = right - right.mean(-1, keepdim=True)
    return bool(((logits - right).norm(dim=-1) <= part * spread.norm(dim=-1)).all())
