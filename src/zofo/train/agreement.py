"""What all ranks of a run must agree on: what they begin with, and from time to time what they hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zofo.config.json_text import dumps
from zofo.errors import InputError, RunError
from zofo.zo.dtensors import here, is_part
from zofo.zo.ranks import Ranks
from zofo.zo.shards import WHOLE, Shards

if TYPE_CHECKING:
    from zofo.train.setup import Session

WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def same_start(ranks: Ranks, facts: Mapping[str, Any]) -> None:
    """Raises InputError, on all of them, naming the ranks that start with other facts than the rest. facts: the run's
    settings, digests of its inputs, versions: whatever JSON knows."""
    if ranks.alone:
        return
    told = [json.loads(each) for each in ranks.told(dumps(flat(facts), sort_keys=True))]
    for key in sorted({key for each in told for key in each}):
        values = [each.get(key) for each in told]
        if len({dumps(value) for value in values}) > 1:
            raise InputError(f"the ranks start with different {key}: {_apart(values)}; give all of them the same")


def same_state(session: Session, step: int) -> None:
    """Raises RunError, on all ranks, naming a tensor whose bits are not the same on all of them, and which differ."""
    ranks = session.ranks
    if ranks.alone:
        return
    tensors, theta = held(session), session.problem.theta
    table = ranks.table([checksum(tensor) for tensor in tensors.values()])
    for number, name in enumerate(tensors):
        every = 1 if name not in theta or theta.addresses[name].window is None else ranks.shard
        for first in range(every):  # the ranks that hold the same part of it
            values = {rank: table[rank][number] for rank in range(first, ranks.size, every)}
            if len(set(values.values())) == 1:
                continue
            raise RunError(
                f"step {step}: {odd(values)} in {name}: a computation or the memory of a machine is at fault, or its "
                f"software is another; nothing was saved; go on from the last checkpoint with train.resume=latest"
            )


def held(session: Session) -> dict[str, Tensor]:
    """What moves in training and is the same on all ranks: theta, the adapters, and the moments of their steps."""
    problem, method = session.problem, session.method
    tensors = dict(problem.theta) if method.moves != "nothing" else {}
    if problem.adapters is not None:
        for name in method.adapters_used:
            tensors |= {f"{name}, {key}": value for key, value in problem.adapters.parameters(name).items()}
    for name, descent in method.optimizers().items():
        for key, state in descent.state_dict().items():
            tensors |= {f"{name}'s {what} of {key}": value for what, value in state.items()}
    return tensors


def same_records(ranks: Ranks, crc: int, step: int, flag: int) -> int:
    """The highest flag of all ranks. Raises RunError, on all, where the checksums of their updates are not the same."""
    table = ranks.table([crc, flag])
    if len({row[0] for row in table}) > 1:
        which = odd(dict(enumerate(row[0] for row in table)))
        raise RunError(f"step {step}: {which} in the updates of theta; nothing was saved")
    return max(row[1] for row in table)


def checksum(tensor: Tensor) -> int:
    """The sum of a tensor's words, modulo 2 ** 64: any one bit that flips changes it, at the speed of the memory."""
    flat = tensor.detach().contiguous().view(-1)
    return int(flat.view(WORDS[flat.element_size()]).sum(dtype=torch.int64))


def sum_of(model: torch.nn.Module, shards: Shards = WHOLE) -> int:
    """The checksum of all weights of a model that are plain tensors, or parts of one, of which others have the rest."""
    whole = sum(checksum(param) for param in model.parameters() if type(param) is torch.nn.Parameter)
    parts = sum(checksum(here(param)) for param in model.parameters() if is_part(param)) % 2**32
    return whole + shards.added([parts])[0]


def flat(facts: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """{"inputs.examples.train": value}"""
    out: dict[str, Any] = {}
    for key, value in facts.items():
        out |= flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return out


def odd(values: Mapping[int, Any]) -> str:
    """`rank 2 differs from the others`; of two nobody knows which is right. values: by rank."""
    usual, count = Counter(values.values()).most_common(1)[0]
    if 2 * count > len(values):
        ranks = [str(rank) for rank, value in values.items() if value != usual]
        one = len(ranks) == 1
        return f"rank{'s' * (not one)} {' and '.join(ranks)} differ{'s' * one} from the others"
    return f"ranks {' and '.join(map(str, values))} differ" if len(values) == 2 else "the ranks differ among each other"


def _apart(values: Sequence[Any]) -> str:
    groups: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        groups.setdefault(dumps(value), []).append(rank)
    return "; ".join(
        f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}: {text[:80]}" for text, ranks in groups.items()
    )
