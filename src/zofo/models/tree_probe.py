"""Whether a model computes the same from packed rows (`data.option_tree`): tried on some of the examples at hand."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zofo.data.batch import Batch, collate
from zofo.data.option_tree import option_trees
from zofo.data.tokenization import Encoded, Row
from zofo.errors import out_of_memory
from zofo.models._transformers import unwrapped, window
from zofo.models.scorer import Scorer

log = logging.getLogger("zofo")

TRIALS = {True: (2, 2), False: (8, 4)}  # the shortest and the longest examples that are tried; False: in half precision
PREFIX, BRANCH, BRANCHES = 64, 16, 4  # the most tokens, and branches, of the rows through which gradients are taken


def share_prompts(
    scorer: Scorer, encoded: Mapping[str, Sequence[Encoded]], limit: int | None, agreed: Callable[[bool], bool] = bool
) -> dict[str, list[Encoded]]:
    """The examples of each split, packed where that saves tokens and the model computes the same from packed rows.

    limit: see `option_trees`. agreed: whether all ranks found what this one did. The meter is not moved.
    """
    plain = {name: list(examples) for name, examples in encoded.items()}
    packed = {name: option_trees(examples, limit) for name, examples in plain.items()}
    pairs = [pair for name in plain for pair in zip(plain[name], packed[name])]
    changed = sum(after is not before for before, after in pairs)
    reason = probe(scorer, pairs) if changed else ""
    all_agree = agreed(not reason)  # asked by all, whose rows may be others
    if not changed:
        return plain
    if not all_agree:
        log.info("a prompt is computed anew for each of its options: %s", reason or "so another rank found")
        return plain
    before, after = (sum(len(row.ids) for pair in pairs for row in pair[i].rows) for i in (0, 1))
    log.info(
        "a prompt is computed once for all its options: %d of %d examples, %.0f %% fewer tokens in all",
        changed,
        len(pairs),
        100 * (1 - after / before),
    )
    return packed


class Sharing:
    """`share_prompts` for one set of examples after another: the model is tried on the first that gains from it."""

    def __init__(self, scorer: Scorer, limit: int | None, agreed: Callable[[bool], bool] = bool) -> None:
        self.scorer, self.limit, self.agreed = scorer, limit, agreed
        self._reason: str | None = None  # why not; None: not tried yet
        self._reach = window(unwrapped(scorer.model).config) - getattr(scorer.model, "virtual", 0)

    def __call__(self, examples: Sequence[Encoded]) -> list[Encoded]:
        plain, packed = list(examples), option_trees(examples, self.limit)
        if self._reason or all(after is before for before, after in zip(plain, packed)):
            return plain
        if max(max(e.length for e in packed), max(e.length for e in plain)) > self._reach:
            return plain
        if self._reason is None:
            self._reason = probe(self.scorer, list(zip(plain, packed)))
            if not self.agreed(not self._reason):
                self._reason = self._reason or "so another rank found"
        return plain if self._reason else packed


@torch.no_grad()
def probe(scorer: Scorer, pairs: Sequence[tuple[Encoded, Encoded]]) -> str:
    """Why the model must not be given packed rows; "" where it computes the same from them as from plain ones.

    pairs: (plain, packed) of each example; at least one is packed. The shortest are tried, and the longest: that no
    branch hears of another one, by exact gradients, which no rounding blurs (`_apart`); and that the labels'
    log-probabilities, and the prompt's influence on them, are those of plain rows (`_same`, `_influence`). What turns a
    batch's bool mask into one the model adds stays on the model, if it takes packed rows.
    """
    model: Any = scorer.model
    base = unwrapped(model)
    if any(config.is_prompt_learning for config in getattr(model, "peft_config", {}).values()):
        return "PEFT's soft prompts drop the positions"
    # A mask [R, 1, L, L] stands for a layer's own window too, so all rows that may share a batch must lie in it.
    longest = max(e.length for pair in pairs for e in pair) + getattr(model, "virtual", 0)
    if longest > (reach := window(base.config)):
        return f"rows of {longest} tokens are longer than the window of {reach} that a layer of the model sees"
    changed = sorted((pair for pair in pairs if pair[0] is not pair[1]), key=lambda pair: pair[1].length)
    exact = torch.finfo(base.dtype).bits >= 32
    short, long = TRIALS[exact]
    handle = base.register_forward_pre_hook(_additive, with_kwargs=True)
    try:
        reason = ""
        trials = [_short(tree) for _, tree in {id(pair): pair for pair in (changed[0], changed[-1])}.values()]
        if not all(_same(scorer, *zip(*tried), exact=exact) for tried in (changed[:short], changed[-long:])):
            reason = f"{type(base).__name__} gives other log-probabilities that way"
        elif not all(_apart(scorer, packed) for _, packed in trials):
            reason = f"{type(base).__name__} lets a branch hear of another one (a convolution, a recurrent state)"
        elif not all(_influence(scorer, plain, packed, 1e-2 if exact else 0.3) for plain, packed in trials):
            reason = f"{type(base).__name__} has other gradients that way"
    except Exception as error:  # whatever a model's code says to a mask and positions it does not know
        if out_of_memory(error):
            raise
        reason = (
            f"{type(base).__name__} does not take such rows ({(str(error).strip() or repr(error)).splitlines()[0]})"
        )
    if reason:
        handle.remove()
    return reason


def _additive(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """A bool mask [R, 1, L, L] as 0 and the dtype's minimum: eager attention adds its mask, and would add a bool as 1.

    Fused attention takes both, and would make this of a bool in each layer anew.
    """
    mask = kwargs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 4 or mask.dtype != torch.bool:
        return None
    zeros = torch.zeros(mask.shape, dtype=module.dtype, device=mask.device)
    return args, {**kwargs, "attention_mask": zeros.masked_fill_(~mask, torch.finfo(module.dtype).min)}


@dataclass(frozen=True)
class _Wrong(Batch):
    """A packed batch that the model is called with as if one of its two peculiarities were not there."""

    without: str = ""

    def inputs(self) -> dict[str, Tensor]:
        plain = {
            "attention_mask": self.attention_mask.bool()[:, None, None]
            .expand(-1, -1, self.input_ids.shape[1], -1)
            .tril(),
            "position_ids": torch.arange(self.input_ids.shape[1], device=self.input_ids.device)[None]
            * self.attention_mask,
        }
        return {**super().inputs(), self.without: plain[self.without]}


def _short(packed: Encoded) -> tuple[Encoded, Encoded]:
    """(plain, packed) rows made of an option tree: its first branches behind the end of its prefix, and no longer than
    a gradient can be afforded for, whatever the model. Each label is an option of its own, in one order for both."""
    row = next(row for row in packed.rows if row.branches)
    ends = (*row.branches[1:], len(row.ids))
    spans = [range(i, min(j, i + BRANCH)) for i, j in zip(row.branches, ends)][:BRANCHES]
    prefix = range(max(0, row.branches[0] - PREFIX), row.branches[0])
    tree, rows = Row((), (), ()), list[Row]()
    for span in spans:
        labels = [(t, token) for t, token, _ in row.labels if t in span or (t in prefix and not rows)]
        numbers = range(len(tree.labels), len(tree.labels) + len(labels))
        moved = len(tree.ids) - len(prefix) if rows else 0
        here = [(t - prefix.start if t in prefix else len(prefix) + t - span.start, token) for t, token in labels]
        ids = tuple(row.ids[t] for t in span)
        start = tuple(row.ids[t] for t in prefix)
        rows.append(Row((*start, *ids), tuple((t, token, n) for (t, token), n in zip(here, numbers))))
        again = tuple((t if t < len(prefix) else t + moved, token, n) for (t, token), n in zip(here, numbers))
        begun = tree.ids or start
        tree = Row((*begun, *ids), (*tree.labels, *again), (*tree.branches, len(begun)))
    count = len(tree.labels)
    return Encoded(packed.example, tuple(rows), (0,), count), Encoded(packed.example, (tree,), (0,), count)


def _gradients(scorer: Scorer, batch: Batch, of: Tensor, scale: float = 1.0) -> list[Tensor]:
    """[R, L, D] for each embedding of the batch's tokens: the gradient of scale times the sum of some labels'
    log-probabilities, each with a factor of its own. of: bool [N], which labels.

    Raises RuntimeError for a model whose embeddings cannot be watched.
    """
    embedded: list[Tensor] = []

    def watch(module: Any, args: Any, out: Tensor) -> Tensor:
        embedded.append(out.detach().requires_grad_())
        return embedded[-1].clone()  # some models scale it in place

    handle = unwrapped(scorer.model).get_input_embeddings().register_forward_hook(watch)
    try:
        with torch.enable_grad():
            logp = scorer.logprobs(batch)
            watched = [each for each in embedded if each.shape[:2] == batch.input_ids.shape]
            if not watched:
                raise RuntimeError("its tokens are not embedded by its input embeddings")
            factors = scale * torch.linspace(1, 2, len(logp), device=logp.device) * of.to(logp.device)
            return list(torch.autograd.grad((logp * factors).sum(), watched, materialize_grads=True))
    finally:
        handle.remove()


def _apart(scorer: Scorer, packed: Encoded) -> bool:
    """Whether the last branch of a row does not depend on the branches before it.

    Behind a mask that is kept, the gradient of the last branch's log-probabilities by the embeddings of the others is 0
    and nothing else, in every dtype: attention multiplies it by a probability of exactly 0. Behind a convolution or a
    recurrent state it is not, however little the log-probabilities of this model show of it. A forward that does not
    depend on the other branches has the right gradients by its weights, too.
    """
    batch = collate([packed], scorer.pad_id)
    assert batch.segments is not None
    last = int(batch.segments.max())
    others = ((batch.segments > 0) & (batch.segments < last)).to(scorer.device)
    in_last = batch.segments.flatten()[batch.positions] == last
    gradients = _gradients(scorer, batch, in_last)
    if not all(bool((each[others] == 0).all()) for each in gradients):
        return False
    if gradients[0].dtype != torch.float16:
        return True
    most = max(float(each.abs().max()) for each in gradients)  # what fp16 took for 0 shows, scaled up
    scaled = _gradients(scorer, batch, in_last, 2**6 / most if most else 1.0)
    overflown = not all(bool(torch.isfinite(each).all()) for each in scaled)
    return overflown or all(bool((each[others] == 0).all()) for each in scaled)


def _influence(scorer: Scorer, plain: Encoded, packed: Encoded, part: float) -> bool:
    """Whether a token of the prompt means as much to the labels in packed rows as in plain ones, but for `part` of it.

    That is the gradient by its embedding, summed over the plain rows. It has no part but through the layers that mix
    tokens, since the prompt's last token, which predicts, is left out; so it shows what their weights are small for.
    """
    (row,) = packed.rows
    size, every = row.branches[0] - 1, torch.ones(packed.n_options)
    ours, right = (_gradients(scorer, collate([e], scorer.pad_id), every) for e in (packed, plain))
    pairs = [(a[:, :size].sum(0), b[:, :size].sum(0)) for a, b in zip(ours, right, strict=True)]
    return all(bool((a - b).norm() <= part * b.norm()) for a, b in pairs)


def _same(scorer: Scorer, plain: Sequence[Encoded], packed: Sequence[Encoded], exact: bool) -> bool:
    """Whether the labels' log-probabilities agree.

    The error is held against what this model shows without the tree's mask, and without its positions, where these
    matter: of SmolLM2-135M in bfloat16, over four examples or more, it is 0 to 7 % of either; over one, up to 52 %.
    exact: to a fixed precision, too; in half precision rounding may be larger than what a wrong model would show.
    """

    def logprobs(batch: Batch) -> Tensor:
        return scorer.logprobs(batch)

    batch = collate(packed, scorer.pad_id)
    right, ours = logprobs(collate(plain, scorer.pad_id)), logprobs(batch)
    if exact and not torch.allclose(ours, right, rtol=1e-5, atol=1e-4):
        return False
    assert batch.segments is not None
    later = (batch.segments.flatten()[batch.positions] > 1).to(ours.device)  # a first branch is as in a plain row
    wrong = [logprobs(_Wrong(**vars(batch), without=name)) for name in ("attention_mask", "position_ids")]
    error, *wrongs = ((each - right)[later].norm() for each in (ours, *wrong))
    if exact:  # below a few roundings of a log-probability nothing is to be seen
        rounding = 4 * torch.finfo(torch.float32).eps * right[later].norm()
        return all(bool(error <= torch.maximum(rounding, each / 4)) for each in wrongs)
    return all(bool(error < each / 2) for each in wrongs)
