"""All that zofo takes from the inside of transformers' and torch's sharding: a model that several processes hold.

transformers cuts the weights as it reads them: by the model's own plan for tensor parallelism, or into FSDP2's shards,
which a module gathers before it runs. What it did is looked at, not taken on trust: which tensors are cut and how,
whether ties are still ties after a forward, whether gathered weights are let go again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zofo.errors import InputError, RunError
from zofo.models import _transformers
from zofo.models.versions import named
from zofo.zo import dtensors
from zofo.zo._torch import own_parameters

if TYPE_CHECKING:
    from zofo.zo.ranks import Ranks

MARK = 7.0  # written where a shard is, to be found in what is gathered
AXES = ("pp", "dp_replicate", "fsdp", "tp")  # transformers' own, in its order


@dataclass(frozen=True)
class Sharding:
    """tensor, fsdp: processes that hold one model together, one of them 1. places: how many such groups there are."""

    tensor: int
    fsdp: int
    places: int

    @classmethod
    def of(cls, ranks: Ranks) -> Sharding | None:
        """None where each process holds a whole model."""
        grid = ranks.grid
        return None if ranks.shard == 1 else cls(grid.tensor, grid.fsdp, ranks.count("world"))

    @property
    def words(self) -> str:
        return f"parallel.tensor: {self.tensor}" if self.tensor > 1 else f"parallel.fsdp: {self.fsdp}"

    def check_heads(self, settings: Any) -> None:
        """Raises InputError where the model's heads cannot be dealt out."""
        text = settings.get_text_config() if hasattr(settings, "get_text_config") else settings
        for name in ("num_attention_heads", "num_key_value_heads"):
            count = getattr(text, name, None)
            if self.tensor > 1 and isinstance(count, int) and count % self.tensor:
                raise InputError(
                    f"{self.words} does not divide the model's {name}, {count}; take a divisor of it, or parallel.fsdp"
                )

    @contextmanager
    def reading(self, device: torch.device) -> Iterator[dict[str, Any]]:
        """What `from_pretrained` is given inside, so that each process reads its part. Raises RunError."""
        try:
            mixin: Any = _transformers.mixin
            before = mixin.initialize_distributed_mesh
            config = mixin.DistributedConfig(tp_size=self.tensor, fsdp_size=self.fsdp)
        except (AttributeError, TypeError) as error:
            raise RunError(f"{self.words}: {named('transformers')} shards otherwise; take a tested version") from error
        mixin.initialize_distributed_mesh = lambda _: (device, self._mesh(device))
        try:
            yield {"distributed_config": config}
        except InputError as error:
            if "_plan`" not in str(error):
                raise
            raise InputError(
                f"{self.words}: {named('transformers')} has no plan by which to cut this model; leave it at 1, or take "
                f"{'parallel.fsdp' if self.tensor > 1 else 'parallel.tensor'}"
            ) from error
        finally:
            mixin.initialize_distributed_mesh = before

    def _mesh(self, device: torch.device) -> Any:
        """transformers makes a mesh of all processes; ours is that of one place."""
        from torch.distributed.device_mesh import init_device_mesh

        shape = (self.places, 1, 1, self.fsdp, self.tensor)
        mesh = init_device_mesh(device.type, shape, mesh_dim_names=("places", *AXES))[AXES]
        return _transformers.TransformersDeviceMesh(mesh, mesh)

    def settle(self, name: str, model: Any) -> None:
        """After the weights are read. Raises InputError for a model that was not cut, or in another way than zofo can
        follow."""
        cut = {key for key, param in model.named_parameters() if dtensors.is_part(param)}
        if not cut:
            raise InputError(f"{self.words}: {named('transformers')} cuts no weight of {name}; leave it at 1")
        for key, param in model.named_parameters():
            try:
                dtensors.window(param)
            except NotImplementedError as error:
                raise InputError(f"{self.words}: {name}: {key} is {error}; leave it at 1") from error
        if self.fsdp > 1:
            model.set_reshard_after_forward(True)  # what stays gathered would be read as it was, after theta moved
            model.register_forward_pre_hook(_let_go, prepend=True)
        else:
            for module in model.modules():
                if isinstance(module, nn.Embedding) and dtensors.is_part(module.weight):
                    _look_up_locally(module)

    @torch.no_grad()
    def check(self, name: str, model: Any) -> None:
        """After the first forward, by which torch has settled where the shards are. Raises InputError naming tensors
        that were one and are no more, RunError where theta would be read from elsewhere than where it moves."""
        for module in dtensors.gathering(model):
            self._check_gathered(name, model, module)

    def _check_gathered(self, name: str, model: nn.Module, module: Any) -> None:
        """Tried: what is written into the parts is what the module gathers. All processes see the same."""
        module.unshard()
        keys = [key for key, param in _every(model) if not dtensors.is_part(param)]
        module.reshard()
        parts = {key: dtensors.here(param) for key, param in _every(model) if key in keys}
        if stays := [key for key, param in _every(model) if key in keys and not dtensors.is_part(param)]:
            raise RunError(f"{self.words}: {name}: {stays[0]} stays gathered; take a tested version of torch")
        kept = {key: part.clone() for key, part in parts.items()}
        try:
            for part in parts.values():
                part.fill_(MARK)
            module.unshard()
            odd = [key for key, param in _every(model) if key in keys and not bool((param == MARK).all())]
            module.reshard()
        finally:
            for key, part in parts.items():
                part.copy_(kept[key])
        for key in odd:
            if len(names := self._tied(model, key)) > 1:
                raise InputError(
                    f"{self.words}: {name}: {' and '.join(names)} are one tensor, and torch pads their shards apart: "
                    f"their rows are not even over {self.fsdp}; take a number that divides them, or parallel.tensor"
                )
            raise RunError(f"{self.words}: {name}: {key} is not gathered from where it moves; take a tested torch")

    def _tied(self, model: nn.Module, key: str) -> list[str]:
        own = dict(_every(model))[key]
        return [other for other, param in _every(model) if param is own]


def _every(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """By each of its names."""
    return model.named_parameters(remove_duplicate=False)


def _let_go(model: nn.Module, _: Any) -> None:
    """A forward that raised, as one may that is only tried, has left gathered weights behind: the next would read
    them."""
    for module in dtensors.gathering(model):
        module.reshard()  # pyright: ignore[reportCallIssue]


def refuse_adapters(ranks: Ranks, place: str) -> None:
    """Raises InputError where several processes would hold a model that has an adapter on it."""
    if (sharding := Sharding.of(ranks)) is not None:
        raise InputError(f"{sharding.words}: {place} has an adapter, and those are not sharded; leave it at 1")


def _look_up_locally(module: nn.Embedding) -> None:
    """Each process looks up the words that it has, and the sum of all is every word's vector.

    In place of transformers' own way, which asks a DTensor: a stand-in is none. The sum is exact, all but one are 0.
    """
    from torch.distributed.tensor import Shard

    weight: Any = module.weight
    mesh, (placement,) = weight.device_mesh, weight.placements
    if placement != Shard(0):
        raise RunError(f"an embedding is cut as {placement}, and not by its words; take a tested version")
    window, count = dtensors.window(weight), dtensors.here(weight).shape[0]
    first = window.lo // weight.shape[1] if window is not None else 0
    module.padding_idx = None  # of a gradient that there is none of

    def forward(ids: Tensor) -> Tensor:
        places = own_parameters(module)
        own = places["weight"]
        outside = (ids < first) | (ids >= first + count)
        whole = dtensors.is_part(own) if own is not None else False
        places["weight"] = nn.Parameter(dtensors.here(own), False) if whole else own  # pyright: ignore
        try:
            vectors = type(module).forward(module, (ids - first).masked_fill(outside, 0))
        finally:
            places["weight"] = own
        vectors = vectors.masked_fill(outside[..., None], 0)
        torch.distributed.all_reduce(vectors, group=mesh.get_group())
        return vectors

    module.forward = forward  # pyright: ignore[reportAttributeAccessIssue]
