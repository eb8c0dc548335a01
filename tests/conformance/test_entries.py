"""What every entry of a registry folder must keep. A new file is tested here the moment it exists."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from tests.thinned import latin
from tests.tiny_models import cpu_loss
from zofo import InputError, ZerothOrder
from zofo.api.optimizer import replay
from zofo.config import registry
from zofo.data import Example
from zofo.data.batch import collate
from zofo.data.tokenization import tokenize_all
from zofo.methods._problem import OnBatch
from zofo.zo.direction import Direction
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.laws import LAWS
from zofo.zo.point import MODES, Point

PYTHON_KINDS = ("methods", "adapters", "estimators", "masks", "rules")
WITHOUT_SETTINGS = [("objectives", name) for name in registry.names("objectives")]
ENTRIES = [(kind, name) for kind in PYTHON_KINDS for name in registry.names(kind)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def model(tiny_model_dir: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval().requires_grad_(False)


@pytest.fixture
def batch(tiny_tokenizer):
    examples = [Example(f"e{i}", "the film is" + " good" * i, (" great", " terrible one"), (i % 2,)) for i in range(4)]
    return collate(tokenize_all(tiny_tokenizer, examples, 64, "options", False), tiny_tokenizer.pad_token_id)


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_docs_and_fields(kind, name):
    module = registry.load(kind, name)
    lines = registry.docstring(kind, name).splitlines()
    assert 20 < len(lines[0]) <= 120
    for spec in dataclasses.fields(module.Config):
        assert spec.metadata.get("help"), f"{kind}/{name}: field {spec.name} has no help"
        assert spec.default is not dataclasses.MISSING or spec.default_factory is not dataclasses.MISSING
    assert module.Config.__dataclass_params__.frozen
    module.Config()


def test_entries_load_without_torch():
    script = (
        "import sys; from zofo.config import registry\n"
        f"[registry.load(kind, name) for kind, name in {[*ENTRIES, *WITHOUT_SETTINGS]}]\n"
        "print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", registry.names("methods"))
def test_a_method_declares_what_it_needs(name):
    module = registry.load("methods", name)
    cls = module.Method
    assert cls.needs | cls.optional <= {"adapter", "estimator", "mask", "rule"}
    assert cls.candidates
    method = cls(module.Config())
    assert method.lower_per_step >= 0
    assert method.upper_per_step >= 0
    assert set(method.deployable) <= set(method.candidates) <= {*method.adapters_used, "theta"}
    assert method.moves in ("nothing", "zo", "fo")
    assert (method.moves == "zo") == ({"estimator", "rule"} <= cls.needs)
    assert ("adapter" in cls.needs) == bool(method.adapters_used)
    assert sum(method.updates(7).values()) == 7 * method.per_step


def laws(module: Any) -> list[dict[str, str]]:
    """The settings of an estimator that give each law it knows."""
    known = any(field.name == "law" for field in dataclasses.fields(module.Config))
    return [{"law": law} for law in LAWS] if known else [{}]


ESTIMATORS = {name: laws(registry.load("estimators", name)) for name in registry.names("estimators")}
ESTIMATES = [
    *((name, settings, torch.float32, 1) for name, known in ESTIMATORS.items() for settings in known),
    *((name, {}, dtype, 3) for name, known in ESTIMATORS.items() if len(known) == 1 for dtype in DTYPES),
    *(
        pytest.param(*row.values[:3], 3, marks=row.marks)
        for row in latin([n for n, known in ESTIMATORS.items() if len(known) > 1], [{"law": n} for n in LAWS], DTYPES)
    ),
]


@pytest.mark.parametrize(("name", "settings", "dtype", "q"), ESTIMATES)
def test_an_estimator_leaves_theta_bit_identical(name, settings, dtype, q, model, batch):
    module = registry.load("estimators", name)

    least = next(field for field in dataclasses.fields(module.Config) if field.name == "q").metadata["ge"]
    config = module.Config(**settings, q=max(q, least))
    if config.problems():
        pytest.skip(config.problems()[0])

    def fresh():
        return module.Estimator(config, 7)

    model.to(dtype)
    theta, loss = Point(model), cpu_loss(model, "options")
    before, f, estimator = theta.sha256(), OnBatch(loss, repeat(batch)), fresh()
    g = estimator(f, theta, 3, 12345)
    assert theta.sha256() == before
    assert g.forwards == loss.meter.forwards
    assert all(c == float32(c) and math.isfinite(c) for c, _ in g.terms)
    assert any(c != 0 for c, _ in g.terms)
    assert len({z.seed for _, z in g.terms}) == len(g.terms) > 0
    assert all(z == estimator.direction(theta, 3, z.seed) for _, z in g.terms)
    assert fresh()(f, theta, 3, 12345).terms == g.terms
    assert fresh()(f, theta, 4, 54321).terms != g.terms
    assert all(p.grad is None for p in theta.values())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("mask", "rule"), [(None, "sgd"), ("random", "momentum"), ("magnitude", "adam")])
@pytest.mark.parametrize("name", registry.names("estimators"))
def test_an_estimators_journal_replays(name, mask, rule, mode, tmp_path):
    """Five steps in a loop of one's own, and again from the journal: also what mode inplace does to theta."""
    estimator = {"name": name, "q": 3, "shift": mode, "eps": 1e-2}

    def network() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(nn.Linear(40, 30), nn.Tanh(), nn.Linear(30, 1))

    model, x = network(), torch.linspace(-1, 1, 80).view(2, 40)
    of = registry.load("estimators", name).Config(shift=mode)
    if mode == "inplace" and (mask == "magnitude" or of.problems()):
        with pytest.raises(InputError, match="inplace"):
            ZerothOrder(model, 1e-2, estimator=estimator, rule=rule, mask=mask)
        return
    opt = ZerothOrder(model, 1e-2, estimator=estimator, rule=rule, mask=mask, journal=tmp_path / "j.bin")
    for k in range(5):
        opt.step(lambda k=k: model(x + k).square().sum(), lambda: lambda: model(x - 1).square().sum())
    again = network()
    assert replay(again, tmp_path / "j.bin") == 5
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters()))
    assert not all(torch.equal(a, b) for a, b in zip(model.parameters(), network().parameters()))


@pytest.mark.parametrize(("name", "law", "dtype"), latin(registry.names("rules"), list(LAWS), DTYPES))
def test_a_rule_replays_bit_for_bit_and_restores_its_state(name, law, dtype, tiny_model_dir):
    """Cut after three of six updates: a new rule with the saved state goes on exactly as the old one would have."""
    module = registry.load("rules", name)
    updates = [ZOGrad(((float32(3.0 * (-1) ** i + i), Direction(100 + i, law)),), 0.0, 2) for i in range(6)]

    def fresh() -> Point:
        return Point(AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=dtype))

    def objective(step: int):
        """For rules that compare: of the three values of a step another one is the lowest each time."""
        return iter([0.5 + (i == (step + 1) % 3) - 2 * (i == step % 3) for i in range(3)]).__next__

    whole, rule = fresh(), module.Rule(module.Config(), 7)
    outcomes = [rule.update_(whole, g, 1e-3, k, objective(k)) for k, g in enumerate(updates)]
    assert whole.sha256() != fresh().sha256()
    again, replayed = fresh(), module.Rule(module.Config(), 7)
    for k, (g, outcome) in enumerate(zip(updates, outcomes)):
        replayed.update_(again, g, 1e-3, k, outcome=outcome)
    assert again.sha256() == whole.sha256()
    cut, first = fresh(), module.Rule(module.Config(), 7)
    for k in range(3):
        first.update_(cut, updates[k], 1e-3, k, objective(k))
    second = module.Rule(module.Config(), 7)
    second.load_state_dict(first.state_dict())
    for k in range(3, 6):
        second.update_(cut, updates[k], 1e-3, k, objective(k))
    assert cut.sha256() == whole.sha256()
    assert first.bytes_per_weight >= 0


@pytest.mark.parametrize("name", registry.names("adapters"))
def test_an_adapter_set(name, model, batch, tiny_tokenizer, tmp_path):
    """p and s start equal; they are independent; rows mix; a copy, a save and a restore are exact."""
    module = registry.load("adapters", name)
    state = torch.get_rng_state()
    adapters = module.Adapter(module.Config()).build(model, ("p", "s"), 99, tiny_tokenizer)
    assert torch.equal(torch.get_rng_state(), state)
    p, s = adapters.state("p"), adapters.state("s")
    assert set(p) == set(s)
    assert all(torch.equal(p[key], s[key]) for key in p)
    assert adapters.size("p") == sum(v.numel() for v in p.values()) > 0
    loss = cpu_loss(model, "options", adapters)
    with adapters.active("s"):
        loss.backward(batch)
    assert any(q.grad is not None and q.grad.abs().sum() > 0 for q in adapters.parameters("s").values())
    assert all(q.grad is None for q in adapters.parameters("p").values())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for adapter in ("p", "s"):
            for q in adapters.parameters(adapter).values():
                q.add_(0.3 * torch.randn(q.shape, generator=generator))
    apart = [loss.each([(batch, adapter)])[0] for adapter in ("p", "s")]
    assert apart[0] != pytest.approx(apart[1], rel=1e-3)
    together = loss.each([(batch, "p"), (batch, "s"), (batch, "p")])
    assert together == pytest.approx([*apart, apart[0]], rel=1e-5)
    adapters.save("s", tmp_path / "one")
    adapters.save("s", tmp_path / "two")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    adapters.restore("p", tmp_path / "one")
    assert loss.each([(batch, "p")])[0] == apart[1]
    adapters.copy("p", "s")
    assert loss.each([(batch, "s")])[0] == apart[1]
    with pytest.raises(ValueError, match="other tensors"):
        adapters.load("p", {"wrong": torch.zeros(1)})
