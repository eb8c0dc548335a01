"""theta + eps z without writing theta: the same bits as a model whose weights were really replaced, and no trace."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zofo.estimators import spsa
from zofo.rules import sgd
from zofo.session import replay
from zofo.zo import shift
from zofo.zo.direction import Direction
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.journal import Record
from zofo.zo.kernels import reference
from zofo.zo.keys import derive, tensor_key
from zofo.zo.point import Point, UnshiftableError

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
EPS, Z = 2e-2, Direction(0xFEDCBA9876543210)
VOCAB = 100
IDS = torch.randint(0, VOCAB, (3, 9), generator=torch.Generator().manual_seed(0))


def configs() -> dict[str, Any]:
    from transformers import Gemma2Config, GPT2Config, LlamaConfig, MambaConfig, MixtralConfig, OPTConfig

    common: Any = {
        "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
    }  # fmt: skip
    opt = {k: v for k, v in common.items() if k not in ("intermediate_size", "num_key_value_heads")}
    gpt2 = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return {
        "llama": LlamaConfig(**common, tie_word_embeddings=True),
        "llama-untied": LlamaConfig(**common, tie_word_embeddings=False, attention_bias=True),
        "opt": OPTConfig(**opt, ffn_dim=64, word_embed_proj_dim=32, dropout=0.0),  # biases, learned positions, tied
        "gpt2": GPT2Config(**gpt2, bos_token_id=0, eos_token_id=1),  # Conv1D: weights stored transposed
        "gemma2": Gemma2Config(**common, head_dim=8, query_pre_attn_scalar=8, sliding_window=4),  # 1 + gain, softcaps
        "mamba": MambaConfig(
            vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, state_size=4
        ),  # reads conv1d's weight
        "mixtral": MixtralConfig(**common, num_local_experts=4, num_experts_per_tok=2),  # stacked expert weights
    }


def build(family: str, dtype: torch.dtype = torch.float32) -> Any:
    from transformers import AutoModelForCausalLM

    config = configs()[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config)
        for name, param in model.named_parameters():  # no zero biases, no unit gains: every tensor must show
            if param.ndim == 1 and "A_log" not in name:
                param.data += 0.3 * torch.randn_like(param)
    return model.to(dtype).eval().requires_grad_(False)


@torch.no_grad()
def logits(model: Any, ids: Tensor = IDS) -> Tensor:
    return model(input_ids=ids, use_cache=False).logits


@torch.no_grad()
def replaced(model: nn.Module, z: Direction, scale: float, rounding: str = "stochastic") -> nn.Module:
    """A copy whose weights are round(theta + scale z), by the reference kernel, tied weights once."""
    model = copy.deepcopy(model)
    for name, param in model.named_parameters():
        flat = param.detach().contiguous().view(-1)
        terms, seed = [(z.seed, float32(scale))], z.rounding_seed if rounding == "stochastic" else None
        moved = torch.empty_like(flat)
        reference.add(moved, flat, terms, tensor_key(name), 0, seed)
        param.copy_(moved.view(param.shape))
    return model


def cases() -> Iterator[tuple[str, torch.dtype]]:
    for family in ("llama", "llama-untied", "opt", "gpt2", "gemma2", "mamba", "mixtral"):
        yield family, torch.float32
    for family in ("llama", "opt", "gpt2"):
        yield from ((family, dtype) for dtype in DTYPES[1:])


@pytest.mark.parametrize(("family", "dtype"), cases())
def test_logits_are_those_of_replaced_weights(family: str, dtype: torch.dtype) -> None:
    model = build(family, dtype)
    point = Point(model)
    before, plain = point.sha256(), logits(model)
    assert len(point) == len({id(p) for p in model.parameters()})
    assert point.audit(lambda: logits(model)) == set()  # every weight is read, and through its stand-in
    for scale in (EPS, -EPS):
        for rounding in ("stochastic", "nearest"):
            expected = logits(replaced(model, Z, scale, rounding))
            with point.shifted(Z, scale, rounding):
                found = logits(model)
            assert torch.equal(found, expected), (scale, rounding, float((found - expected).abs().max()))
            assert not torch.equal(found, plain)
    assert point.sha256() == before
    assert torch.equal(logits(model), plain)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_theta_is_bit_identical_after_an_estimate(dtype: torch.dtype) -> None:
    model = build("opt", dtype)
    point = Point(model)
    before, objects = point.sha256(), [id(p) for p in model.parameters()]
    estimate = spsa.Estimator(spsa.Config(eps=EPS))
    for step in range(3):
        g = estimate(lambda: float(logits(model).float().square().mean()), point, step, derive(0, "z", step))
        assert g.terms[0][0] != 0
    assert point.sha256() == before
    assert [id(p) for p in model.parameters()] == objects
    assert all(p.grad is None and not p.requires_grad for p in point.values())


def test_a_move_of_several_terms() -> None:
    """A ZOGrad shifts by scale * sum c_i z_i, the factors rounded to fp32 before they are added."""
    model = build("llama")
    point, terms = Point(model), ((0.7, Direction(1)), (-1.3, Direction(2)))
    with point.shifted(ZOGrad(terms, 0.0, 0), EPS):
        found = logits(model)
    expected = copy.deepcopy(model)
    with torch.no_grad():
        for name, param in expected.named_parameters():
            flat, factors = param.detach().view(-1), [(z.seed, float32(EPS * c)) for c, z in terms]
            reference.add(flat, flat, factors, tensor_key(name))
    assert torch.equal(found, logits(expected))


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_plus_and_minus_share_their_rounding_bits(dtype: torch.dtype) -> None:
    """With a move that is a whole number of units in the last place plus a part, both signs cut the same elements."""
    module = nn.ParameterDict({"w": nn.Parameter(torch.full((4096,), 1.5, dtype=dtype))})
    point, step = Point(module), torch.finfo(dtype).eps
    read = []
    for scale in (0.5 * step, -0.5 * step):
        with point.shifted(Z, scale):
            read.append((module["w"] * 1.0 - 1.5) / step)
    plus, minus = read
    z = reference.signs(Z.seed, tensor_key("w"), 0, 4096)
    up = (plus == 1) | (minus == 0) & (z < 0) | (plus == 0) & (z < 0)
    assert set(plus.tolist()) == {-1.0, 0.0, 1.0}
    assert torch.equal(plus - minus, z.to(dtype))  # one is cut exactly where the other is raised: no noise is left
    assert 0.4 < float(up.float().mean()) < 0.8


# --------------------------------------------------------------------------------------------- large weights, lookups


def test_large_linear_in_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slabs change which rows one matrix product computes, so only the last bits may differ."""
    model = build("opt")
    expected = logits(replaced(model, Z, EPS))
    point, sizes = Point(model), []
    slab = shift.Shifted.slab

    def counting(self: shift.Shifted, start: int, stop: int) -> Tensor:
        out = slab(self, start, stop)
        sizes.append(out.numel())
        whole = self.values()
        assert torch.equal(out, whole[start:stop])
        return out

    monkeypatch.setattr(shift, "SLAB", 300)
    monkeypatch.setattr(shift.Shifted, "slab", counting)
    with point.shifted(Z, EPS):
        found = logits(model)
    assert max(sizes) <= 300
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_an_embedding_shifts_only_the_rows_it_reads() -> None:
    table = nn.Embedding(50_000, 8)
    point = Point(table)
    ids = torch.tensor([[3, 49_999, 3], [0, 7, 7]])
    expected = replaced(table, Z, EPS)(ids)
    with point.shifted(Z, EPS):
        assert torch.equal(table(ids), expected)
    assert point.scratch_bytes < 50_000


class Reader(nn.Module):
    """Reads its weight by a function of the caller's choice."""

    def __init__(self, read: Callable[[Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.read = read
        self.weight = nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(2)))

    def forward(self) -> Tensor:
        return self.read(self.weight)


READERS = {
    "view": lambda w: w.view(-1) + 0,
    "transpose": lambda w: w.T @ torch.ones(6, 2),
    "slice": lambda w: w[1:3].sum(0),
    "to": lambda w: w.to(torch.float64).exp(),
    "float": lambda w: w.float() * 2,
    "data": lambda w: w.data * 2,
    "detach": lambda w: w.detach().clone(),
    "negate": lambda w: -w,
    "reflected": lambda w: 1 - w,
    "einsum": lambda w: torch.einsum("ij,ij->i", w, w),
    "cat": lambda w: torch.cat([w, w]),
    "twice": lambda w: torch.matmul(w, w.T),
    "both sides": lambda w: w + w,
    "keyword": lambda w: F.linear(torch.ones(2, 4), weight=w),
    "kept": lambda w: torch.stack([row.clone() for row in w.unbind(0)]),
    "in place on a copy": lambda w: w.clone().mul_(3),
    "unsqueezed conv": lambda w: F.conv1d(torch.ones(1, 6, 9), w.unsqueeze(1), groups=6),
    "expand": lambda w: w.expand(3, 6, 4).sum(0),
    "layer norm": lambda w: F.layer_norm(torch.arange(24.0).view(6, 4), (4,), w[0], w[1]),
    "numpy": lambda w: torch.from_numpy(w.cpu().numpy() * 2.0),
    "list": lambda w: torch.tensor(w.tolist()),
}


@pytest.mark.parametrize("name", READERS)
def test_any_way_of_reading_meets_the_shifted_weight(name: str) -> None:
    module = Reader(READERS[name], 6, 4)
    point = Point(module)
    with torch.no_grad():
        expected, plain = replaced(module, Z, EPS)(), module()
    with point.shifted(Z, EPS):
        found = module()
    assert torch.equal(found, expected)
    assert not torch.equal(found, plain)


def test_results_outlive_the_scratch() -> None:
    """Views that one call takes from a weight must not change when the next weight is made."""
    one, two = Reader(lambda w: w.view(4, 6), 6, 4), Reader(lambda w: w.mul(1.0), 6, 4)
    model = nn.ModuleList([one, two])
    point = Point(model)
    with point.shifted(Z, EPS):
        view = one()
        before = view.clone()
        two()
        assert torch.equal(view, before)


# -------------------------------------------------------------------------------------------------- refusals and ends


class Hoarder(nn.Module):
    """Keeps a second reference to one weight in a list, where no stand-in can reach it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.spare = [self.second.weight]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.first(x), self.spare[0], self.second.bias)


def test_a_weight_read_past_its_module_is_refused_by_name() -> None:
    point = Point(module := Hoarder())
    with pytest.raises(UnshiftableError, match=r"second\.weight") as error:
        point.audit(lambda: module(torch.ones(2, 4)))
    assert "first.weight" not in str(error.value)
    assert "bias" not in str(error.value)


def test_the_audit_names_what_is_never_read() -> None:
    module = nn.ModuleDict({"used": nn.Linear(3, 3), "idle": nn.Linear(3, 3)})
    assert Point(module).audit(lambda: module["used"](torch.ones(1, 3))) == {"idle.weight", "idle.bias"}


@pytest.mark.parametrize("mode", ["layer", "inplace"])
def test_an_exception_inside_restores_the_parameters(mode: str) -> None:
    model = build("llama")
    point, objects = Point(model, mode=mode), list(model.parameters())
    values = [p.clone() for p in objects]
    with pytest.raises(RuntimeError, match="stop"):
        with point.shifted(Z, EPS):
            raise RuntimeError("stop")
    assert all(a is b for a, b in zip(objects, model.parameters()))
    for param, value in zip(objects, values):
        torch.testing.assert_close(param.data, value, rtol=0, atol=0 if mode == "layer" else 1e-6)
    with point.shifted(Z, EPS):  # and theta can be shifted again
        pass


@pytest.mark.parametrize("mode", ["layer", "inplace"])
def test_nested_shifts_raise(mode: str) -> None:
    point = Point(build("llama"), mode=mode)
    with point.shifted(Z, EPS):
        with pytest.raises(RuntimeError, match="nested"):
            with point.shifted(Z, EPS):
                pass


def test_no_gradient_reaches_theta() -> None:
    module = nn.Linear(4, 4)
    point, x = Point(module), torch.ones(2, 4, requires_grad=True)
    with point.shifted(Z, EPS):
        assert not module(x).requires_grad
    module(x).sum().backward()
    assert x.grad is not None
    assert module.weight.grad is None


def test_unknown_mode() -> None:
    with pytest.raises(ValueError, match="layer, inplace"):
        Point(nn.Linear(2, 2), mode="copy")


# --------------------------------------------------------------------------------------------------- in place, drifts


@pytest.mark.parametrize("dtype", DTYPES)
def test_inplace_drifts_and_its_replay_drifts_alike(dtype: torch.dtype) -> None:
    """MeZO's arithmetic does not come back to theta; a journal replayed in the same mode makes the same drift."""
    config, rule_config = spsa.Config(eps=1e-3, shift="inplace"), sgd.Config()
    model, again, still = (build("llama", dtype) for _ in range(3))
    point, other, layer = Point(model, mode="inplace"), Point(again, mode="inplace"), Point(still)
    records = []
    estimate, rule = spsa.Estimator(config), sgd.Rule(rule_config, 5)
    before = point.sha256()
    for step in range(4):
        g = estimate(lambda: float(logits(model).float().square().mean()), point, step, derive(0, "z", step))
        if step == 1:
            assert point.sha256() != before
        rule.update_(point, g, 0.0 if step < 2 else 1e-3, step)
        records.append(Record(step, tuple((z.seed, c) for c, z in g.terms), 0.0 if step < 2 else 1e-3))
    replay(other, config, sgd.Rule(rule_config, 5), records)
    assert other.sha256() == point.sha256()
    replay(layer, spsa.Config(eps=1e-3), sgd.Rule(rule_config, 5), records)
    assert layer.sha256() != point.sha256()


def test_drift_in_bf16_is_far_larger_than_an_update() -> None:
    """SPEC section 6: plain bf16 arithmetic moves the weights by per cents where an update moves them by 1e-5."""
    module = nn.ParameterDict(
        {"w": nn.Parameter(torch.randn(20_000, generator=torch.Generator().manual_seed(0)) * 0.1)}
    )
    module.to(torch.bfloat16)
    point, start = Point(module, mode="inplace"), module["w"].detach().double()
    for step in range(25):
        with point.shifted(Direction(derive(0, "z", step)), 1e-3):
            pass
    drift = float((module["w"].detach().double() - start).square().mean().sqrt())
    assert drift > 10 * 1e-5
