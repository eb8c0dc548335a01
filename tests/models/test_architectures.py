"""Families beside Llama and OPT: what fits runs, exports and replays; what does not is refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from torch.nn import functional as F

from tests.family_runs import (
    WINDOW,
    Directories,
    adapted,
    adapter_for,
    check_export,
    check_run,
    load_family,
    save_rows,
    short_run,
)
from tests.tiny_models import FAMILIES, IDS, build, replaced
from tests.tiny_models import logits as plain_logits
from zofo import InputError, evaluate
from zofo import load as load_run
from zofo.config import registry
from zofo.data import Example
from zofo.data.batch import collate
from zofo.data.tokenization import Encoded, Row
from zofo.models.label_head import LabelHead
from zofo.zo.direction import Direction
from zofo.zo.point import Point

CACHED = [family for family in FAMILIES if family != "mamba"]
EPS, Z = 2e-2, Direction(0xFEDCBA9876543210)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_rows(tmp_path_factory.mktemp("rows"))


# ----------------------------------------------------------------------------------------------------- runs, end to end


@pytest.mark.parametrize("family", FAMILIES)
def test_bilevel_zofo_with_lora(family: str, family_dir: Directories, rows: Path, tmp_path: Path) -> None:
    run, watch = short_run(family_dir(family), rows, tmp_path / "run", adapter=adapter_for(family, "lora"))
    check_run(run, watch)
    check_export(run, tmp_path / "export")


OTHERS = [("gpt2", "ia3"), ("gemma2", "prefix"), ("mistral", "prefix"), ("mamba", "prompt")]
OTHERS += [("qwen2", name) for name in registry.names("adapters") if name not in ("lora", "ia3", "prefix", "prompt")]


@pytest.mark.parametrize(("family", "adapter"), OTHERS)
def test_bilevel_zofo_with_another_adapter(
    family: str, adapter: str, family_dir: Directories, rows: Path, tmp_path: Path
) -> None:
    run, watch = short_run(family_dir(family), rows, tmp_path / "run", adapter=adapter_for(family, adapter))
    check_run(run, watch)
    check_export(run, tmp_path / "export")


def test_mezo_trains_a_mamba(family_dir: Directories, rows: Path, tmp_path: Path) -> None:
    """Its loss on the training data falls, and the journal replays to the trained weights, conv1d's among them."""
    settings: dict[str, Any] = {"overrides": ["task.objective=lm"]}
    before, _ = short_run(family_dir("mamba"), rows, tmp_path / "before", "zero-shot", **settings)
    run, watch = short_run(family_dir("mamba"), rows, tmp_path / "run", "mezo", steps=60, lr=1e-3, **settings)
    losses = [evaluate(one.path, split="train")["loss"] for one in (before, run)]
    assert losses[1] < 0.95 * losses[0]
    trained, start = Point(load_run(run.path)[0]).sha256(), Point(load_family(family_dir("mamba"))).sha256()
    assert set(trained.values()) <= watch.final
    assert all(trained[name] != start[name] for name in trained)


# ------------------------------------------------------------------------------------------------ what an adapter moves

ATTENTION = {"opt": "model.decoder.layers.{}.self_attn", "gpt2": "transformer.h.{}.attn"}
FEEDFORWARD = {"opt": "model.decoder.layers.{}.fc2", "gpt2": "transformer.h.{}.mlp.c_proj"}
KEY_VALUE = {"gpt2": ["c_attn"], "mixtral": ["k_proj", "v_proj"]}


def paths(model: Any) -> dict[str, Any]:
    """{path in the unwrapped model: layer} of what PEFT adapted."""
    named = model.named_modules()
    return {path.removeprefix("base_model.model."): m for path, m in named if isinstance(m, BaseTunerLayer)}


@pytest.mark.parametrize("family", CACHED)
def test_lora_adapts_queries_and_values_and_nothing_else(family: str, tiny_tokenizer: Any) -> None:
    adapters = adapted("lora", build(family), tiny_tokenizer)
    attention = ATTENTION.get(family, "model.layers.{}.self_attn")
    names = ["c_attn"] if family == "gpt2" else ["q_proj", "v_proj"]
    assert set(paths(adapters.model)) == {f"{attention.format(i)}.{name}" for i in (0, 1) for name in names}
    assert all(layer.fan_in_fan_out == (family == "gpt2") for layer in paths(adapters.model).values())


@pytest.mark.parametrize("family", CACHED)
def test_ia3_scales_keys_values_and_the_feed_forward(family: str, tiny_tokenizer: Any) -> None:
    """Not the queries, which PEFT's own table has for OPT, Qwen2 and Gemma2."""
    settings = {k: v for k, v in (adapter_for(family, "ia3") or {}).items() if k != "name"}
    layers = paths(adapted("ia3", build(family), tiny_tokenizer, **settings).model)
    attention = ATTENTION.get(family, "model.layers.{}.self_attn")
    outputs = {f"{attention.format(i)}.{n}" for i in (0, 1) for n in KEY_VALUE.get(family, ["k_proj", "v_proj"])}
    inputs = {FEEDFORWARD.get(family, "model.layers.{}.mlp.down_proj").format(i) for i in (0, 1)}
    inputs = set() if family == "mixtral" else inputs
    assert set(layers) == outputs | inputs
    assert {path for path, layer in layers.items() if layer.is_feedforward} == inputs


@pytest.mark.parametrize("name", ["lora", "ia3"])
@pytest.mark.parametrize("family", FAMILIES)
def test_merging_changes_no_logits(family: str, name: str, tiny_tokenizer: Any) -> None:
    """Transposed weights (GPT-2's Conv1D) merge transposed, biases with them."""
    settings = {k: v for k, v in (adapter_for(family, name) or {}).items() if k != "name"}
    model = build(family)
    if family != "mixtral":  # its experts' kernel has no float64
        model.double()
    base = plain_logits(model)
    adapters = adapted(name, model, tiny_tokenizer, **settings)
    unmerged = plain_logits(adapters.deployable("p"))
    assert (unmerged - base).abs().max() > 1e-3
    torch.testing.assert_close(plain_logits(adapters.model.merge_and_unload()), unmerged, rtol=1e-5, atol=1e-6)


def test_lora_on_gpt2s_fused_matrix_by_hand(tiny_tokenizer: Any) -> None:
    """Conv1D computes x W + b with W [in, out]; LoRA adds (alpha / r) B A x to all of queries, keys and values."""
    adapters = adapted("lora", build("gpt2").double(), tiny_tokenizer, r=4, alpha=12)
    layer = paths(adapters.model)["transformer.h.1.attn.c_attn"]
    x = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    base, a, b = layer.base_layer, layer.lora_A["p"].weight.double(), layer.lora_B["p"].weight.double()
    assert base.weight.shape == (32, 96)
    assert (a.shape, b.shape) == ((4, 32), (96, 4))
    with torch.no_grad():
        expected = x @ base.weight + base.bias + 3 * x @ a.T @ b.T
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)


# ----------------------------------------------------------------------------------------------- soft prompts, prefixes


def padded() -> tuple[Tensor, Tensor]:
    """Two texts, longer than the sliding window, the second one padded on the right."""
    ids = torch.randint(5, 90, (2, 30), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 20:] = 0
    return ids, mask


SOFT = [(family, name) for family in FAMILIES for name in ("prompt", "prefix") if adapter_for(family, name)]


@pytest.mark.parametrize(("family", "name"), SOFT)
def test_a_soft_prompt_at_its_start_is_its_text(
    family: str, name: str, family_dir: Directories, tiny_tokenizer: Any
) -> None:
    """Embeddings, or keys and values, of real tokens: as if those tokens stood before each text, windows included."""
    model = load_family(family_dir(family))
    adapters = adapted(name, model, tiny_tokenizer, noise=0.0, tokens=6)
    ids, mask = padded()
    module = registry.load("adapters", name)
    words = tiny_tokenizer(module.Config().text, add_special_tokens=False)["input_ids"][:6]
    whole = torch.cat([torch.tensor([words, words]), ids], dim=1)
    with torch.no_grad():
        expected = model(input_ids=whole).logits[:, 6:]
        output = adapters.model(input_ids=ids, attention_mask=mask).logits[:, -30:]
    for row, n in enumerate(mask.sum(1).tolist()):
        torch.testing.assert_close(output[row, :n], expected[row, :n], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("family", "name"), SOFT)
def test_a_soft_prompt_computes_what_peft_does(
    family: str, name: str, family_dir: Directories, tiny_tokenizer: Any
) -> None:
    adapters = adapted(name, load_family(family_dir(family)), tiny_tokenizer)
    ids, mask = padded()
    with torch.no_grad():
        ours = adapters.model(input_ids=ids, attention_mask=mask).logits[:, -30:]
        theirs = adapters.deployable("p")(input_ids=ids, attention_mask=mask).logits[:, -30:]
    for row, n in enumerate(mask.sum(1).tolist()):
        torch.testing.assert_close(ours[row, :n], theirs[row, :n], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["gemma2", "mistral"])
def test_the_gradient_of_a_prefix_through_sliding_windows(
    family: str, family_dir: Directories, tiny_tokenizer: Any
) -> None:
    """Against a central difference along the gradient; the norms compute in float32 whatever the dtype."""
    adapters = adapted("prefix", load_family(family_dir(family)).double(), tiny_tokenizer)
    (prefix,) = adapters.parameters("p").values()
    prefix.data = prefix.data.double()
    ids, mask = padded()

    def loss() -> Tensor:
        logits = adapters.model(input_ids=ids, attention_mask=mask).logits
        return F.cross_entropy(logits[:, -30:-1].flatten(0, 1), ids[:, 1:].flatten())

    (gradient,) = torch.autograd.grad(loss(), prefix)
    unit, h = gradient / gradient.norm(), 3e-2
    with torch.no_grad():
        sides = []
        for sign in (1, -1):
            prefix.add_(sign * h * unit)
            sides.append(float(loss()))
            prefix.sub_(sign * h * unit)
    assert (sides[0] - sides[1]) / (2 * h) == pytest.approx(float(gradient.norm()), rel=5e-3)


@pytest.mark.parametrize("family", ["gemma2", "mistral"])
def test_a_prefix_longer_than_the_window_is_refused(family: str, family_dir: Directories, tiny_tokenizer: Any) -> None:
    """A layer that sees W tokens keeps W - 1 in its cache."""
    model = load_family(family_dir(family))
    adapted("prefix", model, tiny_tokenizer, tokens=WINDOW - 1)
    with pytest.raises(InputError, match=rf"prefix of {WINDOW} tokens does not fit.*window.*at most {WINDOW - 1}"):
        adapted("prefix", model, tiny_tokenizer, tokens=WINDOW)


# ------------------------------------------------------------------------------------------- dropout, routers, softcaps


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_a_configs_dropout_is_never_applied(family: str, family_dir: Directories, rows: Path, tmp_path: Path) -> None:
    """SPEC 3.12: half of everything dropped gives the run without dropout, number for number."""
    names = {"gpt2": ("resid_pdrop", "embd_pdrop", "attn_pdrop"), "opt": ("dropout", "attention_dropout")}[family]
    results = []
    for rate in (0.0, 0.5):
        directory = family_dir(family, **dict.fromkeys(names, rate))
        run, _ = short_run(directory, rows, tmp_path / str(rate), adapter={"name": "lora"})
        results.append((run.info["dev"], run.info["test"], run.info["base_sha256"]))
    assert results[0] == results[1]


@pytest.mark.parametrize("adapter", ["lora", "prefix"])
def test_a_routers_auxiliary_loss_stays_out(adapter: str, family_dir: Directories, rows: Path, tmp_path: Path) -> None:
    results = []
    for on in (False, True):
        directory = family_dir("mixtral", output_router_logits=on, router_aux_loss_coef=10.0)
        run, _ = short_run(directory, rows, tmp_path / str(on), adapter={"name": adapter})
        results.append((run.info["dev"], run.info["test"], run.info["base_sha256"]))
    assert results[0] == results[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_at_labels_alone_are_those_of_the_whole_forward(family: str) -> None:
    """Softcaps and scales behind the head stay."""
    model = build(family)
    model.get_output_embeddings().weight.data.mul_(30)  # so that Gemma2's cap of 30 bends
    labels = ((0, 7, 0), (3, 60, 0), (8, 99, 1))
    encoded = Encoded(Example("x", "", ("", ""), (0,)), (Row(tuple(IDS[0].tolist()), labels),), (0,), 2)
    with torch.no_grad():
        logprobs = LabelHead(model).logprobs(model, collate([encoded], 2))
        whole = torch.log_softmax(plain_logits(model, IDS[:1])[0].float(), dim=-1)
    torch.testing.assert_close(logprobs, torch.stack([whole[t, y] for t, y, _ in labels]), rtol=1e-5, atol=1e-5)


# ----------------------------------------------------------------------------------------------- weights read elsewhere


def test_a_mambas_weights_are_shifted_however_they_are_read() -> None:
    """Whether its module's forward is called or another function reads the weight: that hangs on the version."""
    model = build("mamba")
    name, other = "backbone.layers.0.mixer.conv1d.weight", "backbone.layers.1.mixer.dt_proj.weight"
    plain = plain_logits(model)
    for only in ({name}, {other}):
        point = Point(model, names=only)
        assert point.audit(lambda: plain_logits(model)) == set()
        moved = replaced(model, Z, EPS)
        with torch.no_grad():
            for key, param in moved.named_parameters():
                if key not in only:
                    param.copy_(model.get_parameter(key))
        with point.shifted(Z, EPS):
            shifted = plain_logits(model)
        assert torch.equal(shifted, plain_logits(moved))
        assert not torch.equal(shifted, plain)
